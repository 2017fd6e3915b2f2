package release

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// checked are the settings of an app that has a check of its data. Its program
// is a file that each image of these tests has.
func checked() protocol.Settings {
	return protocol.Settings{State: protocol.State{Check: []string{"/usr/bin/bowl", "check"}}}
}

// storing is unitsOne of an app that stores something.
var storing = map[string]string{
	"bowl-a.service": "[Service]\nType=notify\nExecStart=/x\nStateDirectory=other\n" + installed,
	"bowl.service":   "[Service]\nType=notify\nExecStart=/x\nStateDirectory=bowl\n" + installed,
}

func TestData(t *testing.T) {
	f := newFake(t)
	h := New(f, f.root)
	ctx := context.Background()
	if _, err := h.Data(ctx, "bowl"); err == nil {
		t.Error("the data of nothing")
	}
	one := f.put(h, "one", storing)
	if _, err := f.activate(h, one, protocol.Settings{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Data(ctx, "bowl"); err == nil || !strings.Contains(hint.Of(err), "state.check") {
		t.Errorf("without a check: %v", err)
	}
	if r, err := f.activate(h, one, checked()); err != nil || r.Outcome != protocol.Committed {
		t.Fatalf("%+v, %v", r, err)
	}
	seven := int64(7)
	failed := &fault{cause: "the check /usr/bin/bowl exited with status 1", log: []string{"a", "b"}}
	for _, tt := range []struct {
		name, out string
		err       error
		want      protocol.Data
		problem   string // a part of it, where that is not all
	}{
		{name: "everything", out: `{"integrity":"ok","schema":7,"rows":{"press":12,"room":0},"newest":"2026-11-24T08:00:00Z"}` + "\n",
			want: protocol.Data{Integrity: "ok", Schema: &seven, Rows: map[string]int64{"press": 12, "room": 0}, Newest: time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)}},
		{name: "nothing in it", out: "{}"},
		{name: "not well, in its own words", out: `{"integrity":"row 3 missing\u001b[2J"}`, want: protocol.Data{Integrity: "row 3 missing[2J", Problem: "integrity: row 3 missing[2J"}},
		{name: "failed", err: failed, want: protocol.Data{Problem: failed.cause, Log: failed.log}},
		{name: "failed and said why", out: `{"integrity":"torn page"}`, err: failed,
			want: protocol.Data{Integrity: "torn page", Problem: failed.cause + "; integrity: torn page", Log: failed.log}},
		{name: "could not be run", err: errors.New("no\nbus"), want: protocol.Data{Problem: "nobus"}},
		{name: "silent", problem: "printed nothing"},
		{name: "no JSON", out: "all fine", problem: "did not print what is read here"},
		{name: "misspelt", out: `{"integrty":"ok"}`, problem: "integrty"},
		{name: "twice", out: `{}{}`, problem: "more than one"},
		{name: "fewer than none", out: `{"rows":{"press":-1}}`, problem: "-1 rows of press"},
		{name: "what only devbox-host says", out: `{"problem":"x"}`, problem: "problem"},
	} {
		f.probe = func(p Probe) ([]byte, error) {
			want := Probe{Name: "devbox-data-bowl", Image: f.root + "/var/lib/portables/bowl.raw", Like: "bowl.service", Args: []string{"/usr/bin/bowl", "check"},
				Env: []string{"DEVBOX_VERSION=" + one[:12], "DEVBOX_RELEASE=r2"}}
			if !reflect.DeepEqual(p, want) {
				t.Errorf("ran %+v, want %+v", p, want)
			}
			return []byte(tt.out), tt.err
		}
		got, err := h.Data(ctx, "bowl")
		if tt.problem != "" {
			if !strings.Contains(got.Problem, tt.problem) {
				t.Errorf("%s: %+v, want %q", tt.name, got, tt.problem)
			}
			got.Problem = ""
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
}

// The check that runs is the one that the release names; a client has no say in it.
func TestDataOverTheWire(t *testing.T) {
	f := newFake(t)
	h := New(f, f.root)
	if _, err := f.activate(h, f.put(h, "one", storing), checked()); err != nil {
		t.Fatal(err)
	}
	ran := 0
	f.probe = func(p Probe) ([]byte, error) {
		ran++
		return []byte(`{"integrity":"ok"}`), nil
	}
	hello := fmt.Sprintf(`{"hello":{"protocol":%d,"app":"bowl"}}`, protocol.Version) + "\n"
	got := talk(t, h, hello+`{"data":{"app":"bowl"}}`+"\n"+`{"data":{"app":"bowl","check":["/bin/sh"]}}`+"\n")
	if len(got) != 3 || got[1].Data == nil || got[1].Data.Integrity != "ok" || !got[1].Done || got[2].Code != protocol.CodeProtocol || ran != 1 {
		t.Errorf("ran %d, %+v", ran, got)
	}
}

// A release whose image lacks its own check is refused before anything is touched.
func TestAReleaseWithoutItsCheck(t *testing.T) {
	f, h, _ := first(t)
	two := f.put(h, "two", unitsTwo)
	_, err := f.activate(h, two, protocol.Settings{State: protocol.State{Check: []string{"/usr/bin/none"}}})
	if err == nil || !strings.Contains(err.Error(), "no program /usr/bin/none") || hint.Of(err) == "" || len(f.did) > 0 {
		t.Errorf("%v (hint %q), did %v", err, hint.Of(err), f.did)
	}
}

func TestADataThatNobodyKeeps(t *testing.T) {
	f := newFake(t)
	h := New(f, f.root)
	if _, err := f.activate(h, f.put(h, "one", unitsOne), checked()); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Data(context.Background(), "bowl"); err != nil || !strings.Contains(got.Problem, "StateDirectory=") {
		t.Errorf("%+v, %v", got, err)
	}
}
