package systemd

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready tells systemd that the app serves (Type=notify).
func Ready(status string) error {
	return notify(daemon.SdNotifyReady + "\nSTATUS=" + status)
}

// Stopping tells systemd that the app is on its way out.
func Stopping() error {
	return notify(daemon.SdNotifyStopping + "\nSTATUS=ending requests")
}

func notify(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// Watchdog tells systemd that the app is alive, twice per WatchdogSec=, as long as check succeeds. It returns when ctx
// ends, at once where no watchdog is asked for. What fails is given to report.
func Watchdog(ctx context.Context, check func(context.Context) error, report func(error)) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		report(fmt.Errorf("read watchdog settings: %w", err))
		return
	}
	if limit == 0 {
		return
	}
	tick := time.NewTicker(limit / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := alive(ctx, limit/4, check); err != nil && ctx.Err() == nil {
			report(err)
		}
	}
}

func alive(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := check(ctx); err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	return notify(daemon.SdNotifyWatchdog)
}
