package release

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"devbox/internal/image"
	"devbox/internal/protocol"
)

func TestRealFirstThenTemplateThenUnit(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-a", 18081
	m.fresh(t, app)
	c := m.serve(t, "")
	if w := c.hello(app); w.Current != "" || len(w.Images) != 0 {
		t.Fatalf("fresh app: %+v", w)
	}
	base := standard(app, port)
	one := build(t, base)
	r := c.deploy(app, one, protocol.Settings{}, protocol.Committed)
	t.Log(phases(r.Phases))
	if got := m.get(t, port); !strings.HasPrefix(got, "one "+one.digest[:12]+" r1") {
		t.Fatalf("after the first release: %q", got)
	}
	side := m.pid(t, app+"-side.service")

	two := build(t, base.with("usr/share/relapp/page", "two"))
	if a := c.receive(app, two, &one); a.Error != "" || a.Lost {
		t.Fatalf("receive a delta: %+v", a)
	}
	a := c.activate(app, two, protocol.Settings{})
	if a.Result == nil || a.Result.Outcome != protocol.Committed || a.Result.Plan.Reload {
		t.Fatalf("a changed page: %+v", a)
	}
	t.Log(phases(a.Result.Phases))
	if got := m.get(t, port); !strings.HasPrefix(got, "two "+two.digest[:12]+" r2") {
		t.Fatalf("after the second release: %q", got)
	}
	if now := m.pid(t, app+"-side.service"); now != side {
		t.Errorf("the side service was restarted: %s, was %s", now, side)
	}
	if a := c.activate(app, two, protocol.Settings{}); a.Result == nil || a.Result.Outcome != protocol.Unchanged {
		t.Fatalf("the same again: %+v", a)
	}
	if a := c.activate(app, build(t, base.with("usr/share/relapp/page", "never sent")), protocol.Settings{}); a.Code != protocol.CodeNoImage {
		t.Fatalf("an image that is not here: %+v", a)
	}
}

// PID 1 drops its connections when it is upgraded.
func TestRealPID1IsUpgraded(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-pid1", 18098
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	base := standard(app, port)
	c.deploy(app, build(t, base), protocol.Settings{}, protocol.Committed)
	m.sh(t, "systemctl daemon-reexec")
	c.deploy(app, build(t, base.with("usr/share/relapp/page", "two")), protocol.Settings{}, protocol.Committed)
	if got := m.get(t, port); !strings.HasPrefix(got, "two ") {
		t.Errorf("answers %q", got)
	}
}

