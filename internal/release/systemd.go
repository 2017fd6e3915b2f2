package release

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Systemd is the systemd and the portabled of this host, over D-Bus.
type Systemd struct {
	conn *sd.Conn
	// ask is a second connection, for what go-systemd has no call for. Both go
	// straight to PID 1: no dbus-daemon between, and it works early at boot.
	ask *dbus.Conn
}

// Connect opens the connections. They live until Close.
func Connect() (*Systemd, error) {
	conn, err := sd.NewSystemdConnectionContext(context.Background())
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	ask, err := dbus.Dial("unix:path=/run/systemd/private")
	if err == nil {
		if err = ask.Auth([]dbus.Auth{dbus.AuthExternal("0")}); err != nil {
			ask.Close()
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	return &Systemd{conn: conn, ask: ask}, nil
}

// Close closes the connections.
func (s *Systemd) Close() {
	s.conn.Close()
	s.ask.Close()
}

// Reload implements [System].
func (s *Systemd) Reload(ctx context.Context) error {
	if err := s.conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("reload systemd: %w", err)
	}
	return nil
}

// Enable implements [System].
func (s *Systemd) Enable(ctx context.Context, units []string) error {
	if _, _, err := s.conn.EnableUnitFilesContext(ctx, units, false, true); err != nil {
		return fmt.Errorf("enable %s: %w", strings.Join(units, " "), err)
	}
	return nil
}

// Disable implements [System].
func (s *Systemd) Disable(ctx context.Context, units []string) error {
	if _, err := s.conn.DisableUnitFilesContext(ctx, units, false); err != nil {
		return fmt.Errorf("disable %s: %w", strings.Join(units, " "), err)
	}
	return nil
}

// ResetFailed implements [System].
func (s *Systemd) ResetFailed(ctx context.Context, unit string) error {
	if err := s.conn.ResetFailedUnitContext(ctx, unit); err != nil && !isError(err, "org.freedesktop.systemd1.NoSuchUnit") {
		return fmt.Errorf("reset %s: %w", unit, err)
	}
	return nil
}

// Queue implements [System].
func (s *Systemd) Queue(ctx context.Context, verb Verb, unit string) (<-chan string, error) {
	ch := make(chan string, 1)
	var err error
	switch verb {
	case Start:
		_, err = s.conn.StartUnitContext(ctx, unit, "replace", ch)
	case Stop:
		_, err = s.conn.StopUnitContext(ctx, unit, "replace", ch)
	case Restart:
		_, err = s.conn.RestartUnitContext(ctx, unit, "replace", ch)
	}
	if verb == Stop && isError(err, "org.freedesktop.systemd1.NoSuchUnit") {
		ch <- "done"
		return ch, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", verb, unit, err)
	}
	return ch, nil
}

// Kill implements [System].
func (s *Systemd) Kill(ctx context.Context, unit string) error {
	err := s.conn.KillUnitWithTarget(ctx, unit, sd.All, 9)
	if isError(err, "org.freedesktop.systemd1.NoSuchUnit") || isError(err, "org.freedesktop.systemd1.NoSuchProcess") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill %s: %w", unit, err)
	}
	return nil
}

// Instances implements [System].
func (s *Systemd) Instances(ctx context.Context, template string) ([]string, error) {
	pattern := strings.Replace(template, "@.", "@*.", 1)
	list, err := s.conn.ListUnitsByPatternsContext(ctx, nil, []string{pattern})
	if err != nil {
		return nil, fmt.Errorf("list instances of %s: %w", template, err)
	}
	var names []string
	for _, u := range list {
		names = append(names, u.Name)
	}
	return names, nil
}

// Unit implements [System].
func (s *Systemd) Unit(ctx context.Context, unit string) (UnitState, error) {
	obj := s.ask.Object("org.freedesktop.systemd1", dbus.ObjectPath("/org/freedesktop/systemd1/unit/"+sd.PathBusEscape(unit)))
	props := map[string]dbus.Variant{}
	if err := obj.CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll", 0, "").Store(&props); err != nil {
		return UnitState{}, fmt.Errorf("read state of %s: %w", unit, err)
	}
	st := UnitState{
		Active:     prop[string](props, "ActiveState"),
		Sub:        prop[string](props, "SubState"),
		Invocation: hex.EncodeToString(prop[[]byte](props, "InvocationID")),
		Type:       prop[string](props, "Type"),
		Result:     prop[string](props, "Result"),
		ExitCode:   int(prop[int32](props, "ExecMainCode")),
		ExitStatus: int(prop[int32](props, "ExecMainStatus")),
		Restarts:   int(prop[uint32](props, "NRestarts")),
		MainPID:    int(prop[uint32](props, "MainPID")),
	}
	if us := prop[uint64](props, "StateChangeTimestamp"); us > 0 {
		st.Since = time.UnixMicro(int64(us))
	}
	if us := prop[uint64](props, "TimeoutStopUSec"); us > 0 && us < 1<<62 {
		st.StopTimeout = time.Duration(us) * time.Microsecond
	}
	if m := prop[uint64](props, "MemoryCurrent"); m < 1<<62 {
		st.Memory = int64(m)
	}
	return st, nil
}

// prop is a property, or the zero value if it is missing or of another type.
func prop[T any](props map[string]dbus.Variant, name string) T {
	v, _ := props[name].Value().(T)
	return v
}

func isError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}
