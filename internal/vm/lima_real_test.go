package vm_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"devbox/internal/vm"
	"devbox/internal/vm/vmtest"
)

// testUser names the unprivileged user that root runs the tests of Lima as,
// which refuses root.
const testUser = "DEVBOX_TEST_USER"

// everyStep makes that run go through all steps of the suite. Without it there is
// one boot and one restart, each a minute or more of an emulated processor.
const (
	everyStep = "DEVBOX_TEST_LONG"
	mostSteps = "/^(what_is_missing|create|start|the_system_inside|stop_and_start_keep_data|destroy)$"
)

// TestLimaReal boots a real virtual machine with the limactl that InstallLima
// builds, on whatever base image can be had here. Without KVM that is minutes.
func TestLimaReal(t *testing.T) {
	if testing.Short() {
		t.Skip("needs minutes, and -short was given")
	}
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux: elsewhere Lima is the user's own")
	}
	if os.Geteuid() == 0 {
		asUser(t)
		return
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	home := shortDir(t)
	t.Setenv("LIMA_HOME", home)
	spec := vm.Spec{
		Name: "conform", CPUs: 2, MemoryBytes: 1 << 30, DiskBytes: 10 << 30,
		StateDir: filepath.Join(state, "conform"), CacheDir: filepath.Join(cache, "devbox"),
	}
	if _, err := vm.InstallLima(t.Context(), spec.CacheDir, said(t)); err != nil {
		t.Skipf("needs a limactl: %v", err)
	}
	if err := vm.LimaReady(t.Context(), spec); err != nil {
		t.Skipf("needs Lima: %v", err)
	}
	vmtest.Conform(t, vmtest.Driver{
		Limit: 20 * time.Minute,
		New: func() vm.Machine {
			m, err := vm.NewLima(spec)
			if err != nil {
				t.Fatal(err)
			}
			return told{m, t}
		},
		Leftovers: func() []string {
			files, _ := filepath.Glob(filepath.Join(home, spec.Name, "*"))
			return append(files, processesOf(t, filepath.Join(home, spec.Name))...)
		},
	})
}

// told is a machine whose failures come with the instance's logs.
type told struct {
	vm.Machine
	t *testing.T
}

func (m told) Create(ctx context.Context, p vm.Progress) error {
	return m.tell(m.Machine.Create(ctx, p))
}

func (m told) Start(ctx context.Context, p vm.Progress) error {
	return m.tell(m.Machine.Start(ctx, p))
}

func (m told) tell(err error) error {
	var d interface{ Detail() string }
	if errors.As(err, &d) {
		m.t.Log(d.Detail())
	}
	return err
}

// processesOf lists the processes that name a folder, the host agent and QEMU
// among them.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(text), dir) {
			all = append(all, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return all
}

// said is a Progress that writes to the test's log.
func said(t *testing.T) vm.Progress {
	begin := time.Now()
	return func(step string) { t.Logf("%5.1f s %s", time.Since(begin).Seconds(), step) }
}

// shortDir is a folder short enough for Lima's sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "lima")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// asUser runs this test again as the unprivileged user, with Lima and a disk
// that root made, which has a warm module cache and need not map users.
func asUser(t *testing.T) {
	t.Helper()
	name := os.Getenv(testUser)
	if name == "" {
		t.Skipf("needs an unprivileged user: Lima refuses root. name one in %s", testUser)
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatalf("%s: %v", testUser, err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	rootCache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	from, to := filepath.Join(rootCache, "devbox"), filepath.Join(u.HomeDir, ".cache", "devbox")
	limactl, err := vm.InstallLima(t.Context(), from, said(t))
	if err != nil {
		t.Fatal(err)
	}
	hand := []string{filepath.Dir(filepath.Dir(limactl))}
	if disk, err := vm.BuildDisk(t.Context(), vm.DiskOptions{CacheDir: from}, said(t)); err != nil {
		t.Logf("no disk from packages, so the cloud image it must be: %v", err)
	} else {
		hand = append(hand, filepath.Dir(disk.Image))
	}
	for _, dir := range hand {
		if err := handOver(dir, from, to, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	// `go test` keeps its binary where only root can look.
	binary := filepath.Join(shortDir(t), "vm.test")
	if err := copyFile(os.Args[0], binary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(binary), 0o755); err != nil {
		t.Fatal(err)
	}
	steps := "^" + t.Name() + "$"
	if os.Getenv(everyStep) == "" {
		steps += mostSteps
	}
	cmd := exec.CommandContext(t.Context(), binary, "-test.run="+steps, "-test.v", "-test.timeout=30m")
	cmd.Dir = u.HomeDir
	cmd.Env = []string{"HOME=" + u.HomeDir, "USER=" + name, "LOGNAME=" + name, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	t.Logf("as %s:\n%s", name, out)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skip("needs what the test above names")
	}
}

// handOver copies a folder of one cache to the same place of another, for a
// user, unless it is there. Files that a program must not change are linked.
func handOver(dir, from, to string, uid, gid int) error {
	rel, err := filepath.Rel(from, dir)
	if err != nil {
		return err
	}
	if rel == "." || strings.HasPrefix(rel, "..") {
		return fmt.Errorf("%s is not a folder under %s", dir, from)
	}
	for _, parent := range []string{filepath.Dir(to), to, filepath.Dir(filepath.Join(to, rel))} {
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return err
		}
		if err := os.Lchown(parent, uid, gid); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		sub, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel, sub)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			err = os.MkdirAll(dst, 0o755)
		case info.Mode().IsRegular():
			if have, statErr := os.Stat(dst); statErr == nil && have.Size() == info.Size() && !have.ModTime().Before(info.ModTime()) {
				return nil
			}
			err = copyFile(path, dst, info.Mode().Perm())
		default:
			return nil
		}
		return errors.Join(err, os.Lchown(dst, uid, gid))
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	out, err := exec.Command("cp", "--reflink=auto", "--sparse=always", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return os.Chmod(to, mode)
}
