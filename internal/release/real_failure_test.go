package release

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

// Each way in which a release can be no good: the one before serves on, and the
// answer says why, with the unit's own words.
func TestRealBadReleaseIsRolledBack(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-bad", 18082
	url := fmt.Sprintf("http://127.0.0.1:%d/health", port)
	service := "usr/lib/systemd/system/" + app + ".service"
	base := standard(app, port)
	unit := base.files[service]
	healthy := protocol.Settings{Health: protocol.Health{URL: url, Deadline: 2 * time.Second}}
	tests := []struct {
		name     string
		change   []string
		settings protocol.Settings
		unit     string
		cause    string // a part of it
		log      string // a part of a line of it
	}{
		{"exits at once", []string{"etc/relapp/mode", "exit"}, healthy,
			app + ".service", "exited with status 3", "cannot open the database"},
		{"is killed", []string{"etc/relapp/mode", "killed"}, healthy,
			app + ".service", "killed by SIGKILL", "mode killed"},
		{"hangs and ignores SIGTERM", []string{"etc/relapp/mode", "hang"}, healthy,
			app + ".service", "not ready within 2s", "mode hang"},
		{"never ready", []string{"etc/relapp/mode", "unready"}, healthy,
			app + ".service", "not ready within 2s", "mode unready"},
		{"fails its health check", []string{"etc/relapp/mode", "sick"}, healthy,
			app + ".service", "/health answered 503", "mode sick"},
		{"fails its health command", []string{"usr/share/relapp/page", "other"},
			protocol.Settings{Health: protocol.Health{Command: "x=$(id -u); echo user is ${x}; exit 7", Deadline: time.Second}},
			app + ".service", "exited with status 7", "user is 6"},
		{"program is missing", []string{service, strings.Replace(unit, "/usr/bin/relapp", "/usr/bin/nothing", 1)}, healthy,
			app + ".service", "cannot be executed", "nothing"},
		{"a folder is missing", []string{service, strings.Replace(unit, "StateDirectory", "BindPaths=/etc/hostname:/no/such\nStateDirectory", 1)}, healthy,
			app + ".service", "namespace", "/no/such"},
		{"systemd refuses the unit", []string{service, strings.Replace(unit, "Type=notify", "Type=notify\nRestart=on-success\nType=oneshot\nRestart=always", 1)}, healthy,
			"", "bad unit file setting", ""},
	}
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	good := build(t, base)
	c.deploy(app, good, healthy, protocol.Committed)
	answers := m.get(t, port)
	side := m.pid(t, app+"-side.service")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c.t = t
			defer func() { c.t = t }()
			began := time.Now()
			r := c.deploy(app, build(t, base.with(tt.change...)), tt.settings, protocol.RolledBack)
			t.Logf("%s%s", time.Since(began).Round(time.Millisecond), phases(r.Phases))
			t.Logf("%+v", r.Failure)
			if r.Serving != "r1" || r.Failure == nil {
				t.Fatalf("serving %q, failure %+v", r.Serving, r.Failure)
			}
			if r.Failure.Unit != tt.unit && tt.unit != "" || !strings.Contains(r.Failure.Cause, tt.cause) {
				t.Errorf("unit %q, cause %q, want %q and %q", r.Failure.Unit, r.Failure.Cause, tt.unit, tt.cause)
			}
			if tt.log != "" && !slices.ContainsFunc(r.Failure.Log, func(l string) bool { return strings.Contains(l, tt.log) }) {
				t.Errorf("log %q has no %q", r.Failure.Log, tt.log)
			}
			if got := m.get(t, port); got != answers {
				t.Errorf("answers %q, before %q", got, answers)
			}
			if now := m.pid(t, app+"-side.service"); now != side {
				t.Errorf("the side service was restarted")
			}
		})
	}
	c.t = t
	// The next good one goes through, after all of these.
	r := c.deploy(app, build(t, base.with("usr/share/relapp/page", "good")), healthy, protocol.Committed)
	if got := m.get(t, port); !strings.HasPrefix(got, "good ") {
		t.Errorf("after %s: %q", r.Release, got)
	}
}

func TestRealSixFailuresInARow(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-six", 18083
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	base := standard(app, port)
	c.deploy(app, build(t, base), protocol.Settings{}, protocol.Committed)
	for i := range 7 {
		bad := build(t, base.with("etc/relapp/mode", "exit", "usr/share/relapp/page", fmt.Sprint(i)))
		r := c.deploy(app, bad, protocol.Settings{}, protocol.RolledBack)
		if !strings.Contains(r.Failure.Cause, "exited with status 3") {
			t.Fatalf("failure %d: %+v", i, r.Failure)
		}
	}
	if got := m.get(t, port); !strings.HasPrefix(got, "one ") {
		t.Errorf("answers %q", got)
	}
	c.deploy(app, build(t, base.with("usr/share/relapp/page", "good")), protocol.Settings{}, protocol.Committed)
	if images := m.sh(t, "ls /var/lib/devbox/"+app+"/images/*.raw | wc -l"); images != "5" {
		t.Errorf("%s images are left, want the running, the previous and 3", images)
	}
}

// A unit that does not tell when it is ready must stay up for a moment.
func TestRealSimpleServiceThatFallsOver(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-late", 18084
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	side := "usr/lib/systemd/system/" + app + "-side.service"
	base := standard(app, port)
	c.deploy(app, build(t, base), protocol.Settings{}, protocol.Committed)
	late := base.with("etc/relapp/mode", "late", side, strings.Replace(sideService, "Reads=/etc/side", "Reads=/etc/side /etc/relapp", 1))
	// That another unit is healthy says nothing about this one.
	for _, health := range []protocol.Health{{}, {URL: fmt.Sprintf("http://127.0.0.1:%d/health", port)}} {
		r := c.deploy(app, build(t, late), protocol.Settings{Health: health}, protocol.RolledBack)
		t.Logf("%+v", r.Failure)
		if r.Failure.Unit != app+"-side.service" || !strings.Contains(r.Failure.Cause, "exited with status 4 soon after") {
			t.Errorf("failure %+v", r.Failure)
		}
	}
}

func TestRealFirstReleaseThatFailsLeavesNothing(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-first", 18085
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	bad := standard(app, port).with("etc/relapp/mode", "exit")
	r := c.deploy(app, build(t, bad), protocol.Settings{}, protocol.Failed)
	if r.Serving != "" || r.Failure == nil {
		t.Errorf("%+v", r)
	}
	left := m.sh(t, "ls -d /etc/systemd/system.attached/"+app+"* /etc/systemd/system/"+app+"* /etc/systemd/system/*.wants/"+app+
		"* /var/lib/portables/"+app+"* /var/lib/devbox/"+app+"/journal.json 2>/dev/null || true")
	if left != "" {
		t.Errorf("left behind: %s", left)
	}
	if state := m.sh(t, "systemctl is-active "+app+".socket "+app+".service || true"); strings.Contains(state, "\nactive") || strings.HasPrefix(state, "active") {
		t.Errorf("units: %s", state)
	}
	c.deploy(app, build(t, standard(app, port)), protocol.Settings{}, protocol.Committed)
	if got := m.get(t, port); !strings.HasPrefix(got, "one ") {
		t.Errorf("answers %q", got)
	}
}
