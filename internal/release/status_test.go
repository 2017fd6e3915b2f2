package release

import (
	"context"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

func TestStatusOfUnits(t *testing.T) {
	f, h, _ := first(t)
	f.errors = map[string]string{"noisy": "level=ERROR"}
	f.units["bowl-restore.service"] = UnitState{Active: "failed", Result: "exit-code", ExitCode: cldExited, ExitStatus: 1}
	f.units["bowl-wait.service"] = UnitState{Active: "inactive", Requires: []string{"bowl.socket", "bowl-get.service", "bowl.service"}}
	f.units["bowl-get.service"] = UnitState{Active: "activating", Sub: "start"}
	for _, tt := range []struct {
		st   UnitState
		want string
	}{
		{UnitState{Active: "active"}, ""},
		{UnitState{Active: "active", Restarts: 1}, "restarted once by itself"},
		{UnitState{Active: "active", Restarts: 7}, "restarted 7 times by itself"},
		{UnitState{Active: "inactive", Restarts: 7}, "should be running"},
		{UnitState{Active: "failed", Restarts: 7, ExitCode: cldExited, ExitStatus: 2}, "exited with status 2"},
		{UnitState{Active: "inactive", Requires: []string{"sysinit.target", "bowl.socket", "bowl-restore.service"}}, "bowl-restore.service, which it requires, exited with status 1"},
		{UnitState{Active: "inactive", Requires: []string{"bowl-wait.service"}}, "bowl-get.service, which it requires, is not ready yet"},
		{UnitState{Active: "inactive", Requires: []string{"bowl.socket"}}, "should be running"},
		{UnitState{Active: "active", Invocation: "noisy", Restarts: 1}, "logs errors"},
		{UnitState{Active: "activating", Sub: "auto-restart", Restarts: 7, ExitCode: cldKilled, ExitStatus: 9}, "killed by SIGKILL"},
	} {
		f.units["bowl.service"] = tt.st
		st, err := h.Status(context.Background(), "bowl")
		if err != nil || len(st.Units) != 1 || st.Units[0].Problem != tt.want {
			t.Errorf("%+v: %+v, %v, want %q", tt.st, st.Units, err, tt.want)
		}
	}
}

// A service that fell over shows it until an activation starts it anew.
func TestRealStatusTellsOfRestarts(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-again", 18089
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	service := "usr/lib/systemd/system/" + app + ".service"
	base := standard(app, port)
	base = base.with(service, strings.Replace(base.files[service], "Type=notify\n", "Type=notify\nRestart=always\nRestartSec=0\n", 1))
	c.deploy(app, build(t, base), protocol.Settings{}, protocol.Committed)
	problem := func() string {
		a := c.ask(protocol.Request{Status: &protocol.StatusOf{App: app}}, nil)
		if a.Status == nil {
			t.Fatalf("no status: %+v", a.Event)
		}
		for _, u := range a.Status.Units {
			if u.Unit == app+".service" {
				return u.Problem
			}
		}
		return "not told of"
	}
	if got := problem(); got != "" {
		t.Errorf("after the first release: %q", got)
	}
	for n, want := range []string{"restarted once by itself", "restarted 2 times by itself"} {
		m.sh(t, "systemctl kill -s KILL "+app+".service")
		for began := time.Now(); problem() != want; time.Sleep(50 * time.Millisecond) {
			if time.Since(began) > 10*time.Second {
				t.Fatalf("killed %d times: %q, want %q", n+1, problem(), want)
			}
		}
	}
	c.deploy(app, build(t, base.with("usr/share/relapp/page", "two")), protocol.Settings{}, protocol.Committed)
	if got := problem(); got != "" {
		t.Errorf("after the next release: %q", got)
	}
}
