package release

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

// everyUnitFile prints all that a host has of an app's units, and what is enabled.
const everyUnitFile = `cd /etc/systemd && find system.attached system \( -path '*/%[1]s*' -o -lname '*/%[1]s*' \) ! -type d | sort | while read -r f; do
	echo "$f"; if [ -L "$f" ]; then readlink "$f"; else cat "$f"; fi; done
cat /var/lib/devbox/%[1]s/release.env; stat -c %%i /var/lib/portables/%[1]s.raw; ls -A /etc/systemd/system/*.wants | grep %[1]s`

// boot does what a boot would, as far as the app goes: it finds nothing of it
// running, and systemd has read the files that are there. Nobody can reach
// portabled. Where crash names a step, recovery is killed there and tried again.
func (m *machine) boot(t *testing.T, app, crash string) string {
	t.Helper()
	m.put(t, "/var/tmp/boot", []byte(`set -eu
app=$1
systemctl stop "$app.socket" "$app*.service"
systemctl --all reset-failed "$app*" # how often units were started is forgotten, also of those that are down
systemctl mask --runtime --now systemd-portabled.service 2>/dev/null
systemctl daemon-reload
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere
[ -z "${2-}" ] || DEVBOX_HOST_CRASH_AT=$2 `+m.host+` recover --boot || true
`+m.host+` recover --boot
systemctl unmask --runtime systemd-portabled.service
`))
	said := m.sh(t, "sh /var/tmp/boot "+app+" "+crash)
	m.sh(t, "systemctl start multi-user.target sockets.target")
	return said
}

// Killed at any step of an activation that changes, adds and removes units, the
// host is at boot, without portabled and without a bus, what it was before.
func TestRealRecoverAtBoot(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-boot", 18095
	units := "usr/lib/systemd/system/" + app
	base := standard(app, port)
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	one := build(t, base)
	c.deploy(app, one, protocol.Settings{}, protocol.Committed)
	c.close()
	before := m.sh(t, fmt.Sprintf(everyUnitFile, app))
	for i, tt := range []struct {
		at, boot  string // where it is killed, and where again at boot
		committed bool
	}{
		{at: "journal"}, {at: "stopped"}, {at: "switched"}, {at: "attached"}, {at: "drop-ins"}, {at: "reloaded"}, {at: "restarted"},
		{at: "reloaded", boot: "boot"}, {at: "reloaded", boot: "boot-back"}, {at: "reloaded", boot: "boot-files"},
		{at: "attached", boot: "boot-image"}, {at: "stopped", boot: "boot-reloaded"}, {at: "healthy", boot: "history"},
		{at: "committed", committed: true},
	} {
		t.Run(strings.TrimSpace(tt.at+" "+tt.boot), func(t *testing.T) {
			next := build(t, base.with("usr/share/relapp/page", fmt.Sprintf("page%d", i),
				units+".service", base.files[units+".service"]+"[Unit]\nDescription=next\n", units+"-side.service", "", units+"-new.service", sideService))
			crash := m.serve(t, "DEVBOX_HOST_CRASH_AT="+tt.at)
			crash.hello(app)
			if a := crash.receive(app, next, nil); a.Error != "" {
				t.Fatalf("%+v", a)
			}
			if a := crash.activate(app, next, protocol.Settings{}); !a.Lost && !tt.committed {
				t.Fatalf("it was not killed: %+v", a.Event)
			}
			crash.close()
			t.Log(m.boot(t, app, tt.boot))
			page := "one " + one.digest[:12] + " r1"
			if tt.committed {
				page = fmt.Sprintf("page%d %s", i, next.digest[:12])
			} else if after := m.sh(t, fmt.Sprintf(everyUnitFile, app)); after != before {
				t.Errorf("the host has\n%s\nand had\n%s", after, before)
			}
			if got := m.get(t, port); !strings.HasPrefix(got, page) {
				t.Errorf("answers %q, want %s", got, page)
			}
			if left := m.sh(t, "ls -A /var/lib/devbox/"+app+" | grep -e journal -e tmp || true"); left != "" {
				t.Errorf("left: %s", left)
			}
			if stale := m.sh(t, "systemctl show -P NeedDaemonReload '"+app+"*' | grep yes || true"); stale != "" {
				t.Error("systemd has not read the unit files")
			}
			if failed := m.sh(t, "systemctl list-units --plain --no-legend --state=failed '"+app+"*'"); failed != "" {
				t.Errorf("left: %s", failed)
			}
			if again := m.sh(t, m.host+" recover "+app); again != "" {
				t.Errorf("recovering has still to do: %s", again)
			}
		})
	}
}

// Of a first release that was interrupted nothing is left at boot.
func TestRealRecoverFirstAtBoot(t *testing.T) {
	m := realMachine(t)
	const app = "rel-boot1"
	for _, at := range []string{"journal", "attached", "reloaded", "healthy"} {
		t.Run(at, func(t *testing.T) {
			m.fresh(t, app)
			b := build(t, standard(app, 18096))
			c := m.serve(t, "DEVBOX_HOST_CRASH_AT="+at)
			c.hello(app)
			c.receive(app, b, nil)
			if a := c.activate(app, b, protocol.Settings{}); !a.Lost {
				t.Fatalf("it was not killed: %+v", a.Event)
			}
			c.close()
			t.Log(m.sh(t, "systemctl mask --runtime --now systemd-portabled.service; DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere "+
				m.host+" recover --boot; systemctl unmask --runtime systemd-portabled.service"))
			left := m.sh(t, "find /etc/systemd /var/lib/portables -path '*"+app+"*' -o -lname '*"+app+"*'; ls /var/lib/devbox/"+app+" | grep journal || true")
			if left != "" {
				t.Errorf("left: %s", left)
			}
			m.sh(t, "for i in $(seq 50); do [ -n \"$(systemctl list-units --plain --no-legend '"+app+"*')\" ] || exit 0; sleep 0.1; done; systemctl list-units --all '"+app+"*'; exit 1")
		})
	}
}

