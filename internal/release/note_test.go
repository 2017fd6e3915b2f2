package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"devbox/internal/protocol"
)

// The journal of the host has what came of each request, and nothing of those
// that change nothing.
func TestNotes(t *testing.T) {
	f, h, _ := first(t)
	ctx := context.Background()
	two := f.put(h, "two", unitsTwo)
	ask := func(a protocol.Activate) {
		t.Helper()
		a.App, a.By = "bowl", "anna@laptop"
		if err := h.Activate(ctx, a, func(protocol.Event) {}); err != nil {
			t.Fatal(err)
		}
	}
	f.notes = nil
	ask(protocol.Activate{Digest: two, DryRun: true})
	if _, err := h.Hello(ctx, "bowl"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Status(ctx, "bowl"); err != nil {
		t.Fatal(err)
	}
	if len(f.notes) > 0 {
		t.Errorf("nothing was done, and there is %+v", f.notes)
	}
	f.results["restart bowl.service"] = []string{"failed"}
	ask(protocol.Activate{Digest: two})
	ask(protocol.Activate{Digest: two})
	ask(protocol.Activate{Digest: two})
	var out bytes.Buffer
	in := fmt.Sprintf(`{"hello":{"protocol":%d,"app":"bowl"}}`, protocol.Version) + "\n" + `{"status":{"app":"pot"}}` + "\n"
	if err := h.Serve(ctx, strings.NewReader(in), &out, "test"); err == nil {
		t.Error("the session goes on after a request about another app")
	}
	if err := h.Forget(ctx, "bowl"); err != nil {
		t.Fatal(err)
	}
	want := []Note{
		{App: "bowl", Release: "r2", Outcome: protocol.RolledBack, By: "anna@laptop", Text: "r2 rolled-back, by anna@laptop; r1 runs: bowl.service exited with status 1"},
		{App: "bowl", Release: "r3", Outcome: protocol.Committed, By: "anna@laptop", Text: "r3 committed, by anna@laptop"},
		{App: "bowl", Release: "r3", Outcome: protocol.Unchanged, Text: "r3 unchanged"},
		{App: "bowl", Outcome: Refused, Text: `refused: this session is about "bowl", the request about "pot"`},
		{App: "bowl", Outcome: forgotten, Text: "taken off this host"},
	}
	if !reflect.DeepEqual(f.notes, want) {
		t.Errorf("the journal has\n%+v, want\n%+v", f.notes, want)
	}
}

func TestNotesOfRecovery(t *testing.T) {
	f, h, _ := interrupted(t)
	if _, err := h.Hello(context.Background(), "bowl"); err != nil {
		t.Fatal(err)
	}
	want := Note{App: "bowl", Outcome: recovered, Text: "undid r2, which was interrupted; r1 runs"}
	if len(f.notes) != 2 || f.notes[1] != want { // the first is that of r1
		t.Errorf("%+v", f.notes)
	}
}

// A process asks for a unit of its own once, and only when it changes something.
func TestShelter(t *testing.T) {
	f, _, one := first(t)
	h := New(f, f.root)
	f.shelters, f.notes = 0, nil
	if _, err := h.Hello(context.Background(), "bowl"); err != nil || f.shelters > 0 {
		t.Errorf("to say hello: %d, %v", f.shelters, err)
	}
	f.exposed = errors.New("no scope to be had")
	two := f.put(h, "two", unitsTwo)
	for _, digest := range []string{two, one} {
		if r, err := f.activate(h, digest, protocol.Settings{}); err != nil || r.Outcome != protocol.Committed {
			t.Errorf("without a scope: %+v, %v", r, err)
		}
	}
	if f.shelters != 1 {
		t.Errorf("it asked %d times", f.shelters)
	}
	if len(f.notes) != 3 || f.notes[0].Outcome != exposed || !strings.Contains(f.notes[0].Text, "no scope to be had") {
		t.Errorf("%+v", f.notes)
	}
	// What is undone when a session opens is sheltered, too; at boot there is no session.
	for when, want := range map[When]int{Online: 1, AtBoot: 0} {
		f, _, _ := interrupted(t)
		f.shelters = 0
		if _, err := New(f, f.root).Recover(context.Background(), "bowl", when); err != nil || f.shelters != want {
			t.Errorf("recover, %v: %d, %v", when, f.shelters, err)
		}
		f, _, _ = interrupted(t)
		f.shelters = 0
		if _, err := New(f, f.root).Hello(context.Background(), "bowl"); err != nil || f.shelters != 1 {
			t.Errorf("hello to an interrupted one: %d, %v", f.shelters, err)
		}
	}
}
