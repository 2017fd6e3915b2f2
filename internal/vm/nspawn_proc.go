package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A running container is found by looking at the processes themselves: no pid
// file to go stale. Its processes are kept in control groups of its own, so
// that stopping by force misses none, and so that two containers do not take
// each other's services for their own.

// supervisor returns the pid of the machine's systemd-nspawn, 0 if it is not
// running.
func (n *Nspawn) supervisor() (int, error) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	want := "--machine=" + n.id
	best := 0
	for _, e := range names {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if args := nspawnArgs(pid); !slices.Contains(args, want) {
			continue
		}
		// Before it becomes init, the child looks the same as its parent. Both
		// are root's; anyone may give a process such arguments.
		var st syscall.Stat_t
		if syscall.Stat(filepath.Join("/proc", e.Name()), &st) != nil || st.Uid != 0 {
			continue
		}
		if best == 0 || slices.Contains(children(pid), best) || !slices.Contains(children(best), pid) && pid < best {
			best = pid
		}
	}
	return best, nil
}

// nspawnArgs returns the arguments of a process that is a systemd-nspawn, nil
// of any other.
func nspawnArgs(pid int) []string {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(string(cmdline), "\x00")
	if err != nil || filepath.Base(args[0]) != "systemd-nspawn" { // systemd-run makes it a path
		return nil
	}
	return args
}

func children(pid int) []int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		if child, err := strconv.Atoi(f); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// leader returns the pid of the container's init, 0 while there is none.
func leader(supervisor int) int {
	for _, pid := range children(supervisor) {
		if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(cmdline) > 0 && nspawnArgs(pid) == nil {
			return pid
		}
	}
	return 0
}

// startedAt returns when a process was started.
func startedAt(pid int) time.Time {
	st, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

// launch starts systemd-nspawn so that it outlives this process and the
// login, with its output in the console file.
func (n *Nspawn) launch(ctx context.Context) error {
	console, err := os.OpenFile(n.Console(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	args, err := n.enterGroup()
	if err != nil {
		return err
	}
	args = append(args,
		"systemd-nspawn", "--quiet", "--directory="+n.path("root"), "--machine="+n.id, "--hostname="+n.spec.Name,
		"--settings=no", "--boot", "--keep-unit", "--register=no", "--kill-signal=SIGRTMIN+4",
		"--capability=all", "--network-namespace-path="+netnsPath(n.id), "--resolv-conf=off", "--timezone=off", "--link-journal=no",
		"--bind=/dev/loop-control", "--setenv=TERM=dumb", "--console=read-only",
	)
	path, err := lookTool(args[0])
	if err != nil {
		return err
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = console, console
	// Sysctls of the container's own network may be set inside, as on a server.
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start systemd-nspawn: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // leaves no zombie where this process lives on
	return waitFor(ctx, 30*time.Second, 5*time.Millisecond, "start systemd-nspawn", func() (bool, error) {
		select {
		case err := <-ended:
			log, _ := os.ReadFile(n.Console())
			return false, fmt.Errorf("start systemd-nspawn: it ended (%v):\n%s", err, lastLines(string(log), 15))
		default:
			pid, err := n.supervisor()
			return pid != 0, err
		}
	})
}

// removeRuntime removes what a killed systemd-nspawn leaves in /run. Its next
// start refuses to run while the first is mounted (seen with systemd 257).
func (n *Nspawn) removeRuntime(ctx context.Context) error {
	var errs []error
	for _, kind := range []string{"unix-export", "propagate"} {
		dir := filepath.Join("/run/systemd/nspawn", kind, n.id)
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			return err
		}
		for _, at := range mountsBelow(string(mounts), dir) {
			if _, err := run(ctx, "umount", "--lazy", at); err != nil {
				errs = append(errs, err)
			}
		}
		errs = append(errs, ignoreMissing(os.Remove(dir)))
	}
	var st syscall.Stat_t
	if syscall.Stat(n.path("root"), &st) == nil {
		lock := fmt.Sprintf("/run/systemd/nspawn/locks/inode-%d:%d", st.Dev, st.Ino)
		errs = append(errs, ignoreMissing(os.Remove(lock)))
	}
	return errors.Join(errs...)
}
