package release

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"devbox/internal/protocol"
)

// unitTree is what the host has of units: each file and link with what it holds.
func (f *fake) unitTree() map[string]string {
	f.t.Helper()
	tree := map[string]string{}
	for _, dir := range []string{attachedDir, unitDir} {
		root := filepath.Join(f.root, dir)
		err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && name == root {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			inside, err := filepath.Rel(f.root, name)
			if err != nil {
				return err
			}
			if d.Type()&fs.ModeSymlink != 0 {
				to, err := os.Readlink(name)
				tree[inside] = "-> " + to
				return err
			}
			data, err := os.ReadFile(name)
			tree[inside] = string(data)
			return err
		})
		if err != nil {
			f.t.Fatal(err)
		}
	}
	return tree
}

func (f *fake) link(name, to string) {
	f.t.Helper()
	name = filepath.Join(f.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Symlink(to, name); err != nil {
		f.t.Fatal(err)
	}
}

const bootWants = unitDir + "/multi-user.target.wants/"

// A power cut in the middle of an activation that changes, adds and removes
// units leaves them in any state. At boot they are again those of before, by
// files alone, and the jobs of the boot are those of them.
func TestRecoverAtBoot(t *testing.T) {
	one := map[string]string{
		"bowl.service":      "[Service]\nType=notify\nExecStart=/x\n" + installed,
		"bowl-side.service": "[Service]\nType=notify\nExecStart=/side\n" + installed,
		"bowl.socket":       "[Socket]\nListenStream=1\n[Install]\nWantedBy=sockets.target\n",
	}
	two := map[string]string{
		"bowl.service":     "[Service]\nType=notify\nExecStart=/y\n" + installed,
		"bowl-new.service": "[Service]\nType=notify\nExecStart=/new\n" + installed,
		"bowl.socket":      one["bowl.socket"],
	}
	attached := func(unit string) string { return "/" + attachedDir + "/" + unit }
	harms := map[string]func(f *fake){
		"before the first step": func(*fake) {},
		"everything is the new release's": func(f *fake) {
			f.write(attachedDir+"/bowl.service", two["bowl.service"])
			f.write(attachedDir+"/bowl-new.service", two["bowl-new.service"])
			f.write(attachedDir+"/bowl-new.service.d/"+markerName, "# Drop-in created for image '/var/lib/portables/bowl.raw', do not edit.\n")
			f.link(attachedDir+"/bowl-new.service.d/"+profileName, "/usr/lib/systemd/portable/profile/default/service.conf")
			f.write(unitDir+"/bowl-new.service.d/"+dropInName, "[Service]\n")
			f.write(unitDir+"/bowl.service.d/"+dropInName, "[Service]\nEnvironment=A=2\n")
			f.link(bootWants+"bowl-new.service", attached("bowl-new.service"))
			for _, name := range []string{attachedDir + "/bowl-side.service", attachedDir + "/bowl-side.service.d", unitDir + "/bowl-side.service.d/" + dropInName, bootWants + "bowl-side.service"} {
				f.remove(name)
			}
		},
		"files that were not synced": func(f *fake) {
			f.write(attachedDir+"/bowl.service", "")
			f.write(attachedDir+"/bowl.service.d/"+markerName, "")
			f.write(attachedDir+"/bowl-new.service", "")
			f.write(attachedDir+"/bowl-new.service.d/"+markerName, "")
			f.link(bootWants+"bowl-new.service", attached("bowl-new.service"))
		},
		"half of what portabled writes": func(f *fake) {
			f.write(attachedDir+"/bowl.service.d/.#20-portable.confabc", "x")
			f.write(attachedDir+"/bowl-new.service.d/"+markerName, "# Drop-in created for image '/var/lib/portables/bowl.raw', do not edit.\n")
			f.remove(attachedDir + "/bowl.service.d/" + profileName)
		},
		"nothing is left of them": func(f *fake) {
			f.remove(attachedDir)
			f.remove(unitDir)
		},
	}
	for name, harm := range harms {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			h := New(f, f.root)
			first := f.put(h, "one", one)
			if r, err := f.activate(h, first, protocol.Settings{}); err != nil || r.Outcome != protocol.Committed {
				t.Fatalf("%+v %v", r, err)
			}
			for _, unit := range []string{"bowl.service", "bowl-side.service"} {
				f.link(bootWants+unit, attached(unit))
			}
			f.link(unitDir+"/sockets.target.wants/bowl.socket", attached("bowl.socket"))
			f.link(unitDir+"/rescue.target.upholds/bowl.socket", attached("bowl.socket"))
			f.write(unitDir+"/bowl.service.d/person.conf", "[Service]\n") // not devbox's
			f.link(bootWants+"other.service", "/lib/systemd/system/other.service")
			f.write(attachedDir+"/other.service", "[Service]\n")
			want := f.unitTree()

			second := f.put(h, "two", two)
			f.cutAfter(h, second)
			harm(f)
			if name == "nothing is left of them" {
				// What is not devbox's does not come back.
				for _, gone := range []string{unitDir + "/bowl.service.d/person.conf", bootWants + "other.service", attachedDir + "/other.service"} {
					delete(want, gone)
				}
			}
			// How systemd finds it: all jobs of the boot wait, one unit did not.
			f.units = map[string]UnitState{
				"multi-user.target": {Active: "inactive", Queued: true}, "sockets.target": {Active: "active"}, "rescue.target": {Active: "inactive"},
				"bowl.service": {Active: "inactive", Queued: true}, "bowl-new.service": {Active: "inactive", Queued: true}, "bowl.socket": {Active: "active"},
			}
			f.did = nil
			done, err := h.Recover(context.Background(), "bowl", AtBoot)
			if err != nil || !slices.Equal(done, []string{"undid r2, which was interrupted; r1 starts"}) {
				t.Errorf("%q, %v", done, err)
			}
			if got := f.unitTree(); !maps.Equal(got, want) {
				t.Errorf("units are\n%v, want\n%v", got, want)
			}
			a, err := h.open("bowl")
			if err != nil {
				t.Fatal(err)
			}
			if env, _ := os.ReadFile(a.place.env()); !sameFile(a.attached(), a.image(short(first))) || !strings.Contains(string(env), "DEVBOX_RELEASE=r1") {
				t.Errorf("image or environment are not r1's: %s", env)
			}
			jobs := []string{"reload", "stop bowl-new.service", "stop bowl.socket", "start bowl.socket", "start bowl-side.service", "start bowl.service"}
			if !slices.Equal(f.did, jobs) {
				t.Errorf("did %v, want %v", f.did, jobs)
			}
			if st, err := h.Status(context.Background(), "bowl"); err != nil || st.Problem != "" || st.Current.ID != "r1" {
				t.Errorf("%+v, %v", st, err)
			}
			if history, err := os.ReadFile(a.releases() + "/r2.json"); err != nil || !strings.Contains(string(history), `"interrupted"`) {
				t.Errorf("history %s, %v", history, err)
			}
			f.did = nil
			if again, err := h.Recover(context.Background(), "bowl", AtBoot); err != nil || len(again)+len(f.did) > 0 {
				t.Errorf("again: %v, did %v, %v", again, f.did, err)
			}
		})
	}
}

