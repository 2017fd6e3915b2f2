package release

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

func (c *client) releases(app string) []protocol.Release {
	c.t.Helper()
	a := c.ask(protocol.Request{Releases: &protocol.ReleasesOf{App: app}}, nil)
	if a.Releases == nil {
		c.t.Fatalf("no releases: %+v %s", a.Event, c.errs.String())
	}
	return *a.Releases
}

// back asks for a release of the history.
func (c *client) back(app, release string) answer {
	c.t.Helper()
	return c.ask(protocol.Request{Activate: &protocol.Activate{App: app, Release: release, By: "bert@desk"}}, nil)
}

// Going back brings units, environment and ports of then, and passes the health
// check of then.
func TestRealRollback(t *testing.T) {
	m := realMachine(t)
	const app, port, newPort = "rel-back", 18101, 18102
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	socket, side := "usr/lib/systemd/system/"+app+".socket", "usr/lib/systemd/system/"+app+"-side.service"
	base := standard(app, port)
	settings := func(port int, greeting string) protocol.Settings {
		return protocol.Settings{
			Env:    map[string]map[string]string{app + ".service": {"GREETING": greeting}},
			Health: protocol.Health{URL: fmt.Sprintf("http://127.0.0.1:%d/health", port), Expect: " ${DEVBOX_VERSION} ", Deadline: 20 * time.Second},
		}
	}
	one := build(t, base)
	c.deploy(app, one, settings(port, "first"), protocol.Committed)
	next := base.with("usr/share/relapp/page", "two", side, "", socket, strings.Replace(base.files[socket], fmt.Sprint(port), fmt.Sprint(newPort), 1))
	two := build(t, next)
	c.deploy(app, two, settings(newPort, "second"), protocol.Committed)
	if got := m.get(t, newPort); got != "two "+two.digest[:12]+" r2 second" {
		t.Fatalf("r2 answers %q", got)
	}
	for _, tt := range []struct {
		to, of  string
		port    int
		answers string
		side    string
	}{
		{protocol.Previous, "r1", port, "one " + one.digest[:12] + " r3 first", "active"},
		{"r2", "r2", newPort, "two " + two.digest[:12] + " r4 second", "inactive"},
		{"r1", "r1", port, "one " + one.digest[:12] + " r5 first", "active"},
	} {
		a := c.back(app, tt.to)
		if a.Result == nil || a.Result.Outcome != protocol.Committed || a.Plan == nil || a.Plan.Release != a.Result.Serving {
			t.Fatalf("back to %s: %+v", tt.to, a)
		}
		t.Log(tt.to, phases(a.Result.Phases))
		if got := m.get(t, tt.port); got != tt.answers {
			t.Errorf("back to %s: answers %q, want %q", tt.to, got, tt.answers)
		}
		if state := m.sh(t, "systemctl is-active "+app+"-side.service || true"); state != tt.side {
			t.Errorf("back to %s: side service is %s", tt.to, state)
		}
		if r := c.releases(app)[0]; r.Of != tt.of || r.By != "bert@desk" || r.Outcome != protocol.Committed {
			t.Errorf("back to %s: %+v", tt.to, r)
		}
	}
	if a := c.back(app, "r3"); a.Result == nil || a.Result.Outcome != protocol.Unchanged || a.Result.Serving != "r5" {
		t.Errorf("back to what runs: %+v", a)
	}
	if a := c.back(app, "r17"); a.Code != protocol.CodeNoRelease || a.Hint == "" {
		t.Errorf("back to nothing: %+v", a)
	}

	// Killed on the way back, before and after it is committed.
	for _, tt := range []struct{ at, answers, outcome string }{
		{"reloaded", "one " + one.digest[:12] + " r5 first", protocol.Interrupted},
		{"committed", "two " + two.digest[:12] + " r7 second", protocol.Committed},
	} {
		crash := m.serve(t, "DEVBOX_HOST_CRASH_AT="+tt.at)
		crash.hello(app)
		if a := crash.back(app, "r2"); !a.Lost {
			t.Fatalf("%s: it was not killed: %+v", tt.at, a)
		}
		again := m.serve(t, "")
		again.hello(app)
		where := port
		if tt.outcome == protocol.Committed {
			where = newPort
		}
		if got := m.get(t, where); got != tt.answers {
			t.Errorf("killed at %s: answers %q, want %q", tt.at, got, tt.answers)
		}
		if r := again.releases(app)[0]; r.Outcome != tt.outcome || r.Of != "r2" {
			t.Errorf("killed at %s: %+v", tt.at, r)
		}
	}
}

