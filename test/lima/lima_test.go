// Package lima goes through devbox as a person does, on a virtual machine run
// by Lima, as the unprivileged user that Lima asks for. Where there is no KVM
// the machine's processor is emulated, and all takes minutes.
package lima

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
	"devbox/internal/vm"
	"devbox/test/harness"
)

const (
	page = "share/templates/page.html"
	unit = "deployment/portable/usr/lib/systemd/system/bowl.service"
)

// TestLima is one machine: up, an edit, a changed unit, stop and start, a power
// cut while it is taken for a server, the end.
func TestLima(t *testing.T) {
	if testing.Short() {
		t.Skip("needs minutes, and -short was given")
	}
	p := project(t)
	// Time under an emulated processor is not what is tested here.
	p.Edit(t, "devbox.yaml", "deadline: 10s", "deadline: 3m")
	p.Edit(t, "devbox.yaml", "machine:\n", "machine:\n  driver: lima\n  cpus: 2\n  memory: 1GiB\n  disk: 5GiB\n")

	r := p.Must(t, "up", "--json")
	t.Logf("up took %s\n%s", r.Took.Round(time.Second), r.Stderr)
	first := r.Cycle(t)
	if first.Outcome != protocol.Committed {
		t.Errorf("up: %s", first.Outcome)
	}
	p.Answers(t, first.Version)
	s := p.Status(t)
	if s.Code != 0 || s.Machine.Driver != vm.DriverLima {
		t.Errorf("status exits with %d, driver %s: %s", s.Code, s.Machine.Driver, s.Problem)
	}
	if s.Machine.Slow != !kvm(t) || s.Machine.Slow && !strings.Contains(r.Stderr, "slow") {
		t.Errorf("the machine is slow: %t, KVM can be used: %t, and up says\n%s", s.Machine.Slow, kvm(t), r.Stderr)
	}
	if again := p.Must(t, "up", "--json"); again.Cycle(t).Outcome != protocol.Unchanged {
		t.Errorf("the second up did something: %s", again)
	} else {
		t.Logf("up with nothing to do took %s", again.Took.Round(time.Millisecond))
	}

	version := testWatch(t, p)
	testStop(t, p, version)
	testServer(t, p)

	p.Must(t, "destroy", "--yes")
	if s := p.Status(t); s.Machine.State != vm.Missing {
		t.Errorf("after destroy: %s", s.Machine.State)
	}
	if left := processes(t, p.Home); len(left) > 0 {
		t.Errorf("destroy left\n%s", strings.Join(left, "\n"))
	}
}

// testWatch edits a template, which takes the short way to switch, and a unit,
// which is attached again.
func testWatch(t *testing.T, p *harness.Project) (version string) {
	w := p.Watch(t)
	before := p.Status(t)
	for _, edit := range []struct {
		file, old, new string
		reload         bool
	}{
		{page, "<h1>Science Bowl</h1>", "<h1>Second Bowl</h1>", false},
		{unit, "WatchdogSec=60s", "WatchdogSec=59s", true},
	} {
		p.Edit(t, edit.file, edit.old, edit.new)
		c := w.Next(t, edit.file)
		t.Logf("%s took %s: %+v", edit.file, c.Took.Round(time.Millisecond), c.Phases)
		if c.Outcome != protocol.Committed || len(c.Restart) != 1 || c.Restart[0].Unit != "bowl.service" {
			t.Errorf("%s: %s, restarted %v: %s", edit.file, c.Outcome, c.Restart, c.Error)
		}
		if reload := slices.ContainsFunc(c.Phases, func(x protocol.Phase) bool { return x.Name == "reload" }); reload != edit.reload {
			t.Errorf("%s: reloaded: %t", edit.file, reload)
		}
		p.Answers(t, c.Version)
		version = c.Version
	}
	if !strings.Contains(p.Get(t, "/"), "<h1>Second Bowl</h1>") {
		t.Error("the page is not the new one")
	}
	if after := p.Status(t); after.PID("bowl-litestream.service") != before.PID("bowl-litestream.service") || after.PID("bowl.service") == before.PID("bowl.service") {
		t.Errorf("the processes were and are\n%s\n%s", before.Serving(), after.Serving())
	}
	if got := p.Inside(t, "systemctl show --value --property=WatchdogUSec bowl.service"); got != "59s" {
		t.Errorf("systemd knows the unit with WatchdogUSec=%s", got)
	}
	if code := w.Stop(t); code != 0 {
		t.Errorf("watch exits with %d on Ctrl-C\n%s", code, w.Said())
	}
	return version
}