// Unit files, environment, sockets and profiles that change, come and go.
func TestRealUnitChanges(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-unit", 18086
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	base := standard(app, port)
	service, socket := "usr/lib/systemd/system/"+app+".service", "usr/lib/systemd/system/"+app+".socket"
	side := "usr/lib/systemd/system/" + app + "-side.service"
	none := protocol.Settings{}
	c.deploy(app, build(t, base), none, protocol.Committed)
	sidePID := m.pid(t, app+"-side.service")

	// A unit file: attach, one reload, only that unit restarts.
	next := base.with(service, base.files[service]+"[Unit]\nDescription=changed\n")
	r := c.deploy(app, build(t, next), none, protocol.Committed)
	t.Log("unit file:", phases(r.Phases))
	if !r.Plan.Reload || len(r.Plan.Restart) != 1 || m.sh(t, "systemctl show -P Description "+app+".service") != "changed" {
		t.Errorf("unit file: %+v", r.Plan)
	}

	// Environment: a drop-in, one reload, only that unit restarts. What systemd
	// would interpret arrives as it is.
	greeting := `say "100%" of $HOME \n`
	env := protocol.Settings{Env: map[string]map[string]string{app + ".service": {"GREETING": greeting}}}
	r = c.deploy(app, build(t, next), env, protocol.Committed)
	t.Log("environment:", phases(r.Phases))
	if got := m.get(t, port); !strings.HasSuffix(got, " r3 "+greeting) {
		t.Errorf("environment: %q, %+v", got, r.Plan)
	}

	// The port: stop the service, open the socket, start the service.
	// A visitor who comes meanwhile does not have the service started again,
	// which would keep the socket from being opened.
	next = next.with(socket, strings.Replace(base.files[socket], "18086", "18087", 1))
	visitors := m.command(fmt.Sprintf("for i in $(seq 400); do curl -s -m 1 http://127.0.0.1:%d/ >/dev/null; sleep 0.005; done; true", port))
	if err := visitors.Start(); err != nil {
		t.Fatal(err)
	}
	r = c.deploy(app, build(t, next), env, protocol.Committed)
	defer func() { _ = visitors.Wait() }() // they go on while the port changes back and forth
	t.Log("socket:", phases(r.Phases))
	if got := m.get(t, 18087); !strings.HasPrefix(got, "one ") {
		t.Errorf("new port: %q %+v", got, r.Plan)
	}
	if got := m.get(t, port); !strings.Contains(got, "Failed to connect") && !strings.Contains(got, "Could not connect") {
		t.Errorf("old port: %q", got)
	}
	if now := m.pid(t, app+"-side.service"); now != sidePID {
		t.Error("the side service was restarted")
	}

	// A bad binary together with a changed port: both come back.
	bad := next.with(socket, base.files[socket], "etc/relapp/mode", "exit")
	c.deploy(app, build(t, bad), env, protocol.RolledBack)
	if got := m.get(t, 18087); !strings.HasPrefix(got, "one ") {
		t.Errorf("port after rollback: %q", got)
	}

	// A socket that vanishes: its service cannot start without it, and the trial
	// finds that out while the release before is there to go back to.
	short := env
	short.Health.Deadline = 2 * time.Second
	r = c.deploy(app, build(t, next.with(socket, "")), short, protocol.RolledBack)
	if r.Failure == nil || r.Failure.Unit != app+".service" {
		t.Errorf("socket gone: %+v, plan %+v", r.Failure, r.Plan)
	}
	if got := m.get(t, 18087); !strings.HasPrefix(got, "one ") {
		t.Errorf("after the socket came back: %q", got)
	}

	// A unit that vanishes is stopped and leaves nothing.
	r = c.deploy(app, build(t, next.with(side, "")), env, protocol.Committed)
	t.Log("unit gone:", phases(r.Phases))
	left := m.sh(t, "ls -d /etc/systemd/system.attached/"+app+"-side* /etc/systemd/system/"+app+"-side* /etc/systemd/system/*.wants/"+app+"-side* 2>/dev/null || true")
	if left != "" || m.sh(t, "systemctl is-active "+app+"-side.service || true") != "inactive" {
		t.Errorf("left of the side service: %s", left)
	}
	// And comes back, together with a failure that takes it away again.
	c.deploy(app, build(t, next.with("etc/relapp/mode", "exit")), env, protocol.RolledBack)
	if state := m.sh(t, "systemctl is-active "+app+"-side.service || true"); state != "inactive" {
		t.Errorf("side service after rollback: %s", state)
	}

	// Another profile; one that does not exist changes nothing.
	strict := env
	strict.Profile = "nonetwork"
	c.deploy(app, build(t, next), strict, protocol.Committed)
	if link := m.sh(t, "readlink /etc/systemd/system.attached/"+app+".service.d/10-profile.conf"); !strings.Contains(link, "/nonetwork/") {
		t.Errorf("profile: %s", link)
	}
	strict.Profile = "nosuch"
	a := c.activate(app, build(t, next), strict)
	if a.Code != protocol.CodePolicy || !strings.Contains(a.Error, "does not allow") {
		t.Errorf("unknown profile: %+v", a.Event)
	}

	// The app's own data outlives all of it.
	m.sh(t, "echo kept > /var/lib/private/"+app+"/data; "+m.host+" forget "+app)
	if got := m.sh(t, "cat /var/lib/private/"+app+"/data; ls -d /etc/systemd/system.attached/"+app+"* /etc/systemd/system/"+app+
		"* /var/lib/devbox/"+app+" /var/lib/portables/"+app+"* 2>/dev/null || true"); got != "kept" {
		t.Errorf("after forget: %s", got)
	}
}

// A squashfs image goes the same way, as a delta too, and an app may change from
// one format to the other.
func TestRealSquashfs(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-sq", 18094
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	base := standard(app, port)
	base.pack = image.Squashfs
	one := build(t, base)
	c.deploy(app, one, protocol.Settings{}, protocol.Committed)
	if kind := m.sh(t, "head -c 4 /var/lib/portables/"+app+".raw"); kind != "hsqs" {
		t.Fatalf("what is attached begins with %q", kind)
	}
	side := m.pid(t, app+"-side.service")

	two := build(t, base.with("usr/share/relapp/page", "two"))
	if a := c.receive(app, two, &one); a.Error != "" || a.Lost {
		t.Fatalf("receive a delta: %+v", a)
	}
	a := c.ask(protocol.Request{Activate: &protocol.Activate{App: app, Digest: two.digest, By: "test", Source: "0123abc-dirty",
		Settings: protocol.Settings{Health: protocol.Health{Deadline: time.Minute}}}}, nil)
	if a.Result == nil || a.Result.Outcome != protocol.Committed || a.Result.Plan.Reload {
		t.Fatalf("a changed page: %+v", a)
	}
	if got := m.get(t, port); !strings.HasPrefix(got, "two "+two.digest[:12]+" r2") {
		t.Errorf("after the second release: %q", got)
	}
	if now := m.pid(t, app+"-side.service"); now != side {
		t.Errorf("the side service was restarted: %s, was %s", now, side)
	}
	if st := c.ask(protocol.Request{Status: &protocol.StatusOf{App: app}}, nil); st.Status == nil || st.Status.Current == nil || st.Status.Current.Source != "0123abc-dirty" {
		t.Errorf("the history does not say what it was built from: %+v", st.Status)
	}

	base.pack = image.Erofs
	c.deploy(app, build(t, base), protocol.Settings{}, protocol.Committed)
	if got := m.get(t, port); !strings.HasPrefix(got, "one ") {
		t.Errorf("after the change to erofs: %q", got)
	}
}