// The boot itself: the unit that provision installs runs before sysinit.target,
// and the app starts once, from what it has put back. Whatever it finds, the
// host comes up.
func TestRealBoot(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-reboot", 18098
	unit, err := os.ReadFile("../provision/devbox-recover.service")
	if err != nil {
		t.Fatal(err)
	}
	m.put(t, "/etc/systemd/system/devbox-recover.service", unit)
	m.sh(t, "cp "+m.host+" /usr/local/sbin/devbox-host && systemctl -q enable devbox-recover.service")
	t.Cleanup(func() {
		m.sh(t, "systemctl -q disable devbox-recover.service; rm -f /etc/systemd/system/devbox-recover.service /usr/local/sbin/devbox-host; systemctl daemon-reload")
	})
	units := "usr/lib/systemd/system/" + app
	base := standard(app, port)
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	one := build(t, base)
	c.deploy(app, one, protocol.Settings{}, protocol.Committed)
	c.close()
	before := m.sh(t, fmt.Sprintf(everyUnitFile, app))
	attached := "/etc/systemd/system.attached/" + app
	for i, tt := range []struct{ at, harm, want string }{
		{"healthy", "true", "undid r2, which was interrupted; r1 starts"},
		{"attached", ": >" + attached + ".service; : >" + attached + "-new.service; : >" + attached + ".service.d/20-portable.conf", "undid r3, which was interrupted; r1 starts"},
		{"stopped", "rm -r " + attached + "*", "undid r4, which was interrupted; r1 starts"},
	} {
		next := build(t, base.with("usr/share/relapp/page", fmt.Sprintf("page%d", i),
			units+".service", base.files[units+".service"]+"[Unit]\nDescription=next\n", units+"-side.service", "", units+"-new.service", sideService))
		crash := m.serve(t, "DEVBOX_HOST_CRASH_AT="+tt.at)
		crash.hello(app)
		if a := crash.receive(app, next, nil); a.Error != "" {
			t.Fatalf("%+v", a)
		}
		if a := crash.activate(app, next, protocol.Settings{}); !a.Lost {
			t.Fatalf("it was not killed: %+v", a.Event)
		}
		crash.close()
		m.sh(t, tt.harm)
		m.reboot(t)
		if got := m.sh(t, "journalctl --sync; journalctl -q -o cat -u devbox-recover.service -t devbox-host -n1"); !strings.HasSuffix(got, app+": "+tt.want) {
			t.Errorf("%s: the journal says %q", tt.at, got)
		}
		if after := m.sh(t, fmt.Sprintf(everyUnitFile, app)); after != before {
			t.Errorf("%s: the host has\n%s\nand had\n%s", tt.at, after, before)
		}
		if order := m.sh(t, "r=$(systemctl show -P ExecMainExitTimestampMonotonic devbox-recover.service); for u in .socket .service -side.service; do "+
			"s=$(systemctl show -P InactiveExitTimestampMonotonic "+app+"$u); [ \"$s\" -gt \"$r\" ] || echo "+app+"$u at $s, recovered at $r; done"); order != "" {
			t.Errorf("%s: started too early, or not: %s", tt.at, order)
		}
		if got := m.get(t, port); !strings.HasPrefix(got, "one "+one.digest[:12]+" r1") {
			t.Errorf("%s: answers %q", tt.at, got)
		}
		if st := m.sh(t, m.host+" status --json "+app+"; systemctl list-units --plain --no-legend --state=failed '"+app+"*'; systemctl show -P NeedDaemonReload '"+app+"*' | grep yes || true"); strings.Contains(st, `"problem"`) || strings.Contains(st, "\n") {
			t.Errorf("%s: status: %s", tt.at, st)
		}
		if again := m.sh(t, m.host+" recover "+app); again != "" {
			t.Errorf("%s: recovering has still to do: %s", tt.at, again)
		}
	}
	// A journal that cannot be read keeps no host from coming up, and shows.
	m.sh(t, "echo broken >/var/lib/devbox/"+app+"/journal.json")
	m.reboot(t)
	if got := m.sh(t, "systemctl is-failed devbox-recover.service; "+m.host+" status "+app+" 2>&1 || true"); !strings.HasPrefix(got, "failed\n") || !strings.Contains(got, "journal.json") || !strings.Contains(got, "hint:") {
		t.Errorf("%s", got)
	}
	if got := m.get(t, port); !strings.HasPrefix(got, "one "+one.digest[:12]+" r1") {
		t.Errorf("answers %q", got)
	}
	m.sh(t, "rm /var/lib/devbox/"+app+"/journal.json")
}

// reboot starts the machine's systemd and all that it runs anew.
func (m *machine) reboot(t *testing.T) {
	t.Helper()
	old := m.sh(t, "systemctl show -P InactiveExitTimestampMonotonic sysinit.target; nohup systemctl soft-reboot >/dev/null 2>&1 &")
	for range 120 {
		time.Sleep(500 * time.Millisecond)
		out, err := m.command("systemctl show -P InactiveExitTimestampMonotonic sysinit.target; systemctl is-system-running --wait").Output()
		now, state, _ := strings.Cut(string(out), "\n")
		var failed *exec.ExitError
		if (err == nil || errors.As(err, &failed)) && now != "" && now != old && state != "" {
			return
		}
	}
	t.Fatal("the machine does not come up")
}
