package release

import (
	"strings"
	"testing"

	"devbox/internal/protocol"
)

// What docs/security.md and docs/findings.md say of systemd, on the system
// itself: a socket's ExecStartPre= runs as root on the host, under any profile,
// and portabled with force takes the place of a unit that a package has.
func TestRealWhatAProfileDoesNotHold(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-hold", 18124
	m.fresh(t, app)
	t.Cleanup(func() {
		m.sh(t, "rm -f /root/rel-hold /usr/lib/systemd/system/"+app+"-v.service /etc/portables/rel-hold*.raw /var/tmp/"+app+".raw")
	})
	c := m.serve(t, "")
	c.hello(app)
	socket := "usr/lib/systemd/system/" + app + ".socket"
	base := standard(app, port)
	pre := build(t, base.with(socket, base.files[socket]+"[Socket]\nExecStartPre=/bin/sh -c 'id -u >/root/rel-hold'\n"))
	c.deploy(app, pre, protocol.Settings{}, protocol.Committed)
	if got := m.sh(t, "cat /root/rel-hold"); got != "0" {
		t.Errorf("the socket's ExecStartPre= left %q on the host", got)
	}

	side := app + "-v.service"
	m.sh(t, "printf '[Service]\\nExecStart=/bin/true\\n' >/usr/lib/systemd/system/"+side)
	v := build(t, base.with("usr/lib/systemd/system/"+side, sideService))
	if a := c.receive(app, v, nil); a.Error != "" {
		t.Fatal(a.Error)
	}
	if a := c.activate(app, v, protocol.Settings{}); !strings.Contains(a.Error, "is on this host already, from /usr/lib/systemd/system/"+side) {
		t.Errorf("devbox-host says %+v", a.Event)
	}
	// portabled itself, of the same image.
	got := m.sh(t, "cp /var/lib/devbox/"+app+"/images/"+app+"_"+v.digest[:12]+".raw /var/tmp/"+app+".raw; portablectl attach -q --force /var/tmp/"+app+".raw "+app+
		" >/dev/null 2>&1; systemctl show -P FragmentPath "+side)
	if got != "/etc/systemd/system.attached/"+side {
		t.Errorf("after a forced attach %s is from %q", side, got)
	}
}
