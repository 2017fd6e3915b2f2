package release

import (
	"context"
	"time"
)

// System is what this package needs of systemd and portabled. [Systemd] is the
// real one. Unit names are full ("bowl.service").
type System interface {
	// Profiles lists the portable profiles of the host.
	Profiles(ctx context.Context) ([]string, error)
	// Attach installs the units of image with the given prefix and profile over
	// whatever is installed, as `portablectl attach --force --no-reload` does.
	Attach(ctx context.Context, image, prefix, profile string) error
	// Reload reads all unit files again and waits for that.
	Reload(ctx context.Context) error
	Enable(ctx context.Context, units []string) error
	Disable(ctx context.Context, units []string) error

	// Unit reads the state of a unit; one that is not loaded is inactive.
	Unit(ctx context.Context, unit string) (UnitState, error)
	// Revive opens the connections again that have ended, as they do when PID 1
	// is upgraded.
	Revive() error

	// Instances lists the loaded instances of a template unit.
	Instances(ctx context.Context, template string) ([]string, error)
	// ResetFailed also resets the counter of StartLimitBurst=.
	ResetFailed(ctx context.Context, unit string) error
	// Queue asks for a job and returns at once. The channel, buffered, gets the
	// job's result as systemd names it: "done", "failed", "canceled", ….
	Queue(ctx context.Context, verb Verb, unit string) (<-chan string, error)
	// Kill sends SIGKILL to every process of a unit.
	Kill(ctx context.Context, unit string) error

	// Try runs a shell command to its end as a user of its own that exists only
	// for it, with env ("NAME=value") in its environment, and returns an error if
	// it did not exit 0.
	Try(ctx context.Context, name, command string, env []string) error
	// Probe runs a program of an image to its end and returns what it printed. An
	// error with output is that of a program that did not exit 0.
	Probe(ctx context.Context, p Probe) ([]byte, error)
	// Copy copies folders as they are at one moment: the services are frozen until
	// that is done, or has failed, whatever becomes of this process.
	Copy(ctx context.Context, c Copy) error
	// Sweep takes what Try, Probe and Copy have left of a process that was killed out
	// of the list of failed units.
	Sweep(ctx context.Context) error
	// Shelter moves this process into a unit of its own, so that it goes on when
	// the session ends, or is ended, that has started it.
	Shelter(ctx context.Context, app string) error
	// Note writes an entry to the host's journal.
	Note(Note)
	// Log returns the last lines of one invocation of a unit, oldest first: its
	// program's own, or, if there are none, what systemd says of it.
	Log(ctx context.Context, unit, invocation string, lines int) ([]string, error)
	// Errors returns the newest line of each of these invocations that says to be
	// an error and is not older than since.
	Errors(ctx context.Context, invocations []string, since time.Duration) (map[string]string, error)
}

// Verb is what a job does.
type Verb string

// The jobs that activation needs.
const (
	Start   Verb = "start"
	Stop    Verb = "stop"
	Restart Verb = "restart"
)

// UnitState is a unit as systemd reports it (org.freedesktop.systemd1(5)).
type UnitState struct {
	Active     string // ActiveState
	Sub        string // SubState
	Invocation string // InvocationID in hex, "" before the first start
	Since      time.Time
	Queued     bool     // a job for it waits or is under way
	Memory     int64    // bytes, 0 if not known
	Requires   []string // Requires=, and what systemd adds to it

	// Of services.
	Type        string // Type=
	Result      string
	ExitCode    int // ExecMainCode: a CLD_ constant of waitid(2)
	ExitStatus  int // ExecMainStatus: an exit status or a signal
	Restarts    int // NRestarts
	MainPID     int
	StopTimeout time.Duration // TimeoutStopSec=, 0 for none
	Watchdog    time.Duration // WatchdogSec=, 0 for none
}

// stopLimit is how long a unit may take to stop before it is killed. systemd
// does that itself; this is for units that it lets hang for ever.
func (s UnitState) stopLimit() time.Duration {
	if s.StopTimeout == 0 {
		return defaultStop
	}
	return s.StopTimeout + killWait
}

// defaultStop is what a unit gets whose TimeoutStopSec= is infinity: the
// default of DefaultTimeoutStopSec= in systemd-system.conf(5).
const defaultStop = 90 * time.Second

// up says whether a unit is running as far as its kind can.
func (s UnitState) up() bool {
	return s.Active == "active" || s.Active == "reloading" || s.Active == "refreshing"
}

// gone says whether a unit has no process left.
func (s UnitState) gone() bool {
	return s.Active == "inactive" || s.Active == "failed" || s.Active == ""
}