func (f *fake) remove(name string) {
	f.t.Helper()
	if err := os.RemoveAll(filepath.Join(f.root, name)); err != nil {
		f.t.Fatal(err)
	}
}

// cutAfter leaves what a power cut does right after the journal of an
// activation was written, with the image switched already.
func (f *fake) cutAfter(h *Host, digest string) {
	f.t.Helper()
	a, err := h.open("bowl")
	if err != nil {
		f.t.Fatal(err)
	}
	act, err := a.prepare(context.Background(), protocol.Activate{App: "bowl", Digest: digest}, newReport(nil))
	if err != nil {
		f.t.Fatal(err)
	}
	j := journal{From: act.state.Current, To: act.to.Release, Plan: act.plan.Public}
	if err := a.remember(&j, act.to); err != nil {
		f.t.Fatal(err)
	}
	if err := errors.Join(writeJSON(a.place.journal(), j), a.switchTo(act.to, &act.plan)); err != nil {
		f.t.Fatal(err)
	}
}

// The first release was interrupted: at boot nothing of it is left, and of the
// jobs that it has none.
func TestRecoverFirstReleaseAtBoot(t *testing.T) {
	f := newFake(t)
	h := New(f, f.root)
	f.write(unitDir+"/other.service", "[Service]\n")
	want := f.unitTree()
	f.cutAfter(h, f.put(h, "one", unitsOne))
	a, err := h.open("bowl")
	if err != nil {
		t.Fatal(err)
	}
	f.write(attachedDir+"/bowl.service", unitsOne["bowl.service"])
	f.write(attachedDir+"/bowl.service.d/"+markerName, "")
	f.link(bootWants+"bowl.service", "/"+attachedDir+"/bowl.service")
	f.units["bowl.service"] = UnitState{Active: "inactive", Queued: true}
	f.did = nil
	done, err := h.Recover(context.Background(), "bowl", AtBoot)
	if err != nil || !slices.Equal(done, []string{"undid r1, which was interrupted; nothing ran before"}) {
		t.Errorf("%q, %v", done, err)
	}
	if got := f.unitTree(); !maps.Equal(got, want) {
		t.Errorf("units are %v", got)
	}
	if _, err := os.Lstat(a.attached()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the image is still attached: %v", err)
	}
	if !slices.Equal(f.did, []string{"reload", "stop bowl.service"}) {
		t.Errorf("did %v", f.did)
	}
}

