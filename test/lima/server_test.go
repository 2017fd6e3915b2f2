package lima

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"devbox/internal/protocol"
	"devbox/test/harness"
)

// testServer takes the virtual machine for a server, and cuts its power while a
// release is on trial. When it has booted it runs the release before, without a
// hand: a real kernel, a real disk, and what was not synced is gone.
func testServer(t *testing.T, p *harness.Project) {
	ssh := instanceFile(t, p, "ssh.config")
	user := sshSetting(t, ssh, "User")
	writeSSHConfig(t, p, ssh)
	p.Write(t, "devbox.yaml", p.Read(t, "devbox.yaml")+fmt.Sprintf(`
targets:
  prod:
    host: prod
    user: %s
    trial: 1s
    env:
      bowl.service: {BOWL_GREETING: This is the server.}
      bowl-restore.service: {BOWL_REPLICA: "file:///var/lib/bowl/replica"}
      bowl-litestream.service: {BOWL_REPLICA: "file:///var/lib/bowl/replica"}
`, user))

	r := p.Must(t, "provision", "prod", "--yes")
	if !strings.Contains(r.Stdout, "nothing to do") {
		t.Errorf("the machine is set up already: %s", r)
	}
	first := p.Must(t, "deploy", "prod", "--yes", "--json").Cycle(t)
	if first.Outcome != protocol.Committed || !strings.Contains(p.Get(t, "/"), "This is the server.") {
		t.Errorf("the first deploy: %s, and the page is\n%s", first.Outcome, p.Get(t, "/"))
	}

	undo := p.Undo(t, page, unit)
	p.Edit(t, page, "<h1>Second Bowl</h1>", "<h1>Third Bowl</h1>")
	p.Edit(t, unit, "WatchdogSec=59s", "WatchdogSec=58s")
	p.Edit(t, "devbox.yaml", "trial: 1s", "trial: 10m")
	ctx, cancel := context.WithTimeout(t.Context(), harness.Limit)
	defer cancel()
	deploy := p.Command(ctx, "deploy", "prod", "--yes", "--allow-unproven")
	var said bytes.Buffer
	deploy.Stdout, deploy.Stderr = &said, &said
	if err := deploy.Start(); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(p.Get(t, "/"), "<h1>Third Bowl</h1>") {
		if ctx.Err() != nil {
			t.Fatalf("the release on trial never came\n%s", &said)
		}
		time.Sleep(time.Second)
	}
	if got := p.Inside(t, "systemctl show --value --property=WatchdogUSec bowl.service; ls /var/lib/devbox/bowl/journal.json"); got != "58s\n/var/lib/devbox/bowl/journal.json" {
		t.Errorf("on trial the host has %q", got)
	}
	qemu, err := strconv.Atoi(strings.TrimSpace(read(t, instanceFile(t, p, "qemu.pid"))))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(qemu, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}

	undo()
	up := p.Must(t, "up")
	if strings.Contains(up.Stderr, "undid") {
		t.Errorf("the boot left it to the next devbox: %s", up)
	}
	boot := p.Inside(t, "journalctl --boot --unit devbox-recover.service --output=cat")
	if !strings.Contains(boot, "undid "+next(first.Release)) {
		t.Errorf("the boot did not undo %s:\n%s", next(first.Release), boot)
	}
	if got := p.Inside(t, "systemctl show --value --property=WatchdogUSec bowl.service"); got != "59s" {
		t.Errorf("after the boot systemd knows the unit with WatchdogUSec=%s", got)
	}
	writeSSHConfig(t, p, ssh) // its port is another one now
	if err := deploy.Wait(); err == nil || deploy.ProcessState.ExitCode() != 3 {
		t.Errorf("the deploy that lost its server: %v\n%s", err, &said)
	}
	if r := p.Must(t, "releases", "prod"); !strings.Contains(r.Stdout, protocol.Interrupted) {
		t.Errorf("the history does not tell: %s", r)
	}
	p.Edit(t, "devbox.yaml", "trial: 10m", "trial: 1s")
	if last := p.Must(t, "deploy", "prod", "--yes", "--json").Cycle(t); last.Outcome != protocol.Committed {
		t.Errorf("the next deploy: %s", last.Outcome)
	}
}

// next is the release after one.
func next(release string) string {
	n, _ := strconv.Atoi(strings.TrimPrefix(release, "r"))
	return "r" + strconv.Itoa(n+1)
}

// instanceFile is a file of Lima's own of the one machine.
func instanceFile(t *testing.T, p *harness.Project, name string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(p.Home, ".lima", "*", name))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s of Lima's machine: %v, %v", name, found, err)
	}
	return found[0]
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sshSetting reads one out of the config that Lima writes.
func sshSetting(t *testing.T, file, name string) string {
	t.Helper()
	for line := range strings.Lines(read(t, file)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.EqualFold(key, name) {
			return strings.Trim(value, `"`)
		}
	}
	t.Fatalf("%s has no %s", file, name)
	return ""
}

// writeSSHConfig makes the machine the host "prod" of the person's own SSH config.
func writeSSHConfig(t *testing.T, p *harness.Project, lima string) {
	t.Helper()
	p.WriteHome(t, ".ssh/config", fmt.Sprintf("Host prod\n  HostName 127.0.0.1\n  Port %s\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n",
		sshSetting(t, lima, "Port"), sshSetting(t, lima, "IdentityFile"), filepath.Join(p.MachineDir(), "known_hosts")))
}
