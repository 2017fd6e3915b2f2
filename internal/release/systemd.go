package release

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
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

// managerSocket is where PID 1 itself listens, for root only.
const managerSocket = "unix:path=/run/systemd/private"

// callTime bounds every call: a reply that never comes must not hang a session.
// Reloading a host with many units takes seconds at most.
const callTime = time.Minute

// Connect opens the connections. They live until Close.
func Connect() (*Systemd, error) {
	s := &Systemd{}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Systemd) open() error {
	conn, err := sd.NewConnection(dialManager)
	if err != nil {
		return fmt.Errorf("connect to systemd: %w", err)
	}
	ask, err := dialManager()
	if err != nil {
		conn.Close()
		return fmt.Errorf("connect to systemd: %w", err)
	}
	s.conn, s.ask = conn, ask
	return nil
}

// Revive implements [System].
func (s *Systemd) Revive() error {
	if s.conn.Connected() && s.ask.Connected() {
		return nil
	}
	s.Close()
	return s.open()
}

// dialManager connects to PID 1 and makes sure that it listens: sd-bus as a
// server overlooks a message that comes in the same read as the end of the
// authentication, until something else comes (seen with systemd 257).
func dialManager() (*dbus.Conn, error) {
	conn, err := dbus.Dial(managerSocket)
	if err != nil {
		return nil, err
	}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		conn.Close()
		return nil, err
	}
	give := time.Now().Add(callTime)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Millisecond)
		err := conn.Object("org.freedesktop.systemd1", "/").CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err
		cancel()
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, context.DeadlineExceeded) || time.Now().After(give) {
			conn.Close()
			return nil, fmt.Errorf("greet %s: %w", managerSocket, err)
		}
	}
}

// Close closes the connections.
func (s *Systemd) Close() {
	s.conn.Close()
	s.ask.Close()
}

// Reload implements [System].
func (s *Systemd) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := s.conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("reload systemd: %w", err)
	}
	return nil
}

// Enable implements [System].
func (s *Systemd) Enable(ctx context.Context, units []string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if _, _, err := s.conn.EnableUnitFilesContext(ctx, units, false, true); err != nil {
		return fmt.Errorf("enable %s: %w", strings.Join(units, " "), err)
	}
	return nil
}

// Disable implements [System].
func (s *Systemd) Disable(ctx context.Context, units []string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	// One by one: of several it takes none if one has no file, which is how a
	// power cut while it was being attached leaves it.
	for _, unit := range units {
		if _, err := s.conn.DisableUnitFilesContext(ctx, []string{unit}, false); err != nil && !isError(err, "org.freedesktop.systemd1.NoSuchUnit") {
			return fmt.Errorf("disable %s: %w", unit, err)
		}
	}
	return nil
}

// ResetFailed implements [System].
func (s *Systemd) ResetFailed(ctx context.Context, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := s.conn.ResetFailedUnitContext(ctx, unit); err != nil && !isError(err, "org.freedesktop.systemd1.NoSuchUnit") {
		return fmt.Errorf("reset %s: %w", unit, err)
	}
	return nil
}

// Queue implements [System].
func (s *Systemd) Queue(ctx context.Context, verb Verb, unit string) (<-chan string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
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
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
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
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
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

const (
	unitIface    = "org.freedesktop.systemd1.Unit"
	serviceIface = "org.freedesktop.systemd1.Service"
)

// Properties of org.freedesktop.systemd1(5) that make a UnitState. Asking for
// these, all at once, takes PID 1 a quarter of the time that GetAll takes.
var (
	unitProps    = []string{"ActiveState", "SubState", "InvocationID", "Job", "StateChangeTimestamp", "ActiveEnterTimestamp", "Requires"}
	serviceProps = []string{"Type", "Result", "ExecMainCode", "ExecMainStatus", "NRestarts", "MainPID", "TimeoutStopUSec", "WatchdogUSec", "MemoryCurrent"}
)

// Unit implements [System].
func (s *Systemd) Unit(ctx context.Context, unit string) (UnitState, error) {
	names := map[string][]string{unitIface: unitProps}
	if strings.HasSuffix(unit, ".service") {
		names[serviceIface] = serviceProps
	}
	props, err := s.props(ctx, unit, names)
	return stateOf(props), err
}

// props reads properties of a unit, which are named by their interface, all at once.
func (s *Systemd) props(ctx context.Context, unit string, names map[string][]string) (map[string]dbus.Variant, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	obj := s.ask.Object("org.freedesktop.systemd1", dbus.ObjectPath("/org/freedesktop/systemd1/unit/"+sd.PathBusEscape(unit)))
	calls := map[string]*dbus.Call{}
	for iface, list := range names {
		for _, name := range list {
			calls[name] = obj.GoWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, make(chan *dbus.Call, 1), iface, name)
		}
	}
	props := map[string]dbus.Variant{}
	for name, call := range calls {
		var v dbus.Variant
		if err := (<-call.Done).Store(&v); err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", name, unit, err)
		}
		props[name] = v
	}
	return props, nil
}

func stateOf(props map[string]dbus.Variant) UnitState {
	st := UnitState{
		Active:     prop[string](props, "ActiveState"),
		Sub:        prop[string](props, "SubState"),
		Requires:   prop[[]string](props, "Requires"),
		Invocation: hex.EncodeToString(prop[[]byte](props, "InvocationID")),
		Type:       prop[string](props, "Type"),
		Result:     prop[string](props, "Result"),
		ExitCode:   int(prop[int32](props, "ExecMainCode")),
		ExitStatus: int(prop[int32](props, "ExecMainStatus")),
		Restarts:   int(prop[uint32](props, "NRestarts")),
		MainPID:    int(prop[uint32](props, "MainPID")),
	}
	// (id, path): the id is 0 if there is none.
	if job := prop[[]any](props, "Job"); len(job) == 2 {
		st.Queued = job[0] != uint32(0)
	}
	since := "StateChangeTimestamp"
	if st.up() {
		since = "ActiveEnterTimestamp" // a socket changes its state each time its service does
	}
	if us := prop[uint64](props, since); us > 0 {
		st.Since = time.UnixMicro(int64(us))
	}
	if us := prop[uint64](props, "TimeoutStopUSec"); us > 0 && us < 1<<53 {
		st.StopTimeout = time.Duration(us) * time.Microsecond
	}
	if us := prop[uint64](props, "WatchdogUSec"); us < 1<<53 {
		st.Watchdog = time.Duration(us) * time.Microsecond
	}
	if m := prop[uint64](props, "MemoryCurrent"); m < 1<<62 {
		st.Memory = int64(m)
	}
	return st
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
