package release

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"devbox/internal/protocol"
)

// What happens while a release is on trial, and who is to blame for it.
func TestTrial(t *testing.T) {
	up := func(invocation string) UnitState {
		return UnitState{Active: "active", Type: "notify", Invocation: invocation}
	}
	again := UnitState{Active: "active", Type: "notify", Invocation: "second", Restarts: 1}
	failed := UnitState{Active: "failed", Type: "notify", Result: "exit-code", ExitCode: cldExited, ExitStatus: 2, Invocation: "first"}
	waits := UnitState{Active: "activating", Sub: "auto-restart", Type: "notify", Result: "exit-code", ExitCode: cldExited, ExitStatus: 2, Invocation: "first"}
	open, closed := UnitState{Active: "active"}, UnitState{Active: "failed", Result: "resources"}
	before := map[string]string{"bowl-other.service": "first"}
	tests := []struct {
		name                   string
		before                 map[string]string
		service, other, socket []UnitState
		unit, cause            string // "" of a release that passes
	}{
		{"all goes well", before, []UnitState{up("first")}, []UnitState{up("first")}, []UnitState{open}, "", ""},
		{"a service falls over", before, []UnitState{up("first"), up("first"), failed}, []UnitState{up("first")}, []UnitState{open},
			"bowl.service", "bowl.service exited with status 2 while it was on trial"},
		{"systemd started it again", before, []UnitState{up("first"), up("first"), again}, []UnitState{up("first")}, []UnitState{open},
			"bowl.service", "bowl.service ended by itself while it was on trial"},
		{"one that was not restarted falls over", before, []UnitState{up("first")}, []UnitState{up("first"), up("first"), waits}, []UnitState{open},
			"bowl-other.service", "bowl-other.service exited with status 2 while it was on trial"},
		{"one that was not restarted is down already", before, []UnitState{up("first")}, []UnitState{failed}, []UnitState{open},
			"bowl-other.service", "bowl-other.service exited with status 2 while it was on trial"},
		{"one that was unwell before falls over again", nil, []UnitState{up("first")}, []UnitState{up("first"), waits}, []UnitState{open}, "", ""},
		{"a socket closes", before, []UnitState{up("first")}, []UnitState{up("first")}, []UnitState{open, open, closed},
			"bowl.socket", "bowl.socket systemd could not start it: something that it needs is missing while it was on trial"},
	}
	to := target{Units: []unitFile{
		parsed(t, "bowl.service", "[Service]\nType=notify\n"+installed),
		parsed(t, "bowl.socket", "[Socket]\nListenStream=80\n"),
		parsed(t, "bowl-other.service", "[Service]\nType=notify\n"+installed),
		parsed(t, "bowl-idle.service", "[Service]\nType=notify\n"), // nothing starts it
	}}
	to.Release.Settings.Trial = 150 * time.Millisecond
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.then = map[string][]UnitState{"bowl.service": tt.service, "bowl-other.service": tt.other, "bowl.socket": tt.socket}
			a, err := New(f, f.root).open("bowl")
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			err = a.trial(context.Background(), to, &Plan{Restart: []string{"bowl.service"}}, tt.before)
			took := time.Since(began)
			if tt.cause == "" {
				if err != nil || took < to.Release.Settings.Trial {
					t.Errorf("after %s: %v", took, err)
				}
				return
			}
			var got *fault
			if !errors.As(err, &got) || got.unit != tt.unit || got.cause != tt.cause || took > to.Release.Settings.Trial {
				t.Errorf("after %s: got  %+v\nwant %s: %s", took, err, tt.unit, tt.cause)
			}
		})
	}
}

// A release is asked after its health at the end of its trial once more, and is
// undone if that has changed. The client hears that the trial has begun.
func TestTrialEndsWithACheck(t *testing.T) {
	var sick atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	f, h, _ := first(t)
	s := protocol.Settings{Trial: 50 * time.Millisecond, Health: protocol.Health{URL: srv.URL, Deadline: 100 * time.Millisecond}}
	for _, tt := range []struct {
		page    string
		sick    bool
		outcome string
		phases  string
	}{
		{"two", false, protocol.Committed, "health trial trial commit"},
		{"three", true, protocol.RolledBack, "health trial failure rollback"},
	} {
		sick.Store(false)
		digest := f.put(h, tt.page, unitsOne)
		var result protocol.Result
		var told []string
		err := h.Activate(context.Background(), protocol.Activate{App: "bowl", Digest: digest, Settings: s}, func(e protocol.Event) {
			switch {
			case e.Phase != nil:
				told = append(told, e.Phase.Name)
				switch e.Phase.Name {
				case "trial":
					sick.Store(tt.sick)
				case "failure": // the release before is well
					sick.Store(false)
				}
			case e.Result != nil:
				result = *e.Result
			}
		})
		if err != nil || result.Outcome != tt.outcome {
			t.Errorf("%s: %+v, %v", tt.page, result, err)
		}
		if got := strings.Join(told[slices.Index(told, "health"):], " "); got != tt.phases {
			t.Errorf("%s: phases %s, want %s", tt.page, got, tt.phases)
		}
		if tt.sick && !strings.Contains(result.Failure.Cause, "no longer healthy at the end of its trial of 50ms: GET "+srv.URL+" answered 503") {
			t.Errorf("cause %q", result.Failure.Cause)
		}
	}
}

// The answer must have the expected text, with the version that is started, or
// with that of a service that goes on because nothing of it changed.
func TestExpect(t *testing.T) {
	answer := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
	defer srv.Close()
	f := newFake(t)
	f.units["bowl.service"] = UnitState{Active: "active", MainPID: 77}
	f.units["bowl.socket"] = UnitState{Active: "active"}
	f.write("proc/77/environ", "HOME=/\x00DEVBOX_VERSION=0ldversion00\x00X=y\x00")
	a, err := New(f, f.root).open("bowl")
	if err != nil {
		t.Fatal(err)
	}
	r := protocol.Release{ID: "r2", Digest: digestOf("ab")}
	for _, tt := range []struct {
		name, expect, answer string
		stay                 []string
		err                  string
	}{
		{"nothing is expected", "", "anything", nil, ""},
		{"a plain text", "all well", "we are all well here", nil, ""},
		{"a plain text that is not there", "all well", "oh \x1b[2Jdear\n" + strings.Repeat("x", 500), nil, `answered "oh [2Jdear ` + strings.Repeat("x", 89) + `…", which has no "all well"`},
		{"the new version", "version ${DEVBOX_VERSION}.", "version abababababab.", nil, ""},
		{"the old version", "version ${DEVBOX_VERSION}.", "version 0ldversion00.", nil, `answered "version 0ldversion00.", which has no "version abababababab."`},
		{"the old version, of a service that stays", "version ${DEVBOX_VERSION}.", "version 0ldversion00.", []string{"bowl.service", "bowl.socket"}, ""},
		{"a third version, where one stays", "version ${DEVBOX_VERSION}.", "version 1.", []string{"bowl.service"}, "which has no"},
		{"too far behind", "end", strings.Repeat("x", maxAnswer) + "end", nil, "which has no"},
	} {
		answer = tt.answer
		r.Settings.Health = protocol.Health{URL: srv.URL, Expect: tt.expect}
		expect, err := a.expected(context.Background(), r, tt.stay)
		if err != nil {
			t.Fatal(err)
		}
		err = a.check(context.Background(), r, expect)
		if fmt.Sprint(err) != "<nil>" && tt.err == "" || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
		}
	}
}

// digestOf is a digest of one pair of hex digits over and over.
func digestOf(pair string) string { return strings.Repeat(pair, 32) }
