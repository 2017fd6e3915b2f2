package release

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// rollback asks for a release of the history with its data.
func (f *fake) rollback(h *Host, release string, dry bool) (protocol.Result, error) {
	var r protocol.Result
	f.did = nil
	err := h.Activate(f.t.Context(), protocol.Activate{App: "bowl", Release: release, WithData: true, DryRun: dry}, func(e protocol.Event) {
		if e.Result != nil {
			r = *e.Result
		}
	})
	return r, err
}

// twice is a fake that runs r2 on data of its own; there is a snapshot of r1's.
func twice(t *testing.T) (*fake, *Host) {
	f, h := storage(t)
	if r, err := f.activate(h, f.put(h, "two", storing), snapshotted()); err != nil || r.Outcome != protocol.Committed {
		t.Fatalf("%+v, %v", r, err)
	}
	f.write("var/lib/private/bowl/db", "two")
	f.write("var/lib/other/notes", "more paper")
	return f, h
}

// live and kept are what the app has stored, in place and in a snapshot.
func (f *fake) live() string {
	return f.read("var/lib/private/bowl/db") + ", " + f.read("var/lib/other/notes")
}

func (f *fake) kept(before string) string {
	return f.read(snapshotsOf+"/"+before+"/private/bowl/db") + ", " + f.read(snapshotsOf+"/"+before+"/other/notes")
}

func TestARollbackWithData(t *testing.T) {
	f, h := twice(t)
	r, err := f.rollback(h, protocol.Previous, true)
	if err != nil || r.Outcome != protocol.Planned || time.Since(r.Plan.Data) > time.Minute || len(r.Plan.Restart) != 2 || f.live() != "two, more paper" {
		t.Fatalf("plan: %+v, %v", r, err)
	}
	if r, err = f.rollback(h, protocol.Previous, false); err != nil || r.Outcome != protocol.Committed || r.Serving != "r3" {
		t.Fatalf("%+v, %v", r, err)
	}
	if want := []string{"copy while  waits", "restart bowl-a.service", "restart bowl.service"}; !slices.Equal(f.did, want) {
		t.Errorf("did %v, want %v", f.did, want)
	}
	if f.live() != "one, paper" || f.kept("r2") != "one, paper" || f.kept("r3") != "two, more paper" {
		t.Errorf("in place %q, of r1 %q, put aside %q", f.live(), f.kept("r2"), f.kept("r3"))
	}
	if last := f.notes[len(f.notes)-1]; !strings.Contains(last.Text, "r3 committed; with the data of ") {
		t.Errorf("noted %+v", last)
	}
	// The same command is the way back.
	if r, err := f.rollback(h, "r2", false); err != nil || r.Serving != "r4" || f.live() != "two, more paper" || f.kept("r4") != "one, paper" {
		t.Errorf("back: %+v, %v, in place %q", r, err, f.live())
	}
	if got := f.list(snapshotsOf); !slices.Equal(got, []string{"r2", "r3", "r4"}) {
		t.Errorf("left %v", got)
	}
	all, err := h.Releases(t.Context(), "bowl")
	if err != nil || all[0].Of != "r2" || all[0].Data.IsZero() || !all[2].Data.IsZero() || all[1].Snapshot.IsZero() || all[2].Snapshot.IsZero() {
		t.Errorf("%+v, %v", all, err)
	}
}

// The release that runs can have its data of before brought back, too: another
// one, which was not kept, may have spoilt it.
func TestDataComesBackToTheReleaseThatRuns(t *testing.T) {
	f, h := storage(t)
	f.results["restart bowl.service"] = []string{"failed"}
	two := f.put(h, "two", map[string]string{"bowl.service": storing["bowl.service"] + "# two\n", "bowl-a.service": storing["bowl-a.service"]})
	if r, err := f.activate(h, two, snapshotted()); err != nil || r.Outcome != protocol.RolledBack {
		t.Fatalf("%+v, %v", r, err)
	}
	f.write("var/lib/private/bowl/db", "spoilt")
	r, err := f.rollback(h, "r1", false)
	if err != nil || r.Outcome != protocol.Committed || r.Serving != "r3" || f.live() != "one, paper" || f.kept("r3") != "spoilt, paper" {
		t.Errorf("%+v, %v, in place %q", r, err, f.live())
	}
}

