package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"devbox/test/harness"
)

func press(t *testing.T, p *harness.Project, name string) {
	t.Helper()
	resp, err := http.PostForm(p.URL("/press"), url.Values{"name": {name}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !p.Shows(name) {
		t.Fatalf("%s's press is not on the page", name)
	}
}

// testReplica loses the database twice: what was pressed is replicated and comes
// back with the next start, and so does what is pressed after that.
func testReplica(t *testing.T, p *harness.Project) {
	press(t, p, "Ada")
	for n, name := range []string{"Grace", "Katherine"} {
		p.Inside(t, "touch /run/devbox-test")
		press(t, p, name)
		// Litestream looks once a second; what it begins with may not have the press yet.
		p.Inside(t, `for i in $(seq 300); do
	test -n "$(find /var/lib/standins/bowl/ -type f -size +0 -newer /run/devbox-test)" && sleep 2 && exit; sleep 0.1
done; echo the replica stays as it is; exit 1`)
		p.Inside(t, "systemctl stop bowl.socket bowl.service && systemctl stop bowl-litestream.service")
		if got := p.Inside(t, "cd /var/lib/bowl/ && test -s bowl.db && rm -rf bowl.db* .bowl.db* && ls -A"); got != "certs" {
			t.Errorf("beside the database there was %s", got)
		}
		p.Inside(t, "systemctl start bowl.socket bowl.service bowl-litestream.service")
		for _, name := range []string{"Ada", "Grace", "Katherine"}[:n+2] {
			if !p.Shows(name) {
				t.Errorf("with the database lost %d times, %s's press is gone\n%s", n+1, name, p.Must(t, "logs", "-n", "40").Stdout)
			}
		}
	}
	if s := p.Status(t); s.Code != 0 {
		t.Errorf("status exits with %d: %s", s.Code, s.Serving())
	}
}

// exposure is the most that `systemd-analyze security` may score a unit, of 10.
// What is left: it uses the network, without a list of addresses, and sockets of
// this machine (0.3 + 0.5 + 0.2 + 0.1), and devices of loops that hold its image (0.1).
const exposure = 1.5

// testLockedIn asks systemd and the kernel how far the services are locked in.
func testLockedIn(t *testing.T, p *harness.Project) {
	s := p.Status(t)
	for _, unit := range []string{"bowl.service", "bowl-litestream.service", "bowl-restore.service"} {
		out := p.Inside(t, "systemd-analyze security --no-pager "+unit+" | tail -n 1")
		_, text, _ := strings.Cut(out, unit+": ")
		score, err := strconv.ParseFloat(strings.Split(text+" ", " ")[0], 64)
		if err != nil || score > exposure {
			t.Errorf("systemd-analyze security: %s; at most %v", out, exposure)
		}
		want := "NoNewPrivileges=yes ProtectSystem=strict ProtectHome=yes PrivateDevices=yes PrivateTmp=yes ProtectKernelTunables=yes MemoryDenyWriteExecute=yes DynamicUser=yes"
		var names []string
		for _, setting := range strings.Fields(want) {
			name, _, _ := strings.Cut(setting, "=")
			names = append(names, "--property="+name)
		}
		got := strings.Fields(p.Inside(t, "systemctl show "+strings.Join(names, " ")+" "+unit))
		for _, setting := range strings.Fields(want) {
			if !strings.Contains(" "+strings.Join(got, " ")+" ", " "+setting+" ") {
				t.Errorf("%s lacks %s: it has %v", unit, setting, got)
			}
		}
		if pid := s.PID(unit); pid != 0 {
			lockedIn(t, p, unit, pid)
		} else if unit != "bowl-restore.service" {
			t.Errorf("%s has no process", unit)
		}
	}
}

// lockedIn looks at a running process.
func lockedIn(t *testing.T, p *harness.Project, unit string, pid int) {
	t.Helper()
	status := " " + strings.Join(strings.Fields(p.Inside(t, fmt.Sprintf("cat /proc/%d/status", pid))), " ") + " "
	for _, want := range []string{"NoNewPrivs: 1", "Seccomp: 2", "CapEff: 0000000000000000", "CapPrm: 0000000000000000", "CapAmb: 0000000000000000"} {
		if !strings.Contains(status, " "+want+" ") {
			t.Errorf("%s: its process does not have %s", unit, want)
		}
	}
	if strings.Contains(status, " Uid: 0 ") {
		t.Errorf("%s runs as root", unit)
	}
	// The image has no shell to look around with: systemd's mounts are seen from outside.
	if got := p.Inside(t, fmt.Sprintf(`awk '$5 == "/" { print $6 }' /proc/%d/mountinfo | tail -n 1`, pid)); !strings.HasPrefix(got, "ro") {
		t.Errorf("%s: its root is mounted %q", unit, got)
	}
}