// A release falls over once it has been healthy for a while: within its trial
// that undoes it, whether systemd starts it again or not, and the history says
// so even if devbox-host is killed on the way back.
func TestRealTrial(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-trial", 18103
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	service := "usr/lib/systemd/system/" + app + ".service"
	base := standard(app, port)
	settings := protocol.Settings{Trial: 10 * time.Second,
		Health: protocol.Health{URL: fmt.Sprintf("http://127.0.0.1:%d/health", port), Deadline: 20 * time.Second}}
	short := settings
	short.Trial = 200 * time.Millisecond
	c.deploy(app, build(t, base), short, protocol.Committed)
	for _, restart := range []string{"", "Restart=always\nRestartSec=0\n"} {
		unit := strings.Replace(base.files[service], "Type=notify\n", "Type=notify\n"+restart, 1)
		later := build(t, base.with("etc/relapp/mode", "later", service, unit))
		began := time.Now()
		r := c.deploy(app, later, settings, protocol.RolledBack)
		t.Logf("%q: %s%s\n%+v", restart, time.Since(began).Round(time.Millisecond), phases(r.Phases), r.Failure)
		if r.Failure.Unit != app+".service" || !strings.Contains(r.Failure.Cause, "while it was on trial") {
			t.Errorf("%q: failure %+v", restart, r.Failure)
		}
		if !slices.ContainsFunc(r.Failure.Log, func(l string) bool { return strings.Contains(l, "the disk is full by now") }) {
			t.Errorf("%q: log %q", restart, r.Failure.Log)
		}
		if got := m.get(t, port); !strings.HasPrefix(got, "one ") {
			t.Errorf("%q: answers %q", restart, got)
		}
	}
	unit := strings.Replace(base.files[service], "Type=notify\n", "Type=notify\nRestart=always\nRestartSec=0\n", 1)
	later := build(t, base.with("etc/relapp/mode", "later", service, unit))
	crash := m.serve(t, "DEVBOX_HOST_CRASH_AT=gave-up")
	crash.hello(app)
	if a := crash.activate(app, later, settings); !a.Lost {
		t.Fatalf("it was not killed: %+v", a)
	}
	again := m.serve(t, "")
	again.hello(app)
	if r := again.releases(app)[0]; r.Outcome != protocol.RolledBack || !strings.Contains(r.Cause, "while it was on trial") {
		t.Errorf("killed on the way back: %+v", r)
	}
	if got := m.get(t, port); !strings.HasPrefix(got, "one ") {
		t.Errorf("killed on the way back: answers %q", got)
	}
}

// The health check finds the version that was started, whichever service it is
// that answers; its command knows it, too.
func TestRealExpect(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-expect", 18104
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	base := standard(app, port)
	settings := protocol.Settings{Health: protocol.Health{URL: fmt.Sprintf("http://127.0.0.1:%d/health", port), Expect: " ${DEVBOX_VERSION} ", Deadline: 2 * time.Second}}
	c.deploy(app, build(t, base), settings, protocol.Committed)
	c.deploy(app, build(t, base.with("usr/share/relapp/page", "two")), settings, protocol.Committed)
	// Only the other service is restarted: the one that answers stays, with r2's version.
	r := c.deploy(app, build(t, base.with("usr/share/relapp/page", "two", "etc/side/conf", "b")), settings, protocol.Committed)
	if len(r.Plan.Restart) != 1 || r.Plan.Restart[0].Unit != app+"-side.service" {
		t.Errorf("plan %+v", r.Plan)
	}
	settings.Health.Expect = "it is all another"
	r = c.deploy(app, build(t, base.with("usr/share/relapp/page", "three")), settings, protocol.RolledBack)
	if !strings.Contains(r.Failure.Cause, `answered "three `) || !strings.Contains(r.Failure.Cause, `which has no "it is all another"`) {
		t.Errorf("cause %q", r.Failure.Cause)
	}
	settings.Health = protocol.Health{Command: "test $DEVBOX_RELEASE = r5 && curl -sf http://127.0.0.1:18104/ | grep -q \" $DEVBOX_VERSION r5 \""}
	c.deploy(app, build(t, base.with("usr/share/relapp/page", "four")), settings, protocol.Committed)
}

func TestRealKeep(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-keep", 18105
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	base := standard(app, port)
	for i := range 5 {
		b := build(t, base.with("usr/share/relapp/page", fmt.Sprint("page", i)))
		if a := c.receive(app, b, nil); a.Error != "" || a.Lost {
			t.Fatalf("receive: %+v", a)
		}
		a := c.ask(protocol.Request{Activate: &protocol.Activate{App: app, Digest: b.digest, Keep: 3,
			Settings: protocol.Settings{Health: protocol.Health{Deadline: time.Minute}}}}, nil)
		if a.Result == nil || a.Result.Outcome != protocol.Committed {
			t.Fatalf("%+v", a)
		}
	}
	var gone []string
	for _, r := range c.releases(app) {
		if r.Gone {
			gone = append(gone, r.ID)
		}
	}
	if images := m.sh(t, "ls /var/lib/devbox/"+app+"/images/*.raw | wc -l"); images != "3" || !slices.Equal(gone, []string{"r2", "r1"}) {
		t.Errorf("%s images are left, gone are %v", images, gone)
	}
	if a := c.back(app, "r1"); a.Code != protocol.CodeNoRelease {
		t.Errorf("back to one that is gone: %+v", a)
	}
	if a := c.back(app, "r3"); a.Result == nil || a.Result.Outcome != protocol.Committed {
		t.Errorf("back to one that was kept: %+v", a)
	}
}
