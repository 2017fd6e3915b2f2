package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

var tries atomic.Int64

// shutdownTime is what an activation has to come to its end when the host is
// shut down. One that takes longer is undone at boot.
const shutdownTime = time.Minute

func property(name string, value any) sd.Property {
	return sd.Property{Name: name, Value: dbus.MakeVariant(value)}
}

// Shelter implements [System]: the process moves to a scope, away from those of
// sshd and the login session.
func (s *Systemd) Shelter(ctx context.Context, app string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	pid := os.Getpid()
	scope := fmt.Sprintf("devbox-%s-%d.scope", app, pid)
	props := []sd.Property{
		property("Description", "devbox-host, at work on "+app),
		property("PIDs", []uint32{uint32(pid)}),
		property("CollectMode", "inactive-or-failed"),
		property("TimeoutStopUSec", uint64(shutdownTime.Microseconds())),
	}
	ch := make(chan string, 1)
	if _, err := s.conn.StartTransientUnitContext(ctx, scope, "fail", props, ch); err != nil {
		return fmt.Errorf("start %s: %w", scope, err)
	}
	select {
	case result := <-ch:
		if result != "done" {
			return fmt.Errorf("start %s: %s", scope, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("start %s: %w", scope, ctx.Err())
	}
}

// execCommand is an entry of ExecStartEx, a(sasas) in org.freedesktop.systemd1(5).
type execCommand struct {
	Path  string
	Args  []string
	Flags []string
}

// Try implements [System], as `systemd-run --wait -p DynamicUser=yes` would.
func (s *Systemd) Try(ctx context.Context, name, command string, env []string) error {
	limit := time.Minute
	if at, ok := ctx.Deadline(); ok {
		limit = max(time.Until(at), time.Millisecond)
	}
	props := append(confined(limit),
		property("Description", "devbox health check"),
		property("DynamicUser", true),
		property("ProtectHome", "yes"),
		property("Environment", env),
		// sh is the one to expand what the command has of $.
		property("ExecStartEx", []execCommand{{"/bin/sh", []string{"/bin/sh", "-c", command}, []string{"no-env-expand"}}}),
	)
	return s.runUnit(ctx, transientName(name), fmt.Sprintf("health command %q", command), props)
}

// transientName begins with devbox-, and has this process in it, for Sweep.
func transientName(name string) string {
	return fmt.Sprintf("%s-%d-%d.service", name, os.Getpid(), tries.Add(1))
}

var transientNames = regexp.MustCompile(`^devbox-.*-(\d+)-\d+\.service$`)

// Sweep implements [System]. systemd would do this by itself for a client on the
// system bus (AddRef=), but has no such thing for one of its own socket.
func (s *Systemd) Sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	failed, err := s.conn.ListUnitsByPatternsContext(ctx, []string{"failed"}, []string{"devbox-*.service"})
	if err != nil {
		return fmt.Errorf("list what has failed: %w", err)
	}
	for _, unit := range failed {
		name := transientNames.FindStringSubmatch(unit.Name)
		if name == nil {
			continue
		}
		if _, err := os.Stat("/proc/" + name[1]); !errors.Is(err, fs.ErrNotExist) {
			continue // it may be about to read how that ended
		}
		if err := s.ResetFailed(ctx, unit.Name); err != nil {
			return err
		}
	}
	return nil
}

// oneshot are the properties of a unit each of whose commands may take limit, and
// after a signal to end, or once they have ended, stop.
func oneshot(limit, stop time.Duration) []sd.Property {
	return []sd.Property{
		property("Type", "oneshot"),
		property("TimeoutStartUSec", uint64(limit.Microseconds())),
		property("TimeoutStopUSec", uint64(stop.Microseconds())),
	}
}

// confined are the properties of an app's program that is run beside its units.
func confined(limit time.Duration) []sd.Property {
	return append(oneshot(limit, time.Second),
		property("ProtectSystem", "strict"),
		property("PrivateDevices", true),
		property("NoNewPrivileges", true),
		property("CapabilityBoundingSet", uint64(0)),
	)
}

// runUnit runs a transient oneshot until it has ended, which it is made to when
// ctx does. what says in an error what it is.
func (s *Systemd) runUnit(ctx context.Context, unit, what string, props []sd.Property) error {
	ch := make(chan string, 1)
	if _, err := s.conn.StartTransientUnitContext(ctx, unit, "replace", props, ch); err != nil {
		return fmt.Errorf("run %s: %w", what, err)
	}
	// A failed unit stays until it is reset, so that its status can be read.
	clean := context.WithoutCancel(ctx)
	defer func() { _ = s.ResetFailed(clean, unit) }()
	result := ""
	select {
	case <-ctx.Done():
		_ = s.Kill(clean, unit)
	case result = <-ch:
	}
	// Its job has ended before what it does last, and before it could be reset.
	st, err := s.ended(clean, unit)
	switch {
	case err != nil:
		return err
	case result == "done" && st.Result == "success":
		return nil
	case result == "":
		return fmt.Errorf("%s did not end", what)
	}
	log, err := s.Log(clean, unit, st.Invocation, logLines)
	if err != nil {
		return err
	}
	cause := what + " " + ending(st)
	switch {
	case st.ExitCode == cldExited && st.ExitStatus == 0:
		cause = what + " is done, but not what was to follow it (" + st.Result + ")"
	case st.Result == "timeout":
		cause = what + " did not end"
	}
	return &fault{cause: cause, log: log}
}

// ended waits until a unit has no process any more.
func (s *Systemd) ended(ctx context.Context, unit string) (UnitState, error) {
	for began := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		st, err := s.Unit(ctx, unit)
		switch {
		case err != nil || st.gone():
			return st, err
		case time.Since(began) > st.stopLimit():
			return st, fmt.Errorf("%s does not end", unit)
		}
	}
}
