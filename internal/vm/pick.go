package vm

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"devbox/internal/hint"
)

// The drivers, as machine.driver of devbox.yaml names them.
const (
	DriverAuto   = "auto"
	DriverLima   = "lima"
	DriverNspawn = "nspawn"
)

// Facts are what the choice of a driver depends on.
type Facts struct {
	// Lima and Nspawn say what keeps the driver from working here, nil for
	// nothing. Each carries its cure.
	Lima, Nspawn error
	// KVM says whether a virtual machine would have hardware under it; on
	// Linux only, elsewhere it always has.
	KVM bool
	// Root says that this process is root's.
	Root bool
}

// Gather asks this machine.
func Gather(ctx context.Context, spec Spec) Facts {
	return Facts{Lima: LimaReady(ctx, spec), Nspawn: NspawnReady(), KVM: canKVM() == nil, Root: os.Geteuid() == 0}
}

// Pick decides which driver to use, and why in words that follow its name:
// auto takes Lima where it can work, else systemd-nspawn. Nothing is touched.
func Pick(want string, f Facts) (driver, why string, err error) {
	lima := "a virtual machine"
	if !f.KVM {
		lima = "a virtual machine, slow: its processor is emulated, because /dev/kvm cannot be opened"
	}
	const nspawn = "a container on this machine's kernel"
	switch want {
	case DriverLima:
		if f.Lima != nil {
			return "", "", f.Lima
		}
		return DriverLima, lima + ", as asked", nil
	case DriverNspawn:
		if f.Nspawn != nil {
			return "", "", f.Nspawn
		}
		return DriverNspawn, nspawn + ", as asked", nil
	case DriverAuto, "":
		switch {
		case f.Lima == nil:
			return DriverLima, lima, nil
		case f.Nspawn == nil:
			return DriverNspawn, fmt.Sprintf("%s; not lima: %v", nspawn, f.Lima), nil
		}
		return "", "", neither(f)
	}
	return "", "", hint.Errorf("use auto, lima or nspawn", "machine.driver %q is not known", want)
}

// neither is the error where no driver works. Root's cure is nspawn's, since
// Lima never runs as root, and everyone else's is Lima's.
func neither(f Facts) error {
	cure := hint.Of(f.Lima)
	if f.Root {
		cure = hint.Of(f.Nspawn)
	}
	return hint.Errorf(cure, "no machine can run here\nlima: %v\nnspawn: %v", f.Lima, f.Nspawn)
}

// NspawnReady says what keeps systemd-nspawn from running machines here, nil
// for nothing.
func NspawnReady() error {
	return nspawnReady(runtime.GOOS, os.Geteuid(), installed)
}

func nspawnReady(goos string, uid int, has func(tool string) bool) error {
	if goos != "linux" {
		return hint.Errorf("use `driver: lima`", "systemd-nspawn runs on Linux only")
	}
	if uid != 0 {
		return hint.Errorf("run devbox as root, or use `driver: lima`", "systemd-nspawn needs root")
	}
	return notInstalled("systemd-nspawn machines need", lacking(nspawnNeeds, has))
}

// Open picks a driver and returns the machine of that driver, with why.
// Nothing is made or started.
func Open(ctx context.Context, want string, spec Spec) (Machine, string, error) {
	if err := spec.Check(); err != nil {
		return nil, "", err
	}
	driver, why, err := Pick(want, Gather(ctx, spec))
	if err != nil {
		return nil, "", err
	}
	if driver == DriverLima {
		m, err := NewLima(spec)
		if err != nil { // not a nil *Lima in an interface
			return nil, "", err
		}
		return m, why, nil
	}
	m, err := NewNspawn(spec)
	if err != nil {
		return nil, "", err
	}
	return m, why, nil
}
