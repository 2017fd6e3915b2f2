package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"devbox/internal/hint"
)

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
