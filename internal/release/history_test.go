package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// request activates by a request of any kind.
func (f *fake) request(h *Host, req protocol.Activate) (r protocol.Result, err error) {
	f.did = nil
	req.App = "bowl"
	err = h.Activate(context.Background(), req, func(e protocol.Event) {
		if e.Result != nil {
			r = *e.Result
		}
	})
	return r, err
}

// told is what the history says of each release, newest first.
func told(t *testing.T, h *Host) []string {
	t.Helper()
	list, err := h.Releases(context.Background(), "bowl")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range list {
		text := r.ID + " " + r.Outcome
		if r.Of != "" {
			text += " of " + r.Of
		}
		if r.Cause != "" {
			text += ": " + r.Cause
		}
		if r.Gone {
			text += " (gone)"
		}
		all = append(all, text)
	}
	return all
}

func wantHistory(t *testing.T, h *Host, want ...string) {
	t.Helper()
	if got := told(t, h); !slices.Equal(got, want) {
		t.Errorf("history\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// env are settings with a greeting.
func env(greeting string) protocol.Settings {
	return protocol.Settings{Env: map[string]map[string]string{"bowl.service": {"GREETING": greeting}}}
}

// One goes back to a release by its number or by "previous", and has all of it:
// units, settings, signature and source.
func TestRollback(t *testing.T) {
	f, h, one := first(t)
	two := f.put(h, "two", unitsTwo)
	if r, err := f.request(h, protocol.Activate{Digest: two, Settings: env("hello"), Signature: "signed", Source: "abc", By: "anna@laptop"}); err != nil || r.Plan.Release != "r2" {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := f.request(h, protocol.Activate{Release: protocol.Previous, DryRun: true}); err != nil || r.Outcome != protocol.Planned || r.Plan.Release != "r3" || r.Serving != "r2" {
		t.Errorf("dry run: %+v, %v", r, err)
	}
	r, err := f.request(h, protocol.Activate{Release: protocol.Previous, By: "bert@desk"})
	if err != nil || r.Outcome != protocol.Committed || r.Serving != "r3" {
		t.Fatalf("previous: %+v, %v", r, err)
	}
	if want := []string{"profiles", "attach", "reload", "restart bowl.service"}; !slices.Equal(f.did, want) {
		t.Errorf("did %v, want %v", f.did, want)
	}
	dropIn := func() string {
		data, err := os.ReadFile(filepath.Join(f.root, unitDir, "bowl.service.d", dropInName))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if strings.Contains(dropIn(), "GREETING") {
		t.Errorf("r1 had no environment: %s", dropIn())
	}
	if r, err := f.request(h, protocol.Activate{Release: "r1"}); err != nil || r.Outcome != protocol.Unchanged || r.Serving != "r3" || len(f.did) > 0 {
		t.Errorf("to what runs: %+v, %v", r, err)
	}
	if r, err := f.request(h, protocol.Activate{Release: "r2", By: "bert@desk"}); err != nil || r.Serving != "r4" {
		t.Fatalf("r2: %+v, %v", r, err)
	}
	if !strings.Contains(dropIn(), `"GREETING=hello"`) {
		t.Errorf("r2's environment did not come back: %s", dropIn())
	}
	wantHistory(t, h, "r4 committed of r2", "r3 committed of r1", "r2 committed", "r1 committed")
	st, err := h.Status(context.Background(), "bowl")
	if err != nil || st.Current == nil || st.Current.Source != "abc" || st.Current.Signature != "signed" || st.Current.By != "bert@desk" || st.Previous.Digest != one {
		t.Errorf("%+v, %v", st.Current, err)
	}
}

// A release that comes back is judged as any other.
func TestRollbackThatFails(t *testing.T) {
	f, h, _ := first(t)
	two := f.put(h, "two", unitsTwo)
	if _, err := f.activate(h, two, protocol.Settings{}); err != nil {
		t.Fatal(err)
	}
	f.results["restart bowl.service"] = []string{"failed"}
	if r, err := f.request(h, protocol.Activate{Release: "r1"}); err != nil || r.Outcome != protocol.RolledBack || r.Serving != "r2" || r.Release != "r3" {
		t.Errorf("%+v, %v", r, err)
	}
	wantHistory(t, h, "r3 rolled-back of r1: bowl.service exited with status 1", "r2 committed", "r1 committed")
}

func TestNoSuchRelease(t *testing.T) {
	f, h, one := first(t)
	two := f.put(h, "two", unitsTwo)
	refused := func(id, text string) {
		t.Helper()
		r, err := f.request(h, protocol.Activate{Release: id})
		var coded *CodedError
		if !errors.As(err, &coded) || coded.Code != protocol.CodeNoRelease || !strings.Contains(err.Error(), text) || hint.Of(err) == "" {
			t.Errorf("%s: %+v, %v (hint %q), want %q", id, r, err, hint.Of(err), text)
		}
		if len(f.did) > 0 {
			t.Errorf("%s: did %v", id, f.did)
		}
	}
	refused(protocol.Previous, "no release of bowl ran before")
	refused("r7", "bowl has no release r7")
	f.results["restart bowl.service"] = []string{"failed"}
	if _, err := f.activate(h, two, protocol.Settings{}); err != nil {
		t.Fatal(err)
	}
	refused("r2", "r2 was never kept: bowl.service exited with status 1")
	if _, err := f.activate(h, two, protocol.Settings{}); err != nil {
		t.Fatal(err)
	}
	a, err := h.open("bowl")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(a.image(short(one))); err != nil {
		t.Fatal(err)
	}
	refused("r1", "the image of r1 is gone")
	wantHistory(t, h, "r3 committed", "r2 rolled-back: bowl.service exited with status 1", "r1 committed (gone)")
}

// commit commits a release of an image of its own, and ages the images so that
// their order is told.
func (f *fake) commit(h *Host, page string, keep int) string {
	f.t.Helper()
	digest := f.put(h, page, unitsOne)
	if r, err := f.request(h, protocol.Activate{Digest: digest, Keep: keep}); err != nil || r.Outcome != protocol.Committed {
		f.t.Fatalf("%s: %+v, %v", page, r, err)
	}
	f.age(h)
	return digest
}

// age makes all images an hour older.
func (f *fake) age(h *Host) {
	a, err := h.open("bowl")
	if err != nil {
		f.t.Fatal(err)
	}
	versions, err := a.versions()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, v := range versions {
		info, err := os.Stat(a.image(v))
		if err != nil {
			f.t.Fatal(err)
		}
		then := info.ModTime().Add(-time.Hour)
		if err := os.Chtimes(a.image(v), then, then); err != nil {
			f.t.Fatal(err)
		}
	}
}

// As many releases as asked for keep their images, and of what was sent and
// never committed only what came last.
func TestKeep(t *testing.T) {
	f, h, _ := first(t)
	f.age(h)
	for i := 2; i <= 7; i++ {
		f.commit(h, fmt.Sprint("page", i), 4)
	}
	wantHistory(t, h, "r7 committed", "r6 committed", "r5 committed", "r4 committed", "r3 committed (gone)", "r2 committed (gone)", "r1 committed (gone)")

	// One that runs again counts once, and a failure not at all.
	if _, err := f.request(h, protocol.Activate{Release: "r4"}); err != nil {
		t.Fatal(err)
	}
	f.results["restart bowl.service"] = []string{"failed"}
	bad := f.put(h, "bad", unitsTwo)
	if r, err := f.request(h, protocol.Activate{Digest: bad}); err != nil || r.Outcome != protocol.RolledBack {
		t.Fatalf("%+v, %v", r, err)
	}
	wantHistory(t, h, "r9 rolled-back: bowl.service exited with status 1", "r8 committed of r4", "r7 committed", "r6 committed", "r5 committed", "r4 committed",
		"r3 committed (gone)", "r2 committed (gone)", "r1 committed (gone)")

	// The failed one has its image while it is new. Keep lasts until another is asked for.
	f.age(h)
	f.commit(h, "page8", 0)
	f.commit(h, "page9", 0)
	wantHistory(t, h, "r11 committed", "r10 committed", "r9 rolled-back: bowl.service exited with status 1 (gone)", "r8 committed of r4", "r7 committed",
		"r6 committed (gone)", "r5 committed (gone)", "r4 committed", "r3 committed (gone)", "r2 committed (gone)", "r1 committed (gone)")

	// Also if nothing else is new; the running one and the one before stay.
	running := f.put(h, "page9", unitsOne)
	if r, err := f.request(h, protocol.Activate{Digest: running, Keep: 1}); err != nil || r.Outcome != protocol.Unchanged {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := told(t, h); !slices.Equal(got[:5], []string{"r11 committed", "r10 committed", "r9 rolled-back: bowl.service exited with status 1 (gone)", "r8 committed of r4 (gone)", "r7 committed (gone)"}) {
		t.Errorf("keep 1: %q", got)
	}
}

// The same started anew leaves the way back to what ran before it.
func TestRestartKeepsThePrevious(t *testing.T) {
	f, h, one := first(t)
	two := f.commit(h, "two", 0)
	if r, err := f.request(h, protocol.Activate{Digest: two, All: true}); err != nil || r.Serving != "r3" {
		t.Fatalf("%+v, %v", r, err)
	}
	st, err := h.Status(context.Background(), "bowl")
	if err != nil || st.Current.ID != "r3" || st.Previous.ID != "r1" || st.Previous.Digest != one {
		t.Errorf("%+v, %+v, %v", st.Current, st.Previous, err)
	}
}

// Whatever moment a crash hits, the history tells what came of the release.
func TestHistoryAfterACrash(t *testing.T) {
	for _, tt := range []struct {
		name    string
		journal bool // the journal is there still
		commit  bool // the release is in state.json
		cause   string
		want    string
	}{
		{"before it was committed", true, false, "", "r2 interrupted: interrupted"},
		{"while a failed one was undone", true, false, "bowl.service exited with status 1", "r2 rolled-back: bowl.service exited with status 1"},
		{"once it was committed", true, true, "", "r2 committed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, h, _ := first(t)
			two := f.put(h, "two", unitsOne)
			a, st := opened(t, h)
			j := journal{From: st.Current, To: protocol.Release{ID: "r2", Digest: two, Cause: tt.cause}}
			if err := writeJSON(a.place.journal(), j); err != nil {
				t.Fatal(err)
			}
			if tt.commit {
				if _, err := a.commit(st, j.To); err != nil {
					t.Fatal(err)
				}
				wantHistory(t, h, "r2 committed", "r1 committed") // also before it is completed
			}
			for range 2 {
				if _, err := h.Hello(context.Background(), "bowl"); err != nil {
					t.Fatal(err)
				}
				wantHistory(t, h, tt.want, "r1 committed")
			}
			if _, err := os.Stat(a.record("r2")); err != nil {
				t.Error(err)
			}
		})
	}
}

// The records of long ago go, but not those that one can go back to; one that
// cannot be read hides no other.
func TestOldRecords(t *testing.T) {
	f, h, one := first(t)
	a, err := h.open("bowl")
	if err != nil {
		t.Fatal(err)
	}
	for i := 2; i <= maxHistory+20; i++ {
		r := protocol.Release{ID: fmt.Sprintf("r%d", i), Digest: strings.Repeat("ab", 32), Outcome: protocol.RolledBack}
		if err := a.addHistory(r); err != nil {
			t.Fatal(err)
		}
	}
	f.write(filepath.Join(stateDir, "bowl/releases/r150.json"), "{")
	st, err := a.readState()
	if err != nil {
		t.Fatal(err)
	}
	st.Last = maxHistory + 20
	if err := writeJSON(a.place.state(), st); err != nil {
		t.Fatal(err)
	}
	f.commit(h, "two", 3)
	list := told(t, h)
	if len(list) != maxHistory || list[0] != "r221 committed" || !slices.Contains(list, "r150 : its record cannot be read") {
		t.Errorf("%d releases, first %q", len(list), list[0])
	}
	left, err := os.ReadDir(a.releases())
	if err != nil || len(left) != maxHistory+1 {
		t.Errorf("%d records are left, %v", len(left), err)
	}
	if r, err := f.request(h, protocol.Activate{Release: "r1"}); err != nil || r.Serving != "r222" {
		t.Errorf("back to %s: %+v, %v", short(one), r, err)
	}
}

// A plan is good for what ran when it was made, and for nothing else.
func TestAPlanIsBoundToWhatRan(t *testing.T) {
	f := newFake(t)
	h := New(f, f.root)
	one, two := f.put(h, "one", unitsOne), f.put(h, "two", unitsTwo)
	ask := func(digest, instead string) error {
		return h.Activate(context.Background(), protocol.Activate{App: "bowl", Digest: digest, Instead: instead}, func(protocol.Event) {})
	}
	stale := func(digest, instead, says string) {
		t.Helper()
		f.did = nil
		var coded *CodedError
		err := ask(digest, instead)
		if !errors.As(err, &coded) || coded.Code != protocol.CodeChanged || !strings.Contains(err.Error(), says) || hint.Of(err) == "" || len(f.did) > 0 {
			t.Errorf("instead of %s: %v, did %v", instead, err, f.did)
		}
	}
	stale(one, "r1", "none runs here now, and not r1")
	if err := ask(one, protocol.NoRelease); err != nil {
		t.Fatal(err)
	}
	stale(two, protocol.NoRelease, "r1 runs here now, and not none")
	stale(two, "r9", "r1 runs here now, and not r9")
	if err := ask(two, "r1"); err != nil {
		t.Error(err)
	}
	if err := ask(one, ""); err != nil { // the dev machine's saves ask for no plan
		t.Error(err)
	}
}
