package vm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"devbox/internal/hint"
)

// Lima is a virtual machine run by the user's limactl, 1.x or 2.x.
type Lima struct {
	spec Spec
}

var _ Machine = (*Lima)(nil)

// The states that `limactl list` tells and that matter here.
const (
	limaRunning = "Running"
	limaStopped = "Stopped"
)

const (
	defaultMemory = 2 << 30
	defaultDisk   = 20 << 30
)

// ErrNotOurs is returned where an instance of the machine's name exists in Lima
// and was not made by devbox.
var ErrNotOurs = errors.New("not made by devbox")

// NewLima is the driver for a machine. It refuses what Lima can never run: root,
// and a name that is too long for Lima's sockets.
func NewLima(spec Spec) (*Lima, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		return nil, hint.Errorf("run devbox as another user, or set `machine.driver: nspawn`",
			"machine %s: Lima refuses to run as root", spec.Name)
	}
	if _, err := limaArch(runtime.GOARCH); err != nil {
		return nil, err
	}
	if err := checkLimaPath(runtime.GOOS, limaHome(), spec.Name); err != nil {
		return nil, err
	}
	return &Lima{spec: spec}, nil
}

// Driver is "lima".
func (l *Lima) Driver() string { return "lima" }

func (l *Lima) dir() string { return filepath.Join(limaHome(), l.spec.Name) }

// Console is the file of the guest's first serial port.
func (l *Lima) Console() string { return filepath.Join(l.dir(), "serial.log") }

// mine returns the machine's instance, nil if there is none, and ErrNotOurs if
// it is somebody else's.
func (l *Lima) mine(ctx context.Context, ctl limactl) (*limaInstance, error) {
	inst, err := ctl.list(ctx, l.spec.Name)
	if err != nil || inst == nil {
		return nil, err
	}
	if inst.Config == nil {
		return nil, hint.Errorf(fmt.Sprintf("see `limactl list %s`, or remove it with `limactl delete --force %s`", inst.Name, inst.Name),
			"Lima cannot read its own configuration of %s %s", inst.Name, strings.Join(inst.problems(), ", "))
	}
	if limaHostKey(inst.scripts()) == nil {
		return nil, hint.Errorf(fmt.Sprintf("give the machine another name in devbox.yaml (name), or remove that one with `limactl delete %s`", inst.Name),
			"Lima has a machine %s that is %w", inst.Name, ErrNotOurs)
	}
	return inst, nil
}

// Status asks limactl.
func (l *Lima) Status(ctx context.Context) (Status, error) {
	ctl, err := findLimactl(ctx, l.spec.CacheDir)
	if err != nil {
		// Where Lima was never used, there is no machine either.
		if _, statErr := os.Lstat(l.dir()); errors.Is(statErr, os.ErrNotExist) && ctl.path == "" {
			return Status{State: Missing}, nil
		}
		return Status{}, err
	}
	if l.halfMade() {
		return Status{State: Broken, Detail: l.dir() + " is left from an interrupted create"}, nil
	}
	inst, err := l.mine(ctx, ctl)
	if err != nil {
		return Status{}, err
	}
	return l.status(inst, ctl), nil
}

func (l *Lima) status(inst *limaInstance, ctl limactl) Status {
	if inst == nil {
		return Status{State: Missing}
	}
	detail := []string{"limactl " + ctl.version.String()}
	change := l.drift(inst)
	told := func() string {
		detail = append(detail, inst.changed()...)
		if change != "" {
			detail = append(detail, change)
		}
		return strings.Join(detail, ", ")
	}
	switch inst.Status {
	case limaRunning:
		s := Status{State: Running, Slow: emulated(inst.DriverPID), Drift: change}
		if info, err := os.Stat(filepath.Join(inst.Dir, "ha.pid")); err == nil {
			s.Since = info.ModTime()
		}
		if s.Slow {
			detail = append(detail, "the processor is emulated, which is slow")
		}
		s.Detail = told()
		return s
	case limaStopped:
		return Status{State: Stopped, Detail: told(), Drift: change}
	}
	return Status{State: Broken, Detail: strings.Join(append([]string{"Lima calls it " + strings.ToLower(inst.Status)}, inst.problems()...), ", ")}
}

// halfMade says whether a create was cut off before it wrote a configuration.
func (l *Lima) halfMade() bool {
	_, dirErr := os.Stat(l.dir())
	_, yamlErr := os.Stat(filepath.Join(l.dir(), "lima.yaml"))
	return dirErr == nil && errors.Is(yamlErr, os.ErrNotExist)
}

