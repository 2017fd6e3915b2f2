package vm_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devbox/internal/vm"
	"devbox/internal/vm/vmtest"
)

// sharedCache is where tests keep what takes long to build, as devbox itself
// does.
func sharedCache(t *testing.T) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "devbox")
}

func newNspawn(t *testing.T, name string) (func() vm.Machine, vm.Spec) {
	t.Helper()
	if err := vm.NspawnReady(); err != nil {
		t.Skipf("needs systemd-nspawn: %v", err)
	}
	spec := vm.Spec{
		Name: name, CPUs: 1, MemoryBytes: 512 << 20,
		StateDir: filepath.Join(t.TempDir(), name), CacheDir: sharedCache(t),
	}
	return func() vm.Machine {
		m, err := vm.NewNspawn(spec)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}, spec
}

func TestNspawnConforms(t *testing.T) {
	machine, spec := newNspawn(t, "conform")
	vmtest.Conform(t, vmtest.Driver{
		New: machine, Limit: 10 * time.Minute,
		Leftovers: func() []string { return hostTraces(t, spec) },
	})
}

// hostTraces looks for a machine wherever the host could still have it.
func hostTraces(t *testing.T, spec vm.Spec) []string {
	t.Helper()
	var found []string
	look := func(what, text string) {
		for line := range strings.Lines(text) {
			if strings.Contains(line, "devbox-"+spec.Name) || strings.Contains(line, spec.StateDir) {
				found = append(found, what+": "+strings.TrimSpace(line))
			}
		}
	}
	for what, args := range map[string][]string{
		"process": {"ps", "-eo", "pid,args"}, "netns": {"ip", "netns"}, "nft": {"nft", "list", "tables"},
		"loop": {"losetup", "--list"}, "cgroup": {"find", "/sys/fs/cgroup", "-maxdepth", "4", "-name", "devbox-*"},
		"runtime": {"find", "/run", "-xdev", "-name", "devbox-*"},
	} {
		out, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		look(what, string(out))
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	look("mount", string(mounts))
	if _, err := os.Lstat(spec.StateDir); err == nil {
		found = append(found, "file: "+spec.StateDir)
	}
	return found
}

// TestNspawnTwo runs two machines at once: each has its own services, address
// and data, both reach the host, and one going leaves the other alone.
func TestNspawnTwo(t *testing.T) {
	ctx := t.Context()
	var machines []vm.Machine
	var specs []vm.Spec
	for _, name := range []string{"one", "two"} {
		machine, spec := newNspawn(t, name)
		specs = append(specs, spec)
		m := machine()
		t.Cleanup(func() {
			if err := m.Destroy(context.Background()); err != nil {
				t.Error(err)
			}
		})
		if err := m.Create(ctx, nil); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(ctx, nil); err != nil {
			t.Fatal(err)
		}
		machines = append(machines, m)
	}
	ssh := func(m vm.Machine, command string) string {
		e, err := m.Endpoint(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return vmtest.SSH(ctx, t, e, command)
	}
	one, two := machines[0], machines[1]
	for _, m := range machines {
		if got := ssh(m, "systemctl is-system-running --wait"); got != "running" {
			t.Errorf("%s", got)
		}
	}
	if a, b := ssh(one, "hostname; cat /etc/machine-id"), ssh(two, "hostname; cat /etc/machine-id"); a == b || !strings.HasPrefix(a, "one\n") {
		t.Errorf("they are not two: %q, %q", a, b)
	}
	// More memory asked for than the running machine was given.
	if st, err := one.Status(ctx); err != nil || st.Drift != "" {
		t.Errorf("as asked for: %+v, %v", st, err)
	}
	more := specs[0]
	more.MemoryBytes += 256 << 20
	m, err := vm.NewNspawn(more)
	if err != nil {
		t.Fatal(err)
	}
	const drift = "machine.memory asks for 768 MiB, it has 512 MiB: in effect after `devbox down && devbox up`"
	if st, err := m.Status(ctx); err != nil || st.Drift != drift || !strings.Contains(st.Detail, drift) {
		t.Errorf("with more asked for: %+v, %v", st, err)
	}
	if err := one.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if got := ssh(two, "systemctl is-system-running; systemctl is-active ssh"); got != "running\nactive" {
		t.Errorf("after the other was killed: %q", got)
	}
}

// TestNspawnRepairs breaks a machine in the ways that crashes and other people
// do, and finds it whole after the next call.
func TestNspawnRepairs(t *testing.T) {
	begin := time.Now()
	machine, spec := newNspawn(t, "repairs")
	ctx := t.Context()
	m := machine()
	t.Cleanup(func() {
		if err := m.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ssh := func(command string) string {
		t.Helper()
		e, err := m.Endpoint(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return vmtest.SSH(ctx, t, e, command)
	}
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%6.2f s %s", time.Since(begin).Seconds(), what)
	}
	state := func(want vm.State) {
		t.Helper()
		if st, err := m.Status(ctx); err != nil || st.State != want {
			t.Fatalf("status %+v, %v; want %s", st, err, want)
		}
	}

	// A Create that was killed: a part of a tree, under the temporary name.
	do("prepare", os.MkdirAll(filepath.Join(spec.StateDir, "root.new", "etc"), 0o755))
	state(vm.Broken)
	do("create", m.Create(ctx, nil))
	state(vm.Stopped)
	do("start", m.Start(ctx, nil))

	// The host's firewall was flushed, the cable pulled.
	st, err := m.Status(ctx)
	do("status", err)
	host := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	host("nft", "delete", "table", "ip", st.NetNS)
	host("ip", "link", "del", st.Link)
	do("start", m.Start(ctx, nil))
	if out, err := exec.Command("nft", "list", "table", "ip", st.NetNS).CombinedOutput(); err != nil || !strings.Contains(string(out), "masquerade") {
		t.Errorf("masquerading did not come back: %s", out)
	}
	ssh("true")
	host("ip", "netns", "del", st.NetNS)
	do("start", m.Start(ctx, nil))
	host("ip", "netns", "exec", st.NetNS, "true")

	// losetup makes devices that no process holds.
	loop := ssh("truncate -s 1M disk && sudo losetup --find --show $PWD/disk")
	state(vm.Running)
	do("kill", m.Kill(ctx))
	if file, err := os.ReadFile("/sys/block/" + filepath.Base(loop) + "/loop/backing_file"); err == nil && strings.HasSuffix(strings.TrimSpace(string(file)), "/disk") {
		t.Errorf("%s is still there, for %s", loop, file)
	}

	// The network was left over, as by a kill of devbox between two steps.
	host("ip", "netns", "add", st.NetNS)
	do("start", m.Start(ctx, nil))

	// The key was lost; the machine's data must not be.
	ssh("echo kept >marker")
	do("stop", m.Stop(ctx))
	do("lose the key", os.Remove(filepath.Join(spec.StateDir, "key")))
	state(vm.Broken)
	do("create", m.Create(ctx, nil))
	do("start", m.Start(ctx, nil))
	if got := ssh("cat marker"); got != "kept" {
		t.Errorf("the marker holds %q", got)
	}
}

// TestNspawnKilled kills devbox itself in the middle of its steps; whatever it
// left, the next calls make a machine of it.
func TestNspawnKilled(t *testing.T) {
	machine, spec := newNspawn(t, "killed")
	ctx := t.Context()
	m := machine()
	t.Cleanup(func() {
		if err := m.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	for _, tt := range []struct {
		step  string
		after time.Duration
	}{
		{"unpack the base system", 50 * time.Millisecond},
		{"boot", 0},
		{"wait for SSH", 0},
		{"wait for SSH", 300 * time.Millisecond},
	} {
		killAt(t, spec, tt.step, tt.after)
		st, err := m.Status(ctx)
		t.Logf("killed %s after %q: %s %s, %v", tt.after, tt.step, st.State, st.Detail, err)
		if err := m.Create(ctx, nil); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(ctx, nil); err != nil {
			t.Fatal(err)
		}
		e, err := m.Endpoint(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got := vmtest.SSH(ctx, t, e, "systemctl is-system-running --wait; dpkg --audit"); got != "running" {
			t.Errorf("%q", got)
		}
		if err := m.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// killAt creates and starts a machine in a process of its own, and kills that
// with SIGKILL some time after it told a step.
func killAt(t *testing.T, spec vm.Spec, step string, after time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestNspawnUp$")
	cmd.Env = append(os.Environ(), "DEVBOX_TEST_UP="+spec.StateDir, "DEVBOX_TEST_CACHE="+spec.CacheDir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := false
	for lines := bufio.NewScanner(out); !told && lines.Scan(); {
		told = lines.Text() == step
	}
	time.Sleep(after)
	cmd.Process.Kill()
	cmd.Wait()
	if !told {
		t.Fatalf("it never came to %q", step)
	}
}

// TestNspawnUp is the process that TestNspawnKilled kills.
func TestNspawnUp(t *testing.T) {
	state := os.Getenv("DEVBOX_TEST_UP")
	if state == "" {
		return
	}
	m, err := vm.NewNspawn(vm.Spec{Name: filepath.Base(state), CPUs: 1, MemoryBytes: 512 << 20, StateDir: state, CacheDir: os.Getenv("DEVBOX_TEST_CACHE")})
	if err != nil {
		t.Fatal(err)
	}
	tell := func(step string) { fmt.Println(step) }
	if err := m.Create(t.Context(), tell); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context(), tell); err != nil {
		t.Fatal(err)
	}
}