// What PID 1 does not do is tried again by the next session.
func TestRecoverAtBootFails(t *testing.T) {
	f, h, _ := first(t)
	f.cutAfter(h, f.put(h, "two", unitsTwo))
	f.errs["reload"] = []error{errors.New("PID 1 does not answer")}
	if done, err := h.Recover(context.Background(), "bowl", AtBoot); err == nil || len(done) > 0 {
		t.Errorf("%v, %v", done, err)
	}
	if st, err := h.Status(context.Background(), "bowl"); err != nil || !strings.Contains(st.Problem, "r2 is under way or was interrupted") {
		t.Errorf("%+v, %v", st, err)
	}
	f.did = nil
	if said, err := h.Hello(context.Background(), "bowl"); err != nil || said != "undid r2, which was interrupted; r1 runs" || !slices.Contains(f.did, "reload") {
		t.Errorf("%q, did %v, %v", said, f.did, err)
	}
}

// A power cut while portabled was writing the first files of a new unit: what
// does not tell any more whose it is goes all the same, also while the host is up.
func TestHalfAUnitIsRemoved(t *testing.T) {
	for name, from := range map[string]bool{"of a later release": true, "of the first": false} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			h := New(f, f.root)
			if from {
				f, h, _ = first(t)
			}
			two := f.put(h, "two", map[string]string{"bowl.service": unitsOne["bowl.service"], "bowl-new.service": "[Service]\nExecStart=/new\n"})
			f.cutAfter(h, two)
			f.write(attachedDir+"/bowl-new.service", "")
			f.write(attachedDir+"/bowl-new.service.d/"+markerName, "")
			if said, err := h.Hello(context.Background(), "bowl"); err != nil || !strings.HasPrefix(said, "undid ") {
				t.Errorf("%q, %v", said, err)
			}
			for file := range f.unitTree() {
				if strings.Contains(file, "bowl-new") {
					t.Errorf("%s is left", file)
				}
			}
		})
	}
}
