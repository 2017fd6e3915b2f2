package deploy

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/remote"
	"devbox/internal/vm"
)

func TestWhatARehearsalFinds(t *testing.T) {
	at := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	data := func(newest time.Time) *protocol.Data { return &protocol.Data{Integrity: "ok", Newest: newest} }
	with := func(newest time.Time, n int64) *protocol.Data {
		return &protocol.Data{Newest: newest, Rows: map[string]int64{"press": n}}
	}
	rows := func(n int64) *protocol.Data { return with(time.Time{}, n) }
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
		{"a check that does not tell", data(time.Time{}), data(time.Time{}), 0, "not known"},
		{"a check that does not tell, and the server is gone", nil, data(time.Time{}), 0, "not known"},
		{"nothing came back", data(at), data(time.Time{}), 0, "nothing came back"},
		{"nothing came back, and the server is gone", nil, rows(0), 0, "nothing came back"},
		{"a table is not replicated", with(at, 500), with(at.Add(time.Second), 0), 0, "nothing of press came back"},
		{"a table of the last moments", with(at.Add(time.Second), 1), with(at, 0), time.Second, ""},
		{"some rows were deleted meanwhile", with(at, 500), with(at, 400), 0, ""},
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

// What could only fail is refused before anybody waits.
func TestRehearsalsThatAreRefused(t *testing.T) {
	p := appWithTool(t)
	image := func(arch string, tool []byte) string {
		save(t, p.Config.Dir, "tree/usr/bin/tool", string(tool))
		if err := os.Chmod(filepath.Join(p.Config.Dir, "tree/usr/bin/tool"), 0o755); err != nil {
			t.Fatal(err)
		}
		a, err := p.Build(t.Context(), arch, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		return a.Path
	}
	other := program(t)
	other[18] = byte(elf.EM_S390)
	ours, foreign := image(runtime.GOARCH, program(t)), image("s390x", other)
	for name, c := range map[string]struct {
		image   string
		check   string
		without []string
		secrets map[string][]byte
		err     string
	}{
		"nothing is wrong":   {image: ours, check: "/usr/bin/tool"},
		"a check of no kind": {image: ours, check: "/etc/page"},
		"another processor":  {image: foreign, check: "/usr/bin/tool", err: "is for s390x, and a machine of this computer is " + runtime.GOARCH},
		"no such check":      {image: ours, check: "/usr/bin/other", err: "no program to look at its data"},
		"no such unit":       {image: ours, check: "/usr/bin/tool", without: []string{"shop-copy.service"}, err: "shop-copy.service of drill.without is no unit of"},
		"a secret of nobody": {image: ours, check: "/usr/bin/tool", secrets: map[string][]byte{"key": nil}, err: "no unit of"},
	} {
		config := *p.Config
		config.Drill.Without = c.without
		r := &rehearsal{project: &Project{Config: &config, Paths: p.Paths}, art: &Artifact{Path: c.image}, DrillOptions: DrillOptions{Secrets: c.secrets}}
		r.settings.State.Check = []string{c.check}
		err := r.readImage(t.Context())
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || hint.Of(err) == "") {
			t.Errorf("%s: %v (hint %q)", name, err, hint.Of(err))
		}
	}
}

// Who answers, and refuses, is not gone.
func TestWhatMayBeGone(t *testing.T) {
	for _, c := range []struct {
		err  error
		gone bool
	}{
		{&remote.DialError{Kind: remote.ErrUnreachable}, true},
		{hint.Wrap(&remote.DialError{Kind: remote.ErrRefused}, "look"), true},
		{fmt.Errorf("the machine: %w", vm.ErrNotRunning), true},
		{&remote.HostKeyMismatchError{}, false},
		{&remote.AuthError{}, false},
		{&HostError{Code: protocol.CodeProtocol}, false},
	} {
		if mayBeGone(c.err) != c.gone {
			t.Errorf("%v: gone is %v", c.err, !c.gone)
		}
	}
}

// What is rehearsed has the settings that it ran with, but no trial and no copies.
func TestSettingsOfARehearsal(t *testing.T) {
	p := &Project{Config: &config.Config{Name: "shop", Env: map[string]map[string]string{"shop.service": {"NEW": "1"}}}}
	ran := protocol.Settings{
		Profile: "trusted", Env: map[string]map[string]string{"shop.service": {"A": "b"}}, Trial: time.Minute,
		Health: protocol.Health{URL: "http://localhost/healthz", Deadline: 4 * time.Second},
		State:  protocol.State{Check: []string{"/bin/x"}, Snapshot: protocol.BeforeActivate},
	}
	r := &rehearsal{project: p, settings: ran}
	got := r.stage().settings(true)
	want := ran
	want.Trial, want.State.Snapshot, want.Health.Deadline = 0, "", 48*time.Second
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
