// Package vmtest is the one test that every kind of dev machine passes: the
// promises of vm.Machine, in the order of a machine's life, on a real one.
package vmtest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"devbox/internal/hint"
	"devbox/internal/vm"
)

// Driver is what Conform needs to know of the driver under test.
type Driver struct {
	// New returns the machine, which does not exist at first. It is called
	// several times and describes the same machine each time: what is true is
	// asked of the system, never remembered in the value.
	New func() vm.Machine
	// Leftovers lists what the host still has of the machine: processes,
	// devices, files. It must be empty before and after, and not in between.
	Leftovers func() []string
	// Limit is the longest that one call may take.
	Limit time.Duration
}

// suiteWanted is what runs on the production server.
const suiteWanted = "debian 13 257"

// Conform takes a machine through its life. It ends with the machine destroyed.
func Conform(t *testing.T, d Driver) {
	c := &conformer{Driver: d}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), d.Limit)
		defer cancel()
		if err := d.New().Destroy(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"what is missing", c.missing},
		{"create", c.create},
		{"start", c.start},
		{"the system inside", c.inside},
		{"stop and start keep data", c.stopStart},
		{"a power cut keeps data", c.killStart},
		{"an interrupted start", c.interruptedStart},
		{"destroy", c.destroy},
	} {
		if !t.Run(step.name, step.run) {
			t.FailNow() // each step begins where the last one ended
		}
	}
}

type conformer struct {
	Driver
	bootID string
}

// ctx ends when a call has taken too long.
func (c *conformer) ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), c.Limit)
	t.Cleanup(cancel)
	return ctx
}

func (c *conformer) missing(t *testing.T) {
	m := c.New()
	c.wantState(t, vm.Missing)
	if left := c.Leftovers(); len(left) > 0 {
		t.Fatalf("before the machine was made, there is %q", left)
	}
	if err := m.Start(c.ctx(t), nil); !errors.Is(err, vm.ErrMissing) || hint.Of(err) == "" {
		t.Errorf("Start: %v (cure %q), want ErrMissing with a cure", err, hint.Of(err))
	}
	if _, err := m.Endpoint(c.ctx(t)); !errors.Is(err, vm.ErrNotRunning) && !errors.Is(err, vm.ErrMissing) {
		t.Errorf("Endpoint: %v, want ErrNotRunning or ErrMissing", err)
	}
	c.all(t, "on a missing machine", m.Stop, m.Kill, m.Destroy)
	c.wantState(t, vm.Missing)
}

func (c *conformer) create(t *testing.T) {
	m := c.New()
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Create(stopped, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Create with a cancelled context: %v", err)
	}
	var steps []string
	if err := m.Create(c.ctx(t), func(s string) { steps = append(steps, s) }); err != nil {
		t.Fatal(err)
	}
	if len(steps) == 0 {
		t.Error("Create made a machine and told no step")
	}
	c.wantState(t, vm.Stopped)
	if len(c.Leftovers()) == 0 {
		t.Error("Leftovers sees nothing of a machine that exists")
	}
	begin, steps := time.Now(), nil
	if err := c.New().Create(c.ctx(t), func(s string) { steps = append(steps, s) }); err != nil {
		t.Fatal(err)
	}
	if len(steps) > 0 || time.Since(begin) > 5*time.Second {
		t.Errorf("Create of a machine that exists took %s and did %q", time.Since(begin), steps)
	}
	c.wantState(t, vm.Stopped)
	if _, err := m.Endpoint(c.ctx(t)); !errors.Is(err, vm.ErrNotRunning) {
		t.Errorf("Endpoint of a stopped machine: %v, want ErrNotRunning", err)
	}
	c.all(t, "on a stopped machine", m.Stop, m.Kill)
}

func (c *conformer) start(t *testing.T) {
	begin := time.Now()
	if err := c.New().Start(c.ctx(t), func(s string) { t.Logf("%6.2f s %s", time.Since(begin).Seconds(), s) }); err != nil {
		t.Fatal(err)
	}
	t.Logf("boot to SSH: %.2f s", time.Since(begin).Seconds())
	c.wantState(t, vm.Running)
	e := c.endpoint(t)
	if info, err := os.Stat(e.IdentityFile); err != nil || info.Mode()&(0o077|fs.ModeType) != 0 {
		t.Errorf("the key %s: %v, %v", e.IdentityFile, info, err)
	}
	if info, err := os.Stat(c.New().Console()); err != nil || info.Size() == 0 {
		t.Errorf("the console's log: %v", err)
	}
	c.bootID = c.ssh(t, "cat /proc/sys/kernel/random/boot_id")
	if err := c.New().Start(c.ctx(t), nil); err != nil {
		t.Errorf("Start of a running machine: %v", err)
	}
	if err := c.New().Create(c.ctx(t), nil); err != nil {
		t.Errorf("Create of a running machine: %v", err)
	}
	if now := c.ssh(t, "cat /proc/sys/kernel/random/boot_id"); now != c.bootID {
		t.Error("Start or Create of a running machine booted it again")
	}
}

