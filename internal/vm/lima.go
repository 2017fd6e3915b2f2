package vm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
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

// checkLimaPath keeps the sockets in an instance's folder within sun_path of
// unix(7), 108 bytes on Linux and 104 on macOS; Lima needs 28 of them.
func checkLimaPath(goos, home, name string) error {
	limit := 80
	if goos == "darwin" {
		limit = 76
	}
	if over := len(home) + len(name) - limit; over > 0 {
		return hint.Errorf("shorten the name, or set LIMA_HOME to a short folder, as in `export LIMA_HOME=/tmp/lima`",
			"machine name %q is %d characters too long for the sockets that Lima keeps under %s", name, over, home)
	}
	return nil
}

// LimaReady says whether Lima can run machines here, as far as that can be told
// without starting one: the error names what is missing and its cure.
func LimaReady(ctx context.Context, spec Spec) error {
	if _, err := NewLima(spec); err != nil {
		return err
	}
	if err := limaTools(runtime.GOOS, runtime.GOARCH); err != nil {
		return err
	}
	_, err := findLimactl(ctx, spec.CacheDir)
	return err
}

// limaTools says which of the programs that Lima calls are missing.
func limaTools(goos, goarch string) error {
	tools := map[string]string{"ssh": "openssh-client", "ssh-keygen": "openssh-client"}
	if goos == "linux" {
		qemu, err := qemuName(goarch)
		if err != nil {
			return err
		}
		tools["qemu-img"] = "qemu-utils"
		tools[qemu] = map[string]string{"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"}[goarch]
	}
	for _, tool := range []string{"ssh", "ssh-keygen", "qemu-img", "qemu-system-x86_64", "qemu-system-aarch64"} {
		if tools[tool] == "" {
			continue
		}
		if _, err := exec.LookPath(tool); err != nil {
			return hint.Errorf(fmt.Sprintf("run `devbox doctor --fix`, or install the package %s", tools[tool]),
				"Lima needs %s, which is not installed", tool)
		}
	}
	return nil
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
		return nil, hint.Errorf(fmt.Sprintf("give the machine another name in devbox.yaml (machine.name), or remove that one with `limactl delete %s`", inst.Name),
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
	switch inst.Status {
	case limaRunning:
		s := Status{State: Running, Slow: emulated(inst.DriverPID)}
		if info, err := os.Stat(filepath.Join(inst.Dir, "ha.pid")); err == nil {
			s.Since = info.ModTime()
		}
		if s.Slow {
			detail = append(detail, "the processor is emulated, which is slow")
		}
		s.Detail = strings.Join(append(detail, inst.changed()...), ", ")
		return s
	case limaStopped:
		return Status{State: Stopped, Detail: strings.Join(append(detail, inst.changed()...), ", ")}
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
	if err := checkFree(limaHome(), minFree); err != nil {
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
		err = l.explain(base.createError(err, image))
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
}

// repair ends what is left of an instance that a crash stopped half-way. Its disk
// stays.
func (l *Lima) repair(ctx context.Context, ctl limactl, inst *limaInstance, p Progress) error {
	if inst.Status == limaRunning || inst.Status == limaStopped {
		return nil
	}
	p.Step("end what is left of an interrupted run")
	if err := forgetForeignPIDs(inst); err != nil {
		return err
	}
	if _, err := ctl.run(ctx, "stop", "--tty=false", "--force", l.spec.Name); err != nil {
		return l.explain(fmt.Errorf("repair machine %s: %w", l.spec.Name, err))
	}
	inst, err := l.mine(ctx, ctl)
	if err != nil {
		return err
	}
	if inst == nil || inst.Status != limaStopped {
		return l.explain(hint.Errorf(fmt.Sprintf("run `devbox destroy` and `devbox up`, or look with `limactl list %s`", l.spec.Name),
			"machine %s is broken and stays so", l.spec.Name))
	}
	return nil
}

// forgetForeignPIDs removes a pid file whose number, after a reboot of this
// computer, belongs to a program that has nothing to do with Lima: `limactl stop
// --force` would kill it.
func forgetForeignPIDs(inst *limaInstance) error {
	if runtime.GOOS != "linux" {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(inst.Dir, "*.pid"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || pid <= 0 {
			continue
		}
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || strings.Contains(string(command), inst.Dir) {
			continue
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// Start boots the machine and waits until SSH shows its host key.
func (l *Lima) Start(ctx context.Context, p Progress) error {
	ctl, err := findLimactl(ctx, l.spec.CacheDir)
	if err != nil {
		return err
	}
	unlock, err := l.lock(ctx, p)
	if err != nil {
		return err
	}
	defer unlock()
	inst, err := l.mine(ctx, ctl)
	if err != nil {
		return err
	}
	if inst == nil {
		return fmt.Errorf("machine %s: %w", l.spec.Name, ErrMissing)
	}
	if inst.Status == limaRunning {
		if l.login(ctx, inst) == nil {
			return l.pin(inst)
		}
		p.Step("wait for the machine, which is booting")
		if err := l.answers(ctx, ctl, startTimeout(emulated(inst.DriverPID))); err != nil {
			return err
		}
		return l.pinNow(ctx, ctl)
	}
	if err := l.repair(ctx, ctl, inst, p); err != nil {
		return err
	}
	l.tellChanges(inst, p)
	if err := l.boot(ctx, ctl, p); err != nil {
		return err
	}
	return l.pinNow(ctx, ctl)
}

func (l *Lima) boot(ctx context.Context, ctl limactl, p Progress) error {
	noKVM := canKVM()
	timeout := startTimeout(noKVM != nil)
	if noKVM != nil {
		env, err := emulateIn(filepath.Join(l.spec.StateDir, "qemu"), runtime.GOARCH)
		if err != nil {
			return fmt.Errorf("start machine %s: %w", l.spec.Name, err)
		}
		ctl.env = env
		p.Step("boot the virtual machine, slowly: no KVM (%v), the processor is emulated; this takes minutes", noKVM)
	} else {
		p.Step("boot the virtual machine")
	}
	begin := time.Now()
	_, err := ctl.run(ctx, "start", "--tty=false", "--timeout="+timeout.String(), l.spec.Name)
	if err != nil {
		failed := new(LimactlError)
		if !errors.As(err, &failed) {
			return err
		}
		// After its own timeout, or when something but SSH is amiss (it says
		// DEGRADED), limactl exits with 1 and the machine runs on.
		inst, listErr := l.mine(ctx, ctl)
		if listErr != nil || inst == nil || inst.Status != limaRunning {
			return l.explain(fmt.Errorf("start machine %s: %w", l.spec.Name, errors.Join(err, listErr)))
		}
		p.Step("note: limactl is not content (%s); see whether SSH answers", lastMessage(failed.Stderr))
	}
	p.Step("wait for SSH with the machine's own key")
	return l.answers(ctx, ctl, max(timeout-time.Since(begin), time.Minute))
}

// pin writes the machine's known_hosts, for the port of this boot.
func (l *Lima) pin(inst *limaInstance) error {
	e, err := l.endpoint(inst)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.spec.StateDir, 0o700); err != nil {
		return err
	}
	return writeKnownHosts(e.KnownHostsFile, e.Host, e.Port, limaHostKey(inst.scripts()))
}

func (l *Lima) pinNow(ctx context.Context, ctl limactl) error {
	inst, err := l.running(ctx, ctl)
	if err != nil {
		return err
	}
	return l.pin(inst)
}

func (l *Lima) running(ctx context.Context, ctl limactl) (*limaInstance, error) {
	inst, err := l.mine(ctx, ctl)
	switch {
	case err != nil:
		return nil, err
	case inst == nil:
		return nil, fmt.Errorf("machine %s: %w", l.spec.Name, ErrMissing)
	case inst.Status != limaRunning:
		return nil, fmt.Errorf("machine %s: %w", l.spec.Name, ErrNotRunning)
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

// stopTimeout is more than the three minutes that limactl itself waits for the
// guest.
const stopTimeout = 4 * time.Minute

// Stop asks the guest to shut down, and cuts its power where it does not.
func (l *Lima) Stop(ctx context.Context) error {
	ctl, inst, err := l.existing(ctx)
	if err != nil || inst == nil || inst.Status == limaStopped {
		return err
	}
	if inst.Status == limaRunning {
		orderly, cancel := context.WithTimeout(ctx, stopTimeout)
		_, err := ctl.run(orderly, "stop", "--tty=false", l.spec.Name)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
	}
	return l.kill(ctx, ctl, inst)
}

// Kill ends QEMU at once, as a power cut would.
func (l *Lima) Kill(ctx context.Context) error {
	ctl, inst, err := l.existing(ctx)
	if err != nil || inst == nil || inst.Status == limaStopped {
		return err
	}
	return l.kill(ctx, ctl, inst)
}

func (l *Lima) kill(ctx context.Context, ctl limactl, inst *limaInstance) error {
	if err := forgetForeignPIDs(inst); err != nil {
		return err
	}
	if _, err := ctl.run(ctx, "stop", "--tty=false", "--force", l.spec.Name); err != nil {
		return l.explain(fmt.Errorf("stop machine %s: %w", l.spec.Name, err))
	}
	return nil
}

// Destroy removes the instance. Lima keeps its downloads.
func (l *Lima) Destroy(ctx context.Context) error {
	unlock, err := l.lock(ctx, nil)
	if err != nil {
		return err
	}
	defer unlock()
	ctl, inst, err := l.existing(ctx)
	if err != nil {
		return err
	}
	if inst != nil {
		if inst.Protected {
			return hint.Errorf("run `limactl unprotect "+l.spec.Name+"` first", "destroy machine %s: it is protected in Lima", l.spec.Name)
		}
		if err := forgetForeignPIDs(inst); err != nil {
			return err
		}
		if _, err := ctl.run(ctx, "delete", "--tty=false", "--force", l.spec.Name); err != nil {
			return l.explain(fmt.Errorf("destroy machine %s: %w", l.spec.Name, err))
		}
	}
	for _, left := range []string{"qemu", "known_hosts", l.spec.Name + ".yaml", "lock"} {
		if err := os.RemoveAll(filepath.Join(l.spec.StateDir, left)); err != nil {
			return fmt.Errorf("destroy machine %s: %w", l.spec.Name, err)
		}
	}
	return nil
}

// existing finds the instance, nil where there is none or no Lima either.
func (l *Lima) existing(ctx context.Context) (limactl, *limaInstance, error) {
	ctl, err := findLimactl(ctx, l.spec.CacheDir)
	if err != nil {
		if _, statErr := os.Lstat(l.dir()); errors.Is(statErr, os.ErrNotExist) && ctl.path == "" {
			return ctl, nil, nil
		}
		return ctl, nil, err
	}
	if l.halfMade() {
		return ctl, nil, nil
	}
	inst, err := l.mine(ctx, ctl)
	return ctl, inst, err
}
