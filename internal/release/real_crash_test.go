package release

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

// Killed at any step, the host ends up wholly on the old or wholly on the new
// release as soon as the next session opens, and the next release goes in.
func TestRealKilledAtEachStep(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-crash", 18088
	service := "usr/lib/systemd/system/" + app + ".service"
	side := "usr/lib/systemd/system/" + app + "-side.service"
	base := standard(app, port)
	tests := []struct {
		at        string
		units     bool // the change is one of unit files
		committed bool
	}{
		{at: "received"}, {at: "journal"}, {at: "stopped"}, {at: "env"}, {at: "switched"}, {at: "sockets"},
		{at: "restarted"}, {at: "trial"}, {at: "healthy"}, {at: "committed", committed: true}, {at: "history", committed: true},
		{at: "dropped", committed: true},
		{at: "stopped", units: true}, {at: "switched", units: true}, {at: "attached", units: true},
		{at: "drop-ins", units: true}, {at: "reloaded", units: true}, {at: "sockets", units: true},
		{at: "restarted", units: true}, {at: "committed", units: true, committed: true},
	}
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	page := "page0"
	onTrial := protocol.Settings{Trial: 100 * time.Millisecond}
	c.deploy(app, build(t, base.with("usr/share/relapp/page", page)), onTrial, protocol.Committed)
	c.close()
	for i, tt := range tests {
		name := tt.at
		next := base.with("usr/share/relapp/page", fmt.Sprintf("page%d", i+1))
		if tt.units {
			name += " with units"
			// One unit changes, and one goes away or comes back.
			next = next.with(service, base.files[service]+fmt.Sprintf("[Unit]\nDescription=step %d\n", i))
			if i%2 == 0 {
				next = next.with(side, "")
			}
		}
		t.Run(name, func(t *testing.T) {
			b := build(t, next)
			crash := m.serve(t, "DEVBOX_HOST_CRASH_AT="+tt.at)
			crash.hello(app)
			a := crash.receive(app, b, nil)
			if !a.Lost {
				a = crash.activate(app, b, onTrial)
			}
			// After the answer, losing the session is no news to the client.
			if !a.Lost && (a.Result == nil || a.Result.Outcome != protocol.Committed || !tt.committed) {
				t.Fatalf("it was not killed: %+v", a)
			}
			crash.close()
			if tt.units {
				// Killed again while it goes back, with the files in place already.
				m.sh(t, "DEVBOX_HOST_CRASH_AT=drop-ins "+m.host+" recover "+app+" || true")
			}
			w := m.serve(t, "").hello(app)
			t.Logf("recovered: %s", w.Recovered)
			want := page
			if tt.committed {
				want = fmt.Sprintf("page%d", i+1)
			}
			if got := m.get(t, port); !strings.HasPrefix(got, want+" "+w.Current[:12]+" ") {
				t.Errorf("answers %q, want %s of %s", got, want, w.Current[:12])
			}
			page = want
			if problem := m.sh(t, m.host+" status --json "+app); strings.Contains(problem, `"problem"`) {
				t.Errorf("status: %s", problem)
			}
			if off := m.sh(t, "for u in $(cd /etc/systemd/system.attached && ls -d "+app+"*.service "+app+"*.socket); do "+
				"systemctl is-enabled -q $u || echo $u is not enabled; systemctl show -P NeedDaemonReload $u; done"); strings.Contains(off, "not") || strings.Contains(off, "yes") {
				t.Errorf("after the next boot it would be otherwise: %s", off)
			}
			left := m.sh(t, "ls -a /var/lib/devbox/"+app+" /var/lib/devbox/"+app+"/images | grep -e '^.recv' -e '^.tmp' -e journal || true")
			if left != "" && tt.at != "received" {
				t.Errorf("left behind: %s", left)
			}
			if again := m.sh(t, m.host+" recover "+app); again != "" {
				t.Errorf("recovering again does more: %s", again)
			}
		})
	}
	c = m.serve(t, "")
	c.hello(app)
	c.deploy(app, build(t, base.with("usr/share/relapp/page", "last")), protocol.Settings{}, protocol.Committed)
	if got := m.get(t, port); !strings.HasPrefix(got, "last ") {
		t.Errorf("answers %q", got)
	}
	if left := m.sh(t, "ls -a /var/lib/devbox/"+app+"/images | grep -e '^.recv' || true"); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// The session ends while a release is on trial: it is finished all the same.
func TestRealConnectionDrops(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-drop", 18089
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	base := standard(app, port)
	c.deploy(app, build(t, base), protocol.Settings{}, protocol.Committed)
	hang := build(t, base.with("etc/relapp/mode", "hang"))
	if a := c.receive(app, hang, nil); a.Error != "" {
		t.Fatalf("%+v", a)
	}
	settings := protocol.Settings{Health: protocol.Health{Deadline: 3e9}}
	started := make(chan struct{})
	go func() {
		defer close(started)
		c.ask(protocol.Request{Activate: &protocol.Activate{App: app, Digest: hang.digest, Settings: settings, By: "anna@laptop"}}, nil)
	}()
	other := m.serve(t, "")
	for range 100 {
		if m.sh(t, "systemctl is-active "+app+".service || true") == "activating" {
			break
		}
	}
	if w := other.hello(app); w.Recovered != "" {
		t.Errorf("another session meddled: %s", w.Recovered)
	}
	busy := other.activate(app, hang, settings)
	if busy.Code == protocol.CodeBusy && !strings.Contains(busy.Error, "anna@laptop") {
		t.Errorf("busy does not say who: %s", busy.Error)
	}
	if busy.Code != protocol.CodeBusy && busy.Result == nil {
		t.Errorf("second session: %+v", busy.Event)
	}
	_ = c.cmd.Process.Kill()
	<-started
	for range 100 {
		if m.sh(t, "ls /var/lib/devbox/"+app+"/journal.json 2>/dev/null || true") == "" {
			break
		}
	}
	if got := m.get(t, port); !strings.HasPrefix(got, "one ") {
		t.Errorf("answers %q", got)
	}
	if again := m.sh(t, m.host+" recover "+app); again != "" {
		t.Errorf("recover had to do: %s", again)
	}
}

// What portabled leaves when it dies between detaching and attaching.
func TestRealWedged(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-wedge", 18090
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	base := standard(app, port)
	one := build(t, base)
	c.deploy(app, one, protocol.Settings{}, protocol.Committed)
	c.close()
	attached := "/etc/systemd/system.attached/" + app
	for name, damage := range map[string]string{
		"units gone":        "rm -r " + attached + "*; systemctl daemon-reload",
		"one drop-in gone":  "rm " + attached + ".service.d/20-portable.conf",
		"one unit gone":     "rm " + attached + "-side.service; systemctl daemon-reload",
		"half a unit":       "cp -a " + attached + "-side.service.d " + attached + "-half.service.d",
		"no profile":        "rm " + attached + ".service.d/10-profile.conf",
		"image gone":        "rm /var/lib/portables/" + app + ".raw",
		"socket stopped":    "systemctl stop " + app + ".socket " + app + ".service",
		"all of it":         "systemctl stop " + app + ".socket " + app + ".service; rm -r " + attached + "* /var/lib/portables/" + app + ".raw; systemctl daemon-reload",
		"environment gone":  "rm /etc/systemd/system/" + app + ".service.d/50-devbox.conf",
		"start limit, dead": "for i in 1 2 3 4 5 6 7 8; do systemctl restart " + app + ".service; done; systemctl kill -s KILL " + app + ".service; sleep 0.2",
	} {
		t.Run(name, func(t *testing.T) {
			m.sh(t, damage+" || true")
			t.Log(m.sh(t, m.host+" recover "+app))
			if got := m.get(t, port); !strings.HasPrefix(got, "one "+one.digest[:12]+" r1") {
				t.Errorf("answers %q", got)
			}
			if st := m.sh(t, m.host+" status --json "+app); strings.Contains(st, `"problem"`) {
				t.Errorf("status: %s", st)
			}
			if again := m.sh(t, m.host+" recover "+app); again != "" {
				t.Errorf("recovering again does more: %s", again)
			}
		})
	}
}

// portabled dies again and again while it attaches: the release goes in all the
// same.
func TestRealPortabledDies(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-portabled", 18092
	service := "usr/lib/systemd/system/" + app + ".service"
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	base := standard(app, port)
	c.deploy(app, build(t, base), protocol.Settings{}, protocol.Committed)
	for i := range 4 {
		b := build(t, base.with("usr/share/relapp/page", fmt.Sprintf("page%d", i), service, base.files[service]+fmt.Sprintf("[Unit]\nDescription=%d\n", i)))
		if a := c.receive(app, b, nil); a.Error != "" {
			t.Fatalf("%+v", a)
		}
		// For two seconds, which is longer than attaching takes.
		killer := m.command("for i in $(seq 40); do systemctl kill -s KILL systemd-portabled.service 2>/dev/null; sleep 0.0" + fmt.Sprint(i+3) + "; done; true")
		if err := killer.Start(); err != nil {
			t.Fatal(err)
		}
		a := c.activate(app, b, protocol.Settings{})
		if err := killer.Wait(); err != nil {
			t.Fatal(err)
		}
		if a.Result == nil || a.Result.Outcome != protocol.Committed {
			t.Fatalf("%+v", a)
		}
		w := m.serve(t, "").hello(app)
		if got := m.get(t, port); !strings.Contains(got, " "+w.Current[:12]+" ") {
			t.Errorf("answers %q, current is %s", got, w.Current[:12])
		}
		if st := m.sh(t, m.host+" status --json "+app); strings.Contains(st, `"problem"`) {
			t.Errorf("status: %s", st)
		}
	}
	c.deploy(app, build(t, base.with("usr/share/relapp/page", "last", service, base.files[service]+"[Unit]\nDescription=last\n")), protocol.Settings{}, protocol.Committed)
}

func TestRealDiskFull(t *testing.T) {
	m := realMachine(t)
	const app = "rel-full"
	m.fresh(t, app)
	dir := "/var/lib/devbox/" + app
	m.sh(t, "mkdir -p "+dir+" && mount -t tmpfs -o size=60m none "+dir)
	defer m.sh(t, "umount "+dir)
	base := standard(app, 18093)
	base.bulk = bulk
	c := m.serve(t, "")
	c.hello(app)
	a := c.receive(app, build(t, base), nil)
	t.Log(a.Error, "-", a.Hint)
	if !strings.Contains(a.Error, "not enough space") || !strings.Contains(a.Hint, "free some space") {
		t.Errorf("%+v", a.Event)
	}
	if left := m.sh(t, "ls -A "+dir+"/images"); left != "" {
		t.Errorf("left: %s", left)
	}
}

// Killed while it deletes what there is of an app, the app stays away.
func TestRealForgetIsKilled(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-gone", 18094
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	c.deploy(app, build(t, standard(app, port)), protocol.Settings{}, protocol.Committed)
	c.close()
	m.sh(t, "DEVBOX_HOST_CRASH_AT=forgotten "+m.host+" forget "+app+" || true")
	if left := m.sh(t, "ls -d /var/lib/devbox/"+app); left == "" {
		t.Fatal("it was not killed")
	}
	c = m.serve(t, "")
	if w := c.hello(app); w.Current != "" || w.Recovered != "" {
		t.Errorf("%+v", w)
	}
	if units := m.sh(t, "ls -d /etc/systemd/system.attached/"+app+"* 2>/dev/null || true"); units != "" {
		t.Errorf("units came back: %s", units)
	}
}