func (c *conformer) inside(t *testing.T) {
	const system = `. /etc/os-release; echo $ID $VERSION_ID $(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')`
	if got := c.ssh(t, system); got != suiteWanted {
		t.Errorf("it runs %q, want %q", got, suiteWanted)
	}
	for command, want := range map[string]string{
		"sudo -n id -u":     "0",
		"id -u | grep -c .": "1",
		"systemctl is-system-running --wait || systemctl --failed --no-legend": "running",
		"cloud-init --version >/dev/null && echo yes":                          "yes",
		"getent hosts localhost >/dev/null && echo yes":                        "yes",
	} {
		if got := c.ssh(t, command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	if e := c.endpoint(t); c.ssh(t, "id -un") != e.User {
		t.Errorf("logged in as %s", c.ssh(t, "id -un"))
	}
}

func (c *conformer) stopStart(t *testing.T) {
	c.ssh(t, "echo one >marker")
	m := c.New()
	c.all(t, "of a running machine", m.Stop)
	c.wantState(t, vm.Stopped)
	if _, err := m.Endpoint(c.ctx(t)); !errors.Is(err, vm.ErrNotRunning) {
		t.Errorf("Endpoint: %v, want ErrNotRunning", err)
	}
	c.all(t, "of a stopped machine", m.Stop)
	if err := m.Start(c.ctx(t), nil); err != nil {
		t.Fatal(err)
	}
	if got := c.ssh(t, "cat marker"); got != "one" {
		t.Errorf("after stop and start the file holds %q", got)
	}
	c.wantRebooted(t)
}

func (c *conformer) killStart(t *testing.T) {
	c.ssh(t, "echo two >marker; sync")
	m := c.New()
	c.all(t, "of a running machine", m.Kill)
	c.wantState(t, vm.Stopped)
	c.all(t, "of a killed machine", m.Kill)
	if err := m.Start(c.ctx(t), nil); err != nil {
		t.Fatal(err)
	}
	if got := c.ssh(t, "cat marker"); got != "two" {
		t.Errorf("after a power cut the file holds %q", got)
	}
	c.wantRebooted(t)
}

func (c *conformer) interruptedStart(t *testing.T) {
	m := c.New()
	c.all(t, "of a running machine", m.Stop)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := m.Start(short, nil); err == nil {
		t.Error("Start succeeded in 0.3 s: nothing was interrupted")
	}
	if err := c.New().Start(c.ctx(t), nil); err != nil {
		t.Fatalf("Start after an interrupted one: %v", err)
	}
	if got := c.ssh(t, "cat marker"); got != "two" {
		t.Errorf("the file holds %q", got)
	}
}

// destroy is of a running machine: it need not be stopped first.
func (c *conformer) destroy(t *testing.T) {
	c.all(t, "", c.New().Destroy)
	c.wantState(t, vm.Missing)
	if left := c.Leftovers(); len(left) > 0 {
		t.Errorf("Destroy left %q", left)
	}
	c.all(t, "of a destroyed machine", c.New().Destroy)
}

func (c *conformer) all(t *testing.T, when string, calls ...func(context.Context) error) {
	t.Helper()
	for i, call := range calls {
		if err := call(c.ctx(t)); err != nil {
			t.Fatalf("call %d %s: %v", i+1, when, err)
		}
	}
}

func (c *conformer) wantState(t *testing.T, want vm.State) {
	t.Helper()
	st, err := c.New().Status(c.ctx(t))
	if err != nil || st.State != want {
		t.Fatalf("status %+v, %v; want %s", st, err, want)
	}
}

func (c *conformer) wantRebooted(t *testing.T) {
	t.Helper()
	now := c.ssh(t, "cat /proc/sys/kernel/random/boot_id")
	if now == c.bootID {
		t.Error("it is still the same boot")
	}
	c.bootID = now
}

func (c *conformer) endpoint(t *testing.T) vm.Endpoint {
	t.Helper()
	e, err := c.New().Endpoint(c.ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (c *conformer) ssh(t *testing.T, command string) string {
	t.Helper()
	return SSH(c.ctx(t), t, c.endpoint(t), command)
}

// SSH runs a command on a machine by ssh(1), which verifies the host key
// against the endpoint's, and returns what it wrote to stdout.
func SSH(ctx context.Context, t *testing.T, e vm.Endpoint, command string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, "ssh", "-F", "none", "-i", e.IdentityFile, "-p", strconv.Itoa(e.Port),
		"-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile="+e.KnownHostsFile, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "ConnectTimeout=30",
		e.User+"@"+e.Host, command)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ssh %s %q: %v\n%s", e.Host, command, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}
