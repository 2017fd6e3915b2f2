package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
	"devbox/internal/vm"
	"devbox/test/harness"
)

// testCloudConfig changes the cloud-config: one whose script fails is told in
// cloud-init's words and leaves the app alone, the next good one mends it.
func testCloudConfig(t *testing.T, p *harness.Project) {
	const file, step = "cloud-init/server.yaml", "set the machine up by cloud-init/server.yaml"
	before := p.Status(t)
	was := p.Read(t, file) // ends with runcmd
	p.Write(t, file, was+"  - echo bad >/etc/devbox-test\n  - ls /devbox-nowhere\n")
	r := p.Run(t, "up")
	t.Log(r.Stderr)
	for _, text := range []string{"✗ " + step, "error: ", "`ls /devbox-nowhere`", "ls: cannot access '/devbox-nowhere': No such file or directory", "hint: "} {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("the message does not say %q", text)
		}
	}
	if r.Code != 1 || r.Stdout != "" {
		t.Errorf("want exit 1 without a result: %s", r)
	}
	unchanged(t, p, before)

	p.Write(t, file, was+"  - echo good >/etc/devbox-test\n")
	if r := p.Must(t, "up"); !strings.Contains(r.Stderr, "✓ "+step) {
		t.Errorf("the changed file was not applied: %s", r)
	}
	if got := p.Inside(t, "cat /etc/devbox-test"); got != "good" {
		t.Errorf("on the machine the file says %q", got)
	}
	if r := p.Must(t, "up"); strings.Contains(r.Stderr, step) {
		t.Errorf("the same file was applied again: %s", r)
	}
	unchanged(t, p, before)

	// A running watch goes on by the settings before, until they come up.
	w := p.Watch(t)
	p.Write(t, file, was+"  - ls /devbox-nowhere\n")
	if c := w.Next(t, file); c.Outcome != deploy.BadSettings || !strings.Contains(c.Error, "/devbox-nowhere") {
		t.Errorf("watch tells %s %s", c.Outcome, c.Error)
	}
	unchanged(t, p, before)
	p.Write(t, file, was+"  - echo better >/etc/devbox-test\n")
	if c := w.Next(t, ""); c.Outcome != protocol.Unchanged {
		t.Errorf("the first cycle by the new settings: %s %s", c.Outcome, c.Error)
	}
	if got := p.Inside(t, "cat /etc/devbox-test"); got != "better" {
		t.Errorf("on the machine the file says %q", got)
	}
	unchanged(t, p, before)
}

// testRestart has the guest restart without devbox: its app and its ports come
// back by themselves. A container that reboots ends instead, so that its driver
// starts it again here.
func testRestart(t *testing.T, p *harness.Project) {
	version := strings.TrimSpace(p.Get(t, "/version"))
	m, err := vm.NewNspawn(vm.Spec{Name: "bowl", CPUs: 2, MemoryBytes: 2 << 30, StateDir: p.MachineDir(), CacheDir: filepath.Join(p.Cache, "devbox")})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.Status(t).Machine.State != vm.Stopped {
		t.Fatal("it was not the project's machine that was killed")
	}
	if err := m.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for !p.Shows("Ada") {
		if time.Since(begin) > time.Minute {
			t.Fatalf("the port does not come back: %+v", p.Status(t).Ports)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("the page was back %s after SSH", time.Since(begin).Round(time.Millisecond))
	p.Answers(t, version)
	if s := p.Status(t); s.Code != 0 || s.Ports[0].Problem != "" {
		t.Errorf("status exits with %d: %s %+v", s.Code, s.Serving(), s.Ports)
	}
}
