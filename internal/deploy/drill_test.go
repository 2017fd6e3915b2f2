package deploy

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/protocol"
)

func TestWhatARehearsalFinds(t *testing.T) {
	at := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	data := func(newest time.Time) *protocol.Data { return &protocol.Data{Integrity: "ok", Newest: newest} }
	rows := func(n int64) *protocol.Data { return &protocol.Data{Rows: map[string]int64{"press": n}} }
	for _, c := range []struct {
		name           string
		live, restored *protocol.Data
		lost           time.Duration
		err            string
	}{
		{"all is there", data(at), data(at), 0, ""},
		{"more than was asked for is there", data(at), data(at.Add(time.Second)), 0, ""},
		{"the last moments are not", data(at.Add(3 * time.Second)), data(at), 3 * time.Second, ""},
		{"the server is gone", nil, data(at), 0, ""},
		{"an app that has stored nothing", data(time.Time{}), data(time.Time{}), 0, ""},
		{"nothing came back", data(at), data(time.Time{}), 0, "nothing came back"},
		{"nothing came back, and the server is gone", nil, data(time.Time{}), 0, "nothing came back"},
		{"rows are all that is told, and there are none", rows(500), rows(0), 0, "nothing came back"},
		{"rows are all that is told", rows(500), rows(400), 0, ""},
		{"an app that has no rows", rows(0), rows(0), 0, ""},
		{"it is damaged", data(at), &protocol.Data{Integrity: "row 7 missing from index", Problem: "the check exited with status 1"}, 0, "not whole: row 7"},
		{"its check fails", data(at), &protocol.Data{Problem: "exit status 1"}, 0, "not well: exit status 1"},
	} {
		r := &rehearsal{Drill: Drill{Live: c.live, Restored: c.restored}}
		err := r.compare()
		if c.err == "" && (err != nil || r.Lost != c.lost) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || hint.Of(err) == "") {
			t.Errorf("%s: lost %v, %v", c.name, r.Lost, err)
		}
	}
}

// What could only fail is refused before it begins.
func TestRehearsalsThatAreRefused(t *testing.T) {
	check := protocol.Settings{State: protocol.State{Check: []string{"/bin/x"}}}
	other := map[string]string{"amd64": "arm64"}[runtime.GOARCH]
	if other == "" {
		other = "amd64"
	}
	for _, c := range []struct {
		arch    string
		current *protocol.Release
		err     string
	}{
		{runtime.GOARCH, &protocol.Release{ID: "r1", Settings: check}, ""},
		{other, &protocol.Release{ID: "r1", Settings: check}, "for " + other},
		{runtime.GOARCH, nil, "nothing runs"},
		{runtime.GOARCH, &protocol.Release{ID: "r1"}, "without a check"},
	} {
		var script []turn
		if c.arch == runtime.GOARCH {
			script = []turn{{want: protocol.Request{Status: &protocol.StatusOf{App: "shop"}}, answer: []protocol.Event{{Status: &protocol.Status{Current: c.current}}, {Done: true}}}}
		}
		s, err := greet(t.Context(), fakeHost(t, nil, append([]turn{welcome(protocol.Welcome{Arch: c.arch})}, script...)...), "shop")
		if err != nil {
			t.Fatal(err)
		}
		p := &Project{Config: &config.Config{Name: "shop"}}
		r := &rehearsal{Drill: Drill{Of: "prod"}, project: p, there: &Host{Session: s, project: p}}
		err = r.check(t.Context())
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || hint.Of(err) == "") {
			t.Errorf("%s, %+v: %v", c.arch, c.current, err)
		}
	}
}