// testStop restarts the guest: the ports come back with it.
func testStop(t *testing.T, p *harness.Project, version string) {
	r := p.Must(t, "down")
	t.Logf("down took %s", r.Took.Round(time.Second))
	if s := p.Status(t); s.Machine.State != vm.Stopped {
		t.Errorf("after down: %s", s.Machine.State)
	}
	if conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", p.Port), time.Second); err == nil {
		conn.Close()
		t.Error("after down the port is still open")
	}
	r = p.Must(t, "up")
	t.Logf("up of a stopped machine took %s", r.Took.Round(time.Second))
	p.Answers(t, version)
}

// project belongs to the user that devbox runs as, with what takes long to
// build made beforehand by this process.
func project(t *testing.T) *harness.Project {
	t.Helper()
	if os.Geteuid() != 0 {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		needLima(t, filepath.Join(cache, "devbox"))
		return harness.New(t, harness.Options{Cache: cache})
	}
	name := os.Getenv(harness.UserVariable)
	if name == "" {
		t.Skipf("needs an unprivileged user, because Lima refuses root: name one in %s", harness.UserVariable)
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	p := harness.New(t, harness.Options{Cache: handOver(t, u), User: u})
	// As in `make demo`. It finds the limactl that was handed over: to build one
	// the user would have to fetch all of Lima's modules again.
	if r := p.Must(t, "doctor", "--fix", "--driver", vm.DriverLima); !strings.Contains(r.Stdout, "✓ machines     lima: a virtual machine") {
		t.Errorf("the machine will not be one of Lima's: %s", r)
	}
	return p
}

func needLima(t *testing.T, cache string) {
	t.Helper()
	spec := vm.Spec{Name: "bowl", StateDir: t.TempDir(), CacheDir: cache}
	if _, err := vm.InstallLima(t.Context(), cache, func(s string) { t.Log(s) }); err != nil {
		t.Skipf("needs limactl: %v", err)
	}
	if err := vm.LimaReady(t.Context(), spec); err != nil {
		t.Skipf("needs Lima: %v", err)
	}
}

// handOver gives the user a cache with what only root can build from what is
// here: limactl, the disk from packages and litestream.
func handOver(t *testing.T, u *user.User) (cache string) {
	t.Helper()
	mine, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	from := filepath.Join(mine, "devbox")
	said := func(s string) { t.Log(s) }
	limactl, err := vm.InstallLima(t.Context(), from, said)
	if err != nil {
		t.Fatal(err)
	}
	hand := []string{filepath.Dir(filepath.Dir(limactl))}
	if disk, err := vm.BuildDisk(t.Context(), vm.DiskOptions{CacheDir: from}, said); err != nil {
		t.Logf("no disk from packages, so the cloud image it must be: %v", err)
	} else {
		hand = append(hand, filepath.Dir(disk.Image))
	}
	hand = append(hand, harness.Tools(t)...)
	cache = filepath.Join(u.HomeDir, ".cache")
	for _, dir := range hand {
		rel, err := filepath.Rel(from, dir)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(cache, "devbox", rel)
		if _, err := os.Stat(to); errors.Is(err, os.ErrNotExist) {
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			harness.Output(t, "cp", "-r", "--reflink=auto", "--sparse=always", "--preserve=mode,timestamps", dir, to)
		}
	}
	harness.Output(t, "chown", "-R", u.Uid+":"+u.Gid, cache)
	return cache
}

// kvm says whether the user may open /dev/kvm.
func kvm(t *testing.T) bool {
	t.Helper()
	name := os.Getenv(harness.UserVariable)
	if os.Geteuid() != 0 {
		f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
		if err == nil {
			f.Close()
		}
		return err == nil
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return false
	}
	out := harness.Output(t, "runuser", "-u", name, "--", "sh", "-c", "test -w /dev/kvm && echo yes || echo no")
	return strings.TrimSpace(out) == "yes"
}

// processes lists those that name a folder.
func processes(t *testing.T, dir string) []string {
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
