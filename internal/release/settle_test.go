package release

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

// A health check that waits in a socket's queue does not hide that the service
// behind it has fallen over, and of two that are down the cause is told.
func TestSettleTellsWhatFellOver(t *testing.T) {
	queue, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	to := target{Units: []unitFile{
		parsed(t, "bowl.service", "[Service]\nType=notify\n"+installed),
		parsed(t, "bowl.socket", "[Socket]\nListenStream=80\n"),
		parsed(t, "bowl-other.service", "[Service]\nType=notify\n"+installed),
	}}
	to.Release.Settings.Health = protocol.Health{URL: "http://" + queue.Addr().String()}
	up := UnitState{Active: "active", Type: "notify", Invocation: "first"}
	again := UnitState{Active: "active", Type: "notify", Invocation: "second", Restarts: 1}
	waits := UnitState{Active: "activating", Sub: "auto-restart", Type: "notify", Result: "exit-code", ExitCode: cldExited, ExitStatus: 2, Invocation: "first"}
	failed := UnitState{Active: "failed", Type: "notify", Result: "exit-code", ExitCode: cldExited, ExitStatus: 2, Invocation: "sixth"}
	open, closed := UnitState{Active: "active"}, UnitState{Active: "failed", Result: "service-start-limit-hit"}
	service := []string{"bowl.service"}
	tests := []struct {
		name            string
		restarted       []string
		service, socket []UnitState
		unit, cause     string
		log             string
	}{
		{"a service waits for its restart", service, []UnitState{up, up, waits}, nil,
			"bowl.service", "bowl.service exited with status 2 soon after it was started", "log of first"},
		{"a service was started again already", service, []UnitState{up, up, again}, nil,
			"bowl.service", "bowl.service ended by itself soon after it was started", "log of first"},
		{"service and socket are down", service, []UnitState{up, up, failed}, []UnitState{open, open, closed},
			"bowl.service", "bowl.service exited with status 2 soon after it was started", "log of first"},
		{"the socket is seen first", service, []UnitState{up, up, failed}, []UnitState{open, closed},
			"bowl.service", "bowl.service exited with status 2 soon after it was started, and bowl.socket is closed", "log of first"},
		{"a service that was not restarted takes its socket with it", []string{"bowl-other.service"}, []UnitState{failed}, []UnitState{open, open, closed},
			"bowl.service", "bowl.service exited with status 2 soon after it was started, and bowl.socket is closed", "log of sixth"},
		{"only the socket is down", service, nil, []UnitState{open, open, closed},
			"bowl.socket", "bowl.socket failed (service-start-limit-hit) soon after it was started", "log of "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.units = map[string]UnitState{"bowl.service": up, "bowl.socket": open, "bowl-other.service": up}
			f.then = map[string][]UnitState{"bowl.service": tt.service, "bowl.socket": tt.socket}
			a, err := New(f, f.root).open("bowl")
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			err = a.settle(context.Background(), to, &Plan{Restart: tt.restarted}, time.Minute)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			var got *fault
			if !errors.As(err, &got) || got.unit != tt.unit || got.cause != tt.cause || !slices.Equal(got.log, []string{tt.log}) {
				t.Errorf("got  %+v\nwant %s: %s: %s", err, tt.unit, tt.cause, tt.log)
				if got != nil {
					t.Errorf("log %q", got.log)
				}
			}
		})
	}
	t.Run("nothing falls over", func(t *testing.T) {
		f := newFake(t)
		f.units = map[string]UnitState{"bowl.service": up, "bowl.socket": open}
		a, err := New(f, f.root).open("bowl")
		if err != nil {
			t.Fatal(err)
		}
		err = a.settle(context.Background(), to, &Plan{Restart: service}, 200*time.Millisecond)
		if err == nil || !strings.HasPrefix(err.Error(), "not healthy within") || !strings.HasSuffix(err.Error(), "no answer") {
			t.Errorf("%v", err)
		}
	})
}

// The real thing: the service says that it is ready and falls over, again and
// again, while the question after its health waits in its socket.
func TestRealServiceThatFallsOverOnceReady(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-loop", 18088
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	service := "usr/lib/systemd/system/" + app + ".service"
	base := standard(app, port)
	c.deploy(app, build(t, base), protocol.Settings{}, protocol.Committed)
	settings := protocol.Settings{Health: protocol.Health{URL: fmt.Sprintf("http://127.0.0.1:%d/health", port), Deadline: 20 * time.Second}}
	for _, restart := range []string{"", "Restart=always\n", "Restart=always\nRestartSec=0\n", "Restart=always\nRestartSec=1\n"} {
		unit := strings.Replace(base.files[service], "Type=notify\n", "Type=notify\n"+restart, 1)
		began := time.Now()
		r := c.deploy(app, build(t, base.with("etc/relapp/mode", "shortly", service, unit)), settings, protocol.RolledBack)
		t.Logf("%q: %s%s", restart, time.Since(began).Round(time.Millisecond), phases(r.Phases))
		t.Logf("%+v", r.Failure)
		for _, p := range r.Phases {
			if p.Name == "failure" && p.Took > 2*time.Second {
				t.Errorf("%q: noticed after %s", restart, p.Took)
			}
		}
		if r.Failure.Unit != app+".service" || !strings.Contains(r.Failure.Cause, "soon after it was started") {
			t.Errorf("%q: failure %+v", restart, r.Failure)
		}
		if !slices.ContainsFunc(r.Failure.Log, func(l string) bool { return strings.Contains(l, "panic: it was well for a moment") }) {
			t.Errorf("%q: log %q", restart, r.Failure.Log)
		}
	}
	if got := m.get(t, port); !strings.HasPrefix(got, "one ") {
		t.Errorf("answers %q", got)
	}
}
