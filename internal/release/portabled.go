package release

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// Flags of org.freedesktop.portable1(5). Others may be added, not changed.
const portableForce = 1 << 1

// portabled calls a method of systemd-portabled, which the bus starts on
// demand. The connection is made for the call: attaching is rare, and a
// dbus-daemon that was restarted meanwhile must not matter.
func portabled(ctx context.Context, method string, args ...any) (*dbus.Call, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	defer bus.Close()
	obj := bus.Object("org.freedesktop.portable1", "/org/freedesktop/portable1")
	call := obj.CallWithContext(ctx, method, 0, args...)
	if call.Err != nil {
		return nil, call.Err
	}
	return call, nil
}

// Profiles implements [System].
func (s *Systemd) Profiles(ctx context.Context) ([]string, error) {
	call, err := portabled(ctx, "org.freedesktop.DBus.Properties.Get", "org.freedesktop.portable1.Manager", "Profiles")
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

// attachTries bounds how often Attach asks again when portabled dies.
const attachTries = 3

// Attach implements [System]. The copy mode "" copies units and links the
// profile, as portablectl does. If portabled dies before it answers, the call is
// repeated: a forced attach replaces what is there file by file.
func (s *Systemd) Attach(ctx context.Context, image, prefix, profile string) error {
	var err error
	for range attachTries {
		_, err = portabled(ctx, "org.freedesktop.portable1.Manager.AttachImageWithExtensions",
			image, []string{}, []string{prefix}, profile, "", uint64(portableForce))
		if !isError(err, "org.freedesktop.DBus.Error.NoReply") && !isError(err, "org.freedesktop.DBus.Error.TimedOut") {
			break
		}
		// Having died a few times it would not be started again for a while.
		if rerr := s.ResetFailed(ctx, "systemd-portabled.service"); rerr != nil {
			return rerr
		}
	}
	if err != nil {
		return fmt.Errorf("attach %s: %w", image, err)
	}
	return nil
}