func TestARollbackWithDataThatFails(t *testing.T) {
	for name, prepare := range map[string]func(f *fake){
		"it is not well": func(f *fake) { f.results["restart bowl.service"] = []string{"failed"} },
		"it is not copied": func(f *fake) {
			f.errs["copy while  waits"] = []error{errors.New("cp exited with status 1")}
		},
	} {
		f, h := twice(t)
		prepare(f)
		var found []string // by each that starts
		f.starts = func(string) { found = append(found, f.live()) }
		r, err := f.rollback(h, "r1", false)
		if err == nil && !slices.Equal(found, []string{"one, paper", "one, paper", "two, more paper", "two, more paper"}) {
			t.Errorf("%s: started with %q", name, found)
		}
		if err == nil && r.Outcome != protocol.RolledBack || err != nil && (hint.Of(err) == "" || len(f.did) != 1) {
			t.Errorf("%s: %+v, %v, did %v", name, r, err, f.did)
		}
		left := []string{"r2"}
		if err == nil {
			left = append(left, "r3") // what was written on trial, which is nobody's to go back to
			if all, err := h.Releases(t.Context(), "bowl"); err != nil || all[0].Snapshot.IsZero() || f.kept("r3") != "one, paper" {
				t.Errorf("%s: %+v, %v, kept %q", name, all[0], err, f.kept("r3"))
			}
			if _, err := f.rollback(h, "r3", true); err == nil || !strings.Contains(err.Error(), "never kept") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if f.live() != "two, more paper" || !slices.Equal(f.list(snapshotsOf), left) || f.kept("r2") != "one, paper" {
			t.Errorf("%s: in place %q, left %v", name, f.live(), f.list(snapshotsOf))
		}
		if st, err := h.Status(t.Context(), "bowl"); err != nil || st.Current.ID != "r2" || st.Problem != "" {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
}

func TestDataThatCannotComeBack(t *testing.T) {
	f, h := twice(t)
	refused := func(release, text string) {
		t.Helper()
		_, err := f.rollback(h, release, true)
		if err == nil || !strings.Contains(err.Error(), text) || hint.Of(err) == "" || len(f.did) > 0 {
			t.Errorf("%v (hint %q), did %v", err, hint.Of(err), f.did)
		}
	}
	refused("r2", "no snapshot of the data that r2 ran on; there is of r1")
	refused("r9", "no release r9")
	// It is no dynamic user's any more.
	root := filepath.Join(f.root, "var/lib")
	if err := errors.Join(os.Remove(root+"/bowl"), os.Rename(root+"/private/bowl", root+"/bowl")); err != nil {
		t.Fatal(err)
	}
	refused("r1", "was in /var/lib/private/bowl, and is in /var/lib/bowl now")
	if err := os.RemoveAll(filepath.Join(f.root, snapshotsOf)); err != nil {
		t.Fatal(err)
	}
	refused("r1", "there is none at all")
}

// A snapshot stays of an activation that was cut off before its journal was there.
// The next activation leaves it as it is, which may be the very one that it brings
// back, and has another name.
func TestASwapAfterAnActivationThatNeverBegan(t *testing.T) {
	for name, tt := range map[string]struct {
		of, outcome string
		live        string
	}{
		"another comes back":          {"r1", protocol.Committed, "one, paper"},
		"it comes back":               {"r2", protocol.Committed, "cut off, paper"},
		"it comes back, and not well": {"r2", protocol.RolledBack, "two, more paper"},
	} {
		f, h := twice(t)
		a, st := opened(t, h)
		left := snapshot{Before: "r3", Of: "r2", Digest: st.Current.Digest, Dirs: []string{"other", "private/bowl"}}
		err := a.copyData(left, func(dirs [][2]string) error {
			f.write(snapshotsOf+"/"+newSnapshot+"/private/bowl/db", "cut off")
			f.write(snapshotsOf+"/"+newSnapshot+"/other/notes", "paper")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if tt.outcome != protocol.Committed {
			f.results["restart bowl.service"] = []string{"failed"}
		}
		if r, err := f.rollback(h, tt.of, false); err != nil || r.Outcome != tt.outcome || f.live() != tt.live {
			t.Errorf("%s: %+v, %v, in place %q", name, r, err, f.live())
		}
		if text, err := h.Hello(t.Context(), "bowl"); err != nil || text != "" {
			t.Errorf("%s: the next session: %q, %v", name, text, err)
		}
		if j, err := a.readJournal(); err != nil || j != nil {
			t.Errorf("%s: left %+v, %v", name, j, err)
		}
		if tt.outcome == protocol.Committed && f.kept("r4") != "two, more paper" || f.kept("r3") != "cut off, paper" {
			t.Errorf("%s: put aside %q, and before it was %q", name, f.kept("r4"), f.kept("r3"))
		}
	}
}

// A folder that one of the two does not have is empty there.
func TestDataWithoutAFolder(t *testing.T) {
	f, h := storage(t)
	other := filepath.Join(f.root, "var/lib/other")
	if err := os.RemoveAll(other); err != nil {
		t.Fatal(err)
	}
	if _, err := f.activate(h, f.put(h, "two", storing), snapshotted()); err != nil {
		t.Fatal(err)
	}
	f.write("var/lib/other/notes", "new paper")
	if err := os.Chmod(other, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := f.rollback(h, "r1", false); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(other)
	if err != nil || info.Mode().Perm() != 0o750 || len(f.list("var/lib/other")) != 0 || f.read(snapshotsOf+"/r3/other/notes") != "new paper" {
		t.Errorf("%v, %v, %v", info, err, f.list("var/lib/other"))
	}
	if err := os.RemoveAll(other); err != nil {
		t.Fatal(err)
	}
	f.errs["copy while  waits"] = []error{errors.New("cp exited with status 1")}
	if _, err := f.rollback(h, "r2", false); err == nil || !strings.Contains(hint.Of(err), "nothing was changed") {
		t.Errorf("%v (hint %q)", err, hint.Of(err))
	}
	if _, err := os.Lstat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a copy that failed: %v", err)
	}
	if _, err := f.rollback(h, "r2", false); err != nil || f.read("var/lib/other/notes") != "new paper" {
		t.Errorf("%v, %v", err, f.list("var/lib/other"))
	}
}

// aside has a folder to swap with one of the app's.
func (f *fake) aside(a *app, dir, db string) swapped {
	f.t.Helper()
	aside := snapshotsOf + "/" + asideSnapshot + "/" + dir
	f.write(aside+"/db", db)
	was, err := inode(a.stored(dir))
	is, aerr := inode(filepath.Join(f.root, aside))
	if err := errors.Join(err, aerr); err != nil {
		f.t.Fatal(err)
	}
	return swapped{dir, was, is}
}

// From wherever it was interrupted, a swap comes to either of its ends, and to
// the same one again.
func TestASwapFromAnywhere(t *testing.T) {
	for done := range 3 { // of two folders
		for name, to := range map[string]struct {
			side
			live, aside string
		}{"forth": {fetched, "new", "old"}, "back": {before, "old", "new"}} {
			f := newFake(t)
			a := &app{Host: New(f, f.root), place: place{f.root, "bowl"}, name: "bowl"}
			s := &swap{}
			for i, dir := range []string{"private/bowl", "other"} {
				f.write("var/lib/"+dir+"/db", "old")
				s.Dirs = append(s.Dirs, f.aside(a, dir, "new"))
				if i < done {
					if err := exchange(a.stored(dir), filepath.Join(f.root, snapshotsOf, asideSnapshot, dir)); err != nil {
						t.Fatal(err)
					}
				}
			}
			for range 2 {
				if err := a.swapTo(s, to.side); err != nil {
					t.Errorf("%s after %d: %v", name, done, err)
				}
				for _, dir := range []string{"private/bowl", "other"} {
					live, aside := f.read("var/lib/"+dir+"/db"), f.read(snapshotsOf+"/"+asideSnapshot+"/"+dir+"/db")
					if live != to.live || aside != to.aside {
						t.Errorf("%s after %d: %s has %s, put aside is %s", name, done, dir, live, aside)
					}
				}
			}
			for range 2 { // interrupted when that was done
				if err := errors.Join(a.swapTo(s, to.side), a.endSwap(s, protocol.Release{ID: "r3", Outcome: map[string]string{"forth": protocol.Committed}[name]})); err != nil {
					t.Errorf("%s after %d: %v", name, done, err)
				}
				if got := f.read(snapshotsOf + "/r3/other/db"); got != to.aside {
					t.Errorf("%s after %d: the snapshot has %s", name, done, got)
				}
			}
			if err := os.Rename(a.stored("other"), a.stored("gone")); err != nil {
				t.Fatal(err)
			}
			f.write("var/lib/other/db", "a third")
			if err := a.swapTo(s, to.side); err == nil || !strings.Contains(err.Error(), "neither") || hint.Of(err) == "" {
				t.Errorf("a folder of somebody else's: %v", err)
			}
		}
	}
}

// Interrupted at any moment the host comes back with wholly the old or wholly the
// new, at boot and while it is up.
func TestAnInterruptedRollbackWithData(t *testing.T) {
	for _, tt := range []struct {
		name            string
		swap, committed bool
		when            When
	}{
		{"before the swap", false, false, Online}, {"after it", true, false, Online}, {"committed", true, true, Online},
		{"before the swap, at boot", false, false, AtBoot}, {"after it, at boot", true, false, AtBoot}, {"committed, at boot", true, true, AtBoot},
	} {
		f, h := twice(t)
		a, st := opened(t, h)
		// As far as change comes before its first step.
		act := &activation{app: a, state: st, rep: newReport(nil)}
		to := protocol.Release{ID: "r3", Digest: st.Previous.Digest, Settings: snapshotted(), Of: "r1"}
		img, err := a.openImage(to.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if act.to, err = targetOf(img, "bowl", to); err != nil {
			t.Fatal(err)
		}
		img.Close()
		if err := act.wantData("r1"); err != nil {
			t.Fatal(err)
		}
		j := journal{From: st.Current, To: to, Before: map[string]string{"bowl.service": f.units["bowl.service"].Invocation}}
		if j.Swap, err = act.fetchData(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := writeJSON(a.journal(), j); err != nil {
			t.Fatal(err)
		}
		if tt.swap {
			if err := errors.Join(a.switchTo(act.to, &Plan{Switch: true}), a.swapTo(j.Swap, fetched)); err != nil {
				t.Fatal(err)
			}
		}
		if tt.committed {
			if _, err := a.commit(st, to); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := h.Recover(t.Context(), "bowl", tt.when); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		live, aside := "two, more paper", "one, paper"
		if tt.committed {
			live, aside = aside, live
		}
		if f.live() != live || f.kept("r3") != aside || !slices.Equal(f.list(snapshotsOf), []string{"r2", "r3"}) {
			t.Errorf("%s: in place %q, put aside %q, left %v", tt.name, f.live(), f.kept("r3"), f.list(snapshotsOf))
		}
		if again, err := h.Recover(t.Context(), "bowl", Online); err != nil || len(again) > 0 && tt.when == Online {
			t.Errorf("%s: again %v, %v", tt.name, again, err)
		}
	}
}

// Taken off in the middle of it, the app leaves the data that it had.
func TestForgetInTheMiddleOfASwap(t *testing.T) {
	f, h := twice(t)
	a, st := opened(t, h)
	j := journal{From: st.Current, To: protocol.Release{ID: "r3"}, Swap: &swap{Dirs: []swapped{f.aside(a, "private/bowl", "one")}}}
	if err := errors.Join(writeJSON(a.journal(), j), a.swapTo(j.Swap, fetched), h.Forget(t.Context(), "bowl")); err != nil {
		t.Fatal(err)
	}
	if f.live() != "two, more paper" {
		t.Errorf("left %q", f.live())
	}
}
