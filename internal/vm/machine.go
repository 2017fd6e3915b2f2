// Package vm is where machines for development come from: a virtual machine
// run by Lima, or a container booted by systemd-nspawn where Lima cannot run.
// Both are a Debian 13 with systemd that answers SSH; everything after that is
// the same as for a server and is not this package's concern.
package vm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"time"

	"devbox/internal/hint"
)

// State says how far a machine has come.
type State string

const (
	// Missing: nothing of the machine exists. Create makes it.
	Missing State = "missing"
	// Stopped: created, not running. Start boots it.
	Stopped State = "stopped"
	// Running: its init runs. Start returned once SSH answered; a machine
	// that was started by someone else may still be booting.
	Running State = "running"
	// Broken: left half-made or half-stopped by a crash. Create cures it
	// and keeps the machine's data wherever they were complete.
	Broken State = "broken"
)

// Status is what is true of a machine now, asked of the system and never
// remembered.
type Status struct {
	State State `json:"state"`
	// Detail is one line for a person: why it is broken, how it runs.
	Detail string `json:"detail,omitempty"`
	// Drift is in what the machine is not what Spec asks for, and what brings
	// it there; Detail says it too. "" if in nothing that can be told.
	Drift string `json:"drift,omitempty"`
	// Since is when the running machine was started, zero if not known.
	Since time.Time `json:"since,omitzero"`
	// Slow says that the processor is emulated (QEMU without KVM).
	Slow bool `json:"slow,omitempty"`
	// NetNS and Link name the machine's network namespace and the host's end
	// of its virtual cable, for traffic shaping. Empty where there are none.
	NetNS string `json:"netns,omitempty"`
	Link  string `json:"link,omitempty"`
}

// Endpoint is how to reach a running machine by SSH, as plain data.
type Endpoint struct {
	Host string
	Port int
	User string
	// IdentityFile is the private key that the machine accepts.
	IdentityFile string
	// KnownHostsFile holds the host keys of this machine and of nothing else,
	// under Host (or [Host]:Port where Port is not 22). It is made by the
	// driver over a path that it trusts, so no client has to accept an
	// unknown key.
	KnownHostsFile string
}

// Progress is told each step of a long call, a lower-case phrase such as
// "build the base system". A nil Progress is allowed.
type Progress func(step string)

// Step tells p the step, if anyone listens.
func (p Progress) Step(format string, args ...any) {
	if p != nil {
		p(fmt.Sprintf(format, args...))
	}
}

// Machine is one machine of one driver. Every call computes what is missing
// and does only that: repeating a call is cheap, and whatever a crash left
// behind, the next call of the same kind finishes or replaces.
type Machine interface {
	// Driver is "lima" or "nspawn".
	Driver() string
	// Status asks what is true now. A machine that does not exist is not an
	// error but Missing.
	Status(ctx context.Context) (Status, error)
	// Create makes the machine, without starting it. It does nothing to a
	// machine that exists, and repairs a Broken one.
	Create(ctx context.Context, p Progress) error
	// Start boots the machine and returns once its SSH server answers. It
	// returns ErrMissing if it was not created.
	Start(ctx context.Context, p Progress) error
	// Stop shuts it down in order, and by force once a deadline has passed.
	Stop(ctx context.Context) error
	// Kill cuts the power.
	Kill(ctx context.Context) error
	// Destroy stops the machine and removes all of it, its data included.
	// What is shared by machines (base images) stays.
	Destroy(ctx context.Context) error
	// Endpoint says how to reach the machine; ErrNotRunning if it is not
	// running.
	Endpoint(ctx context.Context) (Endpoint, error)
	// Console is the file that the machine's boot messages go to.
	Console() string
}

var (
	// ErrMissing is returned where a machine must exist and does not.
	ErrMissing = errors.New("machine does not exist")
	// ErrNotRunning is returned where a machine must run and does not.
	ErrNotRunning = errors.New("machine is not running")
)

// BaseImage is a disk image to start from.
type BaseImage struct {
	// URL is https://… or an absolute path.
	URL string
	// Digest is sha256:… or sha512:… of the file.
	Digest string
}

// Spec is what a machine should be.
type Spec struct {
	Name        string
	CPUs        int
	MemoryBytes int64
	DiskBytes   int64
	// Base is the disk image for each Go architecture name (amd64, arm64).
	// The nspawn driver builds its own system from packages and ignores it.
	Base map[string]BaseImage
	// StateDir is this machine's own folder, CacheDir the one that all
	// machines share; both absolute.
	StateDir string
	CacheDir string
}

// MaxName is the longest allowed machine name. Lima's sockets may allow less.
const MaxName = 40

var nameRule = regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)

// CheckName says whether a machine may have this name: it becomes a host name
// (RFC 1123), a Lima instance and part of file names.
func CheckName(name string) error {
	const cure = "use lower-case letters, digits and '-', beginning with a letter, as in `bowl` or `bowl-dev`"
	switch {
	case name == "":
		return hint.Errorf(cure, "the machine has no name")
	case len(name) > MaxName:
		return hint.Errorf(fmt.Sprintf("use at most %d characters", MaxName), "machine name %q is %d characters long", name, len(name))
	case !nameRule.MatchString(name):
		return hint.Errorf(cure, "machine name %q is not allowed", name)
	}
	return nil
}

// Check finds what no driver can work with.
func (s Spec) Check() error {
	var all []error
	if err := CheckName(s.Name); err != nil {
		return err
	}
	if s.CPUs < 0 || s.MemoryBytes < 0 || s.DiskBytes < 0 {
		all = append(all, hint.Errorf("leave the value out to get the default", "machine %s: cpus, memory and disk cannot be negative", s.Name))
	}
	for what, dir := range map[string]string{"state": s.StateDir, "cache": s.CacheDir} {
		if !filepath.IsAbs(dir) {
			all = append(all, fmt.Errorf("machine %s: the %s folder %q is not an absolute path", s.Name, what, dir))
		}
	}
	return errors.Join(all...)
}