// Create chooses the base image, writes the configuration and has limactl make
// the instance, which downloads or copies the image.
func (l *Lima) Create(ctx context.Context, p Progress) error {
	ctl, err := findLimactl(ctx, l.spec.CacheDir)
	if err != nil {
		return err
	}
	if err := limaTools(runtime.GOOS, runtime.GOARCH); err != nil {
		return err
	}
	unlock, err := l.lock(ctx, p)
	if err != nil {
		return err
	}
	defer unlock()
	if l.halfMade() {
		// Only an empty folder goes: anything in it might be the user's.
		if err := os.Remove(l.dir()); err != nil {
			return hint.Wrap(fmt.Errorf("machine %s: left from an interrupted create: %w", l.spec.Name, err),
				"look into "+l.dir()+" and remove it")
		}
	}
	inst, err := l.mine(ctx, ctl)
	if err != nil {
		return err
	}
	if inst != nil {
		return l.repair(ctx, ctl, inst, p)
	}
	return l.create(ctx, ctl, p)
}

// lock keeps two devboxes from creating, starting or removing one machine at the
// same time. Stop and Kill do without: they must work while a boot hangs.
func (l *Lima) lock(ctx context.Context, p Progress) (unlock func(), err error) {
	return lockFile(ctx, filepath.Join(l.spec.StateDir, "lock"), p)
}

func (l *Lima) create(ctx context.Context, ctl limactl, p Progress) error {
	if err := checkFree(limaHome(), minFree, limaRoom()); err != nil {
		return fmt.Errorf("create machine %s: %w", l.spec.Name, err)
	}
	base := limaBase{spec: l.spec, goarch: runtime.GOARCH, client: http.DefaultClient, build: BuildDisk}
	image, err := base.choose(ctx, p)
	if err != nil {
		return err
	}
	script, err := newLimaBootScript("devbox " + l.spec.Name)
	if err != nil {
		return err
	}
	config, err := limaYAML(l.config(image, script))
	if err != nil {
		return err
	}
	// The file holds the host key and is of no use once Lima has its copy.
	file := filepath.Join(l.spec.StateDir, l.spec.Name+".yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	defer os.Remove(file)
	p.Step("create the virtual machine with limactl %s", ctl.version)
	if _, err := ctl.run(ctx, "create", "--tty=false", "--name="+l.spec.Name, file); err != nil {
		if err = hint.Full(err, limaRoom()); hint.Of(err) == "" {
			err = base.createError(err, image)
		}
		err = l.explain(err)
		// Lima leaves the instance behind where its image could not be had.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if inst, _ := l.mine(clean, ctl); inst != nil {
			_, delErr := ctl.run(clean, "delete", "--tty=false", "--force", l.spec.Name)
			err = errors.Join(err, delErr)
		}
		return fmt.Errorf("create machine %s: %w", l.spec.Name, err)
	}
	inst, err := l.mine(ctx, ctl)
	if err != nil {
		return err
	}
	if inst == nil {
		return fmt.Errorf("create machine %s: limactl said that it did, and does not list it", l.spec.Name)
	}
	l.tellChanges(inst, p)
	return nil
}

func limaRoom() string {
	return "`limactl prune` may do, or else " + roomFor(limaHome(), "LIMA_HOME")
}

func (l *Lima) config(image limaImage, script string) limaConfig {
	c := limaConfig{
		CPUs: l.spec.CPUs, MemoryBytes: l.spec.MemoryBytes, DiskBytes: l.spec.DiskBytes,
		GoArch: runtime.GOARCH, GoOS: runtime.GOOS, Image: image, BootScript: script,
	}
	if c.CPUs == 0 {
		c.CPUs = min(4, runtime.NumCPU())
	}
	if c.MemoryBytes == 0 {
		c.MemoryBytes = defaultMemory
	}
	if c.DiskBytes == 0 {
		c.DiskBytes = defaultDisk
	}
	return c
}

func (l *Lima) tellChanges(inst *limaInstance, p Progress) {
	if changed := inst.changed(); changed != nil {
		p.Step("note: %s changed this machine: %s. it is less like a server",
			filepath.Join(limaHome(), "_config"), strings.Join(changed, ", "))
	}
	if change := l.drift(inst); change != "" {
		p.Step("note: %s", change)
	}
}

func (l *Lima) running(ctx context.Context, ctl limactl) (*limaInstance, error) {
	inst, err := l.mine(ctx, ctl)
	switch {
	case err != nil:
		return nil, err
	case inst == nil:
		return nil, hint.Errorf("run `devbox up`", "machine %s: %w", l.spec.Name, ErrMissing)
	case inst.Status != limaRunning:
		return nil, hint.Errorf("run `devbox up`", "machine %s: %w", l.spec.Name, ErrNotRunning)
	}
	return inst, nil
}

// Endpoint reads the port from limactl: it changes from boot to boot.
func (l *Lima) Endpoint(ctx context.Context) (Endpoint, error) {
	ctl, err := findLimactl(ctx, l.spec.CacheDir)
	if err != nil {
		return Endpoint{}, err
	}
	inst, err := l.running(ctx, ctl)
	if errors.Is(err, ErrMissing) {
		err = fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if err != nil {
		return Endpoint{}, err
	}
	if err := l.pin(inst); err != nil {
		return Endpoint{}, err
	}
	return l.endpoint(inst)
}
