package release

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

var tries atomic.Int64

// execCommand is an entry of ExecStartEx, a(sasas) in org.freedesktop.systemd1(5).
type execCommand struct {
	Path  string
	Args  []string
	Flags []string
}

// Try implements [System], as `systemd-run --wait -p DynamicUser=yes` would.
func (s *Systemd) Try(ctx context.Context, name, command string, env []string) error {
	unit := fmt.Sprintf("%s-%d-%d.service", name, os.Getpid(), tries.Add(1))
	limit := time.Minute
	if at, ok := ctx.Deadline(); ok {
		limit = max(time.Until(at), time.Millisecond)
	}
	set := func(name string, value any) sd.Property {
		return sd.Property{Name: name, Value: dbus.MakeVariant(value)}
	}
	props := []sd.Property{
		set("Description", "devbox health check"),
		set("Type", "oneshot"),
		set("DynamicUser", true),
		set("ProtectSystem", "strict"),
		set("ProtectHome", "yes"),
		set("PrivateDevices", true),
		set("NoNewPrivileges", true),
		set("CapabilityBoundingSet", uint64(0)),
		set("Environment", env),
		set("TimeoutStartUSec", uint64(limit.Microseconds())),
		set("TimeoutStopUSec", uint64(time.Second.Microseconds())),
		// sh is the one to expand what the command has of $.
		set("ExecStartEx", []execCommand{{"/bin/sh", []string{"/bin/sh", "-c", command}, []string{"no-env-expand"}}}),
	}
	ch := make(chan string, 1)
	if _, err := s.conn.StartTransientUnitContext(ctx, unit, "replace", props, ch); err != nil {
		return fmt.Errorf("run health command: %w", err)
	}
	// A failed unit stays until it is reset, so that its status can be read.
	clean := context.WithoutCancel(ctx)
	defer func() { _ = s.ResetFailed(clean, unit) }()
	select {
	case <-ctx.Done():
		_ = s.Kill(clean, unit)
		return fmt.Errorf("health command %q did not end", command)
	case result := <-ch:
		if result == "done" {
			return nil
		}
	}
	st, err := s.Unit(clean, unit)
	if err != nil {
		return err
	}
	log, err := s.Log(clean, unit, st.Invocation, logLines)
	if err != nil {
		return err
	}
	return &fault{cause: fmt.Sprintf("health command %q %s", command, ending(st)), log: log}
}
