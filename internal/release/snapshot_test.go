package release

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

func snapshotted() protocol.Settings {
	return protocol.Settings{State: protocol.State{Snapshot: protocol.BeforeActivate}}
}

// storage is a fake that runs r1 of an app that has stored something: for a user
// of its own in one folder, for a static one in another.
func storage(t *testing.T) (*fake, *Host) {
	f := newFake(t)
	h := New(f, f.root)
	f.write("var/lib/private/bowl/db", "one")
	f.write("var/lib/other/notes", "paper")
	if err := os.Symlink("private/bowl", filepath.Join(f.root, "var/lib/bowl")); err != nil {
		t.Fatal(err)
	}
	if r, err := f.activate(h, f.put(h, "one", storing), snapshotted()); err != nil || r.Outcome != protocol.Committed {
		t.Fatalf("%+v, %v", r, err)
	}
	if !slices.Contains(f.did, "enable") || slices.ContainsFunc(f.did, func(s string) bool { return strings.HasPrefix(s, "copy") }) {
		t.Errorf("the first release: did %v", f.did)
	}
	return f, h
}

func (f *fake) read(name string) string {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.root, name))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func (f *fake) list(dir string) []string {
	entries, _ := os.ReadDir(filepath.Join(f.root, dir))
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

const snapshotsOf = "var/lib/devbox/bowl/snapshots"

func TestTheDataIsCopiedBeforeAnActivation(t *testing.T) {
	f, h := storage(t)
	two := f.put(h, "two", storing)
	r, err := f.activate(h, two, snapshotted())
	if err != nil || r.Outcome != protocol.Committed || f.did[0] != "copy while bowl-a.service bowl.service waits" {
		t.Fatalf("%+v, %v, did %v", r, err, f.did)
	}
	if db, notes := f.read(snapshotsOf+"/r2/private/bowl/db"), f.read(snapshotsOf+"/r2/other/notes"); db != "one" || notes != "paper" {
		t.Errorf("copied %q and %q", db, notes)
	}
	all, err := h.Releases(t.Context(), "bowl")
	if err != nil || !all[0].Snapshot.IsZero() || time.Since(all[1].Snapshot) > time.Minute {
		t.Errorf("%+v, %v", all, err)
	}

	// No change, no snapshot; a change of settings alone is one.
	if _, err := f.activate(h, two, snapshotted()); err != nil || len(f.did) > 0 {
		t.Errorf("the same again: %v, did %v", err, f.did)
	}
	f.write("var/lib/private/bowl/db", "two")
	off := protocol.Settings{}
	if _, err := f.activate(h, two, protocol.Settings{Env: map[string]map[string]string{"bowl.service": {"A": "b"}}, State: snapshotted().State}); err != nil || f.read(snapshotsOf+"/r3/private/bowl/db") != "two" {
		t.Errorf("other settings: %v, %v", err, f.list(snapshotsOf))
	}
	// What a person asks for now counts, so that one that cannot be made can be
	// done without: also by a release that comes back.
	back := func() error {
		f.did = nil
		return h.Activate(t.Context(), protocol.Activate{App: "bowl", Release: "r1"}, nil)
	}
	if err := back(); err != nil || f.list(snapshotsOf)[len(f.list(snapshotsOf))-1] != "r4" {
		t.Errorf("back from a release that has one: %v, %v", err, f.list(snapshotsOf))
	}
	f.errs["copy while bowl-a.service bowl.service waits"] = []error{errors.New("too much")}
	if err := back(); err != nil || len(f.did) > 0 {
		t.Errorf("what runs already: %v, did %v", err, f.did)
	}
	if _, err := f.activate(h, two, snapshotted()); err == nil || !strings.Contains(hint.Of(err), "take `snapshot` out of devbox.yaml and deploy that") {
		t.Errorf("%v (hint %q)", err, hint.Of(err))
	}
	if _, err := f.activate(h, two, off); err != nil || slices.Contains(f.list(snapshotsOf), "r5") {
		t.Errorf("deployed without: %v, %v", err, f.list(snapshotsOf))
	}
	if err := back(); err != nil || slices.Contains(f.list(snapshotsOf), "r6") {
		t.Errorf("back from a release that has none: %v, %v", err, f.list(snapshotsOf))
	}
}

// A folder whose name is known too late is refused before there is a release that
// keeps its data there; of one that does, the next one is not refused for it.
func TestAFolderThatIsNotKnown(t *testing.T) {
	f := newFake(t)
	h := New(f, f.root)
	unknown := map[string]string{"bowl.service": "[Service]\nType=notify\nExecStart=/x\nStateDirectory=bowl-%i\n"}
	one := f.put(h, "one", unknown)
	if _, err := f.activate(h, one, snapshotted()); err == nil || !strings.Contains(err.Error(), "not known before it is started") {
		t.Errorf("the first release: %v", err)
	}
	if r, err := f.activate(h, one, protocol.Settings{}); err != nil || r.Outcome != protocol.Committed {
		t.Fatalf("%+v, %v", r, err)
	}
	f.write("var/lib/private/bowl/db", "one")
	if r, err := f.activate(h, f.put(h, "two", storing), snapshotted()); err != nil || r.Outcome != protocol.Committed || f.read(snapshotsOf+"/r2/private/bowl/db") != "one" {
		t.Errorf("%+v, %v, %v", r, err, f.list(snapshotsOf))
	}
}

// systemd's link to a folder that was taken away is no folder of somebody else's.
func TestDataThatWasTakenAway(t *testing.T) {
	f, h := twice(t)
	takenAway := func() {
		gone := filepath.Join(f.root, "var/lib/private/bowl")
		if err := os.Rename(gone, gone+".damaged"); err != nil {
			t.Fatal(err)
		}
	}
	takenAway()
	if r, err := f.rollback(h, "r1", false); err != nil || r.Outcome != protocol.Committed || f.live() != "one, paper" {
		t.Errorf("%+v, %v, in place %q", r, err, f.live())
	}
	if err := os.RemoveAll(filepath.Join(f.root, "var/lib/private/bowl.damaged")); err != nil {
		t.Fatal(err)
	}
	takenAway()
	if r, err := f.activate(h, f.put(h, "three", storing), snapshotted()); err != nil || r.Outcome != protocol.Committed || !slices.Equal(f.list(snapshotsOf+"/r4"), []string{"other", "snapshot.json"}) {
		t.Errorf("%+v, %v, %v", r, err, f.list(snapshotsOf+"/r4"))
	}
}

// A copy that fails leaves all as it was: nothing was begun.
func TestADataThatCannotBeCopied(t *testing.T) {
	f, h := storage(t)
	two := f.put(h, "two", storing)
	refused := func(name, text string) {
		t.Helper()
		_, err := f.activate(h, two, snapshotted())
		if err == nil || !strings.Contains(err.Error(), text) || hint.Of(err) == "" {
			t.Errorf("%s: %v (hint %q)", name, err, hint.Of(err))
		}
		st, serr := h.Status(t.Context(), "bowl")
		if serr != nil || st.Current.ID != "r1" || st.Problem != "" || len(f.list(snapshotsOf)) > 0 {
			t.Errorf("%s: left %+v, %v, %v", name, st, serr, f.list(snapshotsOf))
		}
	}
	const copying = "copy while bowl-a.service bowl.service waits"
	f.errs[copying] = []error{errors.New("cp exited with status 1")}
	refused("fails", "cp exited with status 1")
	if !slices.Equal(f.did, []string{copying}) {
		t.Errorf("did %v", f.did)
	}
	f.units["bowl.service"] = UnitState{Active: "active", Type: "notify", Watchdog: 6 * time.Second}
	f.errs[copying] = []error{errors.New("it did not end")}
	refused("takes too long for a watchdog", "within 2s")
	running := maps.Clone(f.units)
	f.units["bowl.service"], f.units["bowl-a.service"] = UnitState{Active: "failed"}, UnitState{Active: "inactive"}
	f.errs["copy while  waits"] = []error{errors.New("it did not end")}
	refused("has time where nobody waits", "within 10m")
	f.units = running

	dir := filepath.Join(f.root, "var/lib/other")
	if err := errors.Join(os.RemoveAll(dir), os.Symlink("/mnt", dir)); err != nil {
		t.Fatal(err)
	}
	refused("is elsewhere", "other is no folder")
	if len(f.did) > 0 {
		t.Errorf("did %v", f.did)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	// A folder that is not there yet is none to copy.
	if r, err := f.activate(h, two, snapshotted()); err != nil || r.Outcome != protocol.Committed || !slices.Equal(f.list(snapshotsOf+"/r2"), []string{"private", "snapshot.json"}) {
		t.Errorf("%+v, %v, %v", r, err, f.list(snapshotsOf+"/r2"))
	}
	two = f.put(h, "three", map[string]string{"bowl.service": "[Service]\nType=notify\nExecStart=/x\nStateDirectory=bowl-%i\n"})
	if _, err := f.activate(h, two, snapshotted()); err == nil || !strings.Contains(err.Error(), "not known before it is started") || hint.Of(err) == "" {
		t.Errorf("%v", err)
	}
}

// Snapshots go with the releases that one could go back to with them, and what a
// killed process left of one goes at once.
func TestSnapshotsThatStay(t *testing.T) {
	f, h := storage(t)
	a, err := h.open("bowl")
	if err != nil {
		t.Fatal(err)
	}
	f.write(snapshotsOf+"/.new/private/bowl/db", "half")
	for i := range 5 {
		digest := f.put(h, strings.Repeat("x", i+2), storing)
		err := h.Activate(t.Context(), protocol.Activate{App: "bowl", Digest: digest, Settings: snapshotted(), Keep: 3}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	// r6 runs, r5 and r4 can come back.
	if got := f.list(snapshotsOf); !slices.Equal(got, []string{"r5", "r6"}) {
		t.Errorf("left %v", got)
	}
	if all, err := a.allSnapshots(); err != nil || len(all) != 2 || all[0].Of != "r5" || all[1].Of != "r4" {
		t.Errorf("%+v, %v", all, err)
	}
	if all, err := h.Releases(t.Context(), "bowl"); err != nil || all[0].ID != "r6" || !all[0].Snapshot.IsZero() || all[1].Snapshot.IsZero() || !all[3].Snapshot.IsZero() {
		t.Errorf("%+v, %v", all, err)
	}
}

// Releases that are not kept do not push out the snapshots of those that can come
// back: neither by the snapshots before them, nor by what they have written on trial.
func TestSnapshotsThatFailuresLeave(t *testing.T) {
	f, h := twice(t)
	for i := range keepImages + 2 {
		f.results["restart bowl.service"] = []string{"failed"}
		bad := f.put(h, strings.Repeat("x", i+3), storing)
		if r, err := f.activate(h, bad, snapshotted()); err != nil || r.Outcome != protocol.RolledBack {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	// Of r1, and the two last of r2: before r6 and r7, which failed.
	if got := f.list(snapshotsOf); !slices.Equal(got, []string{"r2", "r6", "r7"}) {
		t.Errorf("left %v", got)
	}
	for range keepImages + 2 {
		f.results["restart bowl.service"] = []string{"failed"}
		if r, err := f.rollback(h, "r1", false); err != nil || r.Outcome != protocol.RolledBack {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	// And what r12 has written on trial.
	if got := f.list(snapshotsOf); !slices.Equal(got, []string{"r12", "r2", "r7"}) {
		t.Errorf("left %v", got)
	}
	if r, err := f.rollback(h, "r1", false); err != nil || r.Outcome != protocol.Committed || f.live() != "one, paper" {
		t.Errorf("%+v, %v, in place %q", r, err, f.live())
	}
}
