package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"devbox/test/harness"
)

// exposure is the most that `systemd-analyze security` may score a unit, of 10.
// The example's README promises it, with the reason for what is left.
const exposure = 1.0

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
