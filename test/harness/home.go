package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"devbox/internal/vm"
)

// homes is how home folders of projects begin; short, for the sake of sockets.
const homes = "/tmp/devbox-home-"

// makeHome makes a home folder, until the end of the test. First it gives back
// those of tests that were killed before they could.
func makeHome(t testing.TB) string {
	t.Helper()
	if err := sweep(t); err != nil {
		t.Fatalf("give back what tests left that were killed: %v", err)
	}
	home, err := os.MkdirTemp(filepath.Split(homes))
	if err != nil {
		t.Fatal(err)
	}
	owner, err := own(home)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer owner.Close()
		if err := giveBack(home); err != nil {
			t.Errorf("give back %s: %v", home, err)
		}
	})
	return home
}

// own locks a home folder for as long as this process lives. It fails where
// another one has it.
func own(home string) (*os.File, error) {
	owner, err := os.Open(home)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(owner.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner.Close()
		return nil, err
	}
	return owner, nil
}

func sweep(t testing.TB) error {
	t.Helper()
	all, err := filepath.Glob(homes + "*")
	if err != nil {
		return err
	}
	for _, home := range all {
		owner, err := own(home)
		if err != nil {
			continue // it is in use, or goes at this moment
		}
		t.Logf("giving back %s of a test that was killed", home)
		err = giveBack(home)
		owner.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// layDisk has what devbox keeps of machines lie on a small disk of its own,
// which can be full.
func layDisk(t testing.TB, home string) {
	t.Helper()
	disk, state := filepath.Join(home, "disk"), filepath.Join(home, state)
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	Output(t, "truncate", "--size=4G", disk)
	Output(t, "mkfs.ext4", "-q", "-m", "0", disk)
	Output(t, "mount", "-o", "loop", disk, state)
}

// giveBack ends all that a home folder has on this computer, whatever devbox was
// in the middle of, and removes it.
func giveBack(home string) error {
	if err := endProcesses(home); err != nil {
		return err
	}
	if vm.NspawnReady() == nil { // a machine of Lima's is processes and files
		if err := destroyMachines(home); err != nil {
			return err
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, line := range slices.Backward(strings.Split(string(mounts), "\n")) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], home+"/") {
			if out, err := exec.Command("umount", "--lazy", f[1]).CombinedOutput(); err != nil {
				return fmt.Errorf("umount %s: %w\n%s", f[1], err, out)
			}
		}
	}
	return os.RemoveAll(home)
}

// endProcesses kills those whose home it is, until there are none.
func endProcesses(home string) error {
	for begin := time.Now(); time.Since(begin) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
		found := processes(home)
		if len(found) == 0 {
			return nil
		}
		for _, pid := range found {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return errors.New("its processes go on")
}

// processes are those that have it as their home folder.
func processes(home string) []int {
	var found []int
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, _ := os.ReadFile(file)
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && strings.Contains("\x00"+string(env), "\x00HOME="+home+"\x00") {
			found = append(found, pid)
		}
	}
	return found
}

func destroyMachines(home string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir := filepath.Join(home, machines)
	all, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range all {
		if !e.IsDir() {
			continue // a lock
		}
		m, err := vm.NewNspawn(vm.Spec{Name: e.Name(), StateDir: filepath.Join(dir, e.Name()), CacheDir: filepath.Join(home, "cache", "devbox")})
		if err == nil {
			err = m.Destroy(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
