package release

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
)

// Flags of org.freedesktop.portable1(5). Others may be added, not changed.
const portableForce = 1 << 1

const (
	portabledUnit = "systemd-portabled.service"
	// portabledTime bounds a call together with its repetitions.
	portabledTime = 30 * time.Second
)

// portabled calls a method of systemd-portabled, again and again if it dies
// before it answers: the methods used here may be repeated, a forced attach
// replaces what is there file by file.
//
// PID 1 is asked to start it, not the bus: a portabled that dies before it owns
// its name keeps the bus waiting for 25 s, and every other caller with it.
func (s *Systemd) portabled(ctx context.Context, method string, args ...any) (*dbus.Call, error) {
	ctx, cancel := context.WithTimeout(ctx, portabledTime)
	defer cancel()
	var died error
	for pause := 2 * time.Millisecond; ; pause = longer(pause) {
		call, err := s.askPortabled(ctx, method, args)
		switch {
		case isGone(err):
			died = err
		case err == nil || died == nil || ctx.Err() == nil:
			return call, err
		}
		select {
		case <-ctx.Done():
			return nil, died // says more than that the time is over
		case <-time.After(pause):
		}
	}
}

// askPortabled starts portabled if it does not run and calls it once, over a
// connection of its own: attaching is rare, and a dbus-daemon that was restarted
// meanwhile must not matter.
func (s *Systemd) askPortabled(ctx context.Context, method string, args []any) (*dbus.Call, error) {
	if err := s.startPortabled(ctx); err != nil {
		return nil, err
	}
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	defer bus.Close()
	obj := bus.Object("org.freedesktop.portable1", "/org/freedesktop/portable1")
	call := obj.CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
	return call, call.Err
}

// errPortabledGone is that a job to start portabled did not succeed.
var errPortabledGone = errors.New(portabledUnit + " does not stay up")

// startPortabled makes sure that portabled runs, also if it has died so often
// that systemd would not start it again for a while.
func (s *Systemd) startPortabled(ctx context.Context) error {
	done, err := s.Queue(ctx, Start, portabledUnit)
	if err != nil {
		return err
	}
	select {
	case result := <-done:
		if result == "done" {
			return nil
		}
	case <-ctx.Done():
		return fmt.Errorf("start %s: %w", portabledUnit, ctx.Err())
	}
	if err := s.ResetFailed(ctx, portabledUnit); err != nil {
		return err
	}
	return errPortabledGone
}

// isGone says whether err is that nobody answered: portabled has died, or does
// not own its name yet.
func isGone(err error) bool {
	for _, name := range []string{"NoReply", "ServiceUnknown", "NameHasNoOwner"} {
		if isError(err, "org.freedesktop.DBus.Error."+name) {
			return true
		}
	}
	return errors.Is(err, errPortabledGone)
}

// Profiles implements [System].
func (s *Systemd) Profiles(ctx context.Context) ([]string, error) {
	call, err := s.portabled(ctx, "org.freedesktop.DBus.Properties.Get", "org.freedesktop.portable1.Manager", "Profiles")
	if err != nil {
		return nil, fmt.Errorf("list portable profiles: %w", err)
	}
	var v dbus.Variant
	if err := call.Store(&v); err != nil {
		return nil, fmt.Errorf("list portable profiles: %w", err)
	}
	names, ok := v.Value().([]string)
	if !ok {
		return nil, fmt.Errorf("list portable profiles: portabled sent %s", v.Signature())
	}
	return names, nil
}

// Attach implements [System]. The copy mode "" copies units and links the
// profile, as portablectl does.
func (s *Systemd) Attach(ctx context.Context, image, prefix, profile string) error {
	_, err := s.portabled(ctx, "org.freedesktop.portable1.Manager.AttachImageWithExtensions",
		image, []string{}, []string{prefix}, profile, "", uint64(portableForce))
	if err != nil {
		return fmt.Errorf("attach %s: %w", image, err)
	}
	return nil
}
