package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/hint"
	"devbox/internal/image"
	"devbox/internal/protocol"
	"devbox/internal/sync/delta"
)

// fake is a systemd and a portabled that do what they are told below, and fail
// the test on anything that it does not say they may be asked. Attaching writes
// files as portabled does.
type fake struct {
	t     *testing.T
	root  string
	units map[string]UnitState
	did   []string // what was asked, in order: "attach", "reload", "restart bowl.service"
	n     int

	// Errors to give, each once, by what is asked.
	errs map[string][]error
	// results of jobs that are not "done", each once.
	results map[string][]string
	// then has what a unit is when it is looked at next, the last for good.
	then     map[string][]UnitState
	notes    []Note
	errors   map[string]string // that are in the log, by invocation
	shelters int
	exposed  error // what Shelter returns
	probe    func(Probe) ([]byte, error)
	patience time.Duration     // that the last probe was given, 0 if it had no end
	starts   func(unit string) // is told before a unit starts
	halfway  bool              // the next attach leaves a service without its drop-ins
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, root: t.TempDir(), units: map[string]UnitState{}, errs: map[string][]error{}, results: map[string][]string{}}
	f.write("usr/lib/systemd/portable/profile/default/service.conf", "[Service]\n")
	t.Cleanup(func() {
		for what, left := range f.errs {
			if len(left) > 0 {
				t.Errorf("an error was prepared for %q, which was not asked", what)
			}
		}
	})
	return f
}

func (f *fake) write(name, text string) {
	f.t.Helper()
	name = filepath.Join(f.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) ask(what string) error {
	f.did = append(f.did, what)
	if list := f.errs[what]; len(list) > 0 {
		f.errs[what] = list[1:]
		return list[0]
	}
	return nil
}

func (f *fake) Profiles(context.Context) ([]string, error) {
	return []string{"default", "strict"}, f.ask("profiles")
}

func (f *fake) Attach(_ context.Context, path, prefix, profile string) error {
	if want := filepath.Join(f.root, "var/lib/portables", prefix+".raw"); path != want || profile != "default" {
		f.t.Errorf("attach %s with profile %s, want %s", path, profile, want)
	}
	err := f.ask("attach")
	img, oerr := image.Open(path)
	if oerr != nil {
		f.t.Fatal(oerr)
	}
	defer img.Close()
	to, oerr := targetOf(img, prefix, protocol.Release{Digest: strings.Repeat("0", 64)})
	if oerr != nil {
		f.t.Fatal(oerr)
	}
	inside := strings.TrimPrefix(path, f.root)
	for _, u := range to.Units {
		dir := filepath.Join(attachedDir, u.Name+".d")
		if f.halfway && u.Type == "service" {
			_ = os.RemoveAll(filepath.Join(f.root, dir))
		} else {
			f.write(filepath.Join(dir, markerName), "# Drop-in created for image '"+inside+"', do not edit.\n[Service]\nRootImage="+inside+"\n")
			link := filepath.Join(f.root, dir, profileName)
			_ = os.Remove(link)
			if err := os.Symlink("/usr/lib/systemd/portable/profile/default/service.conf", link); err != nil {
				f.t.Fatal(err)
			}
		}
		f.write(filepath.Join(attachedDir, u.Name), string(u.Body))
	}
	f.halfway = false
	return err
}

func (f *fake) Reload(context.Context) error                     { return f.ask("reload") }
func (f *fake) Enable(_ context.Context, units []string) error   { return f.ask("enable") }
func (f *fake) Disable(_ context.Context, units []string) error  { return f.ask("disable") }
func (f *fake) Revive() error                                    { return nil }
func (f *fake) ResetFailed(_ context.Context, unit string) error { return nil }

func (f *fake) Unit(_ context.Context, unit string) (UnitState, error) {
	if next := f.then[unit]; len(next) > 0 {
		f.units[unit], f.then[unit] = next[0], next[1:]
	}
	return f.units[unit], nil
}

func (f *fake) Instances(context.Context, string) ([]string, error) {
	f.t.Error("there are no templates here")
	return nil, nil
}

func (f *fake) Queue(_ context.Context, verb Verb, unit string) (<-chan string, error) {
	what := string(verb) + " " + unit
	if err := f.ask(what); err != nil {
		return nil, err
	}
	if verb != Stop && strings.HasSuffix(unit, ".service") {
		// What must never happen: a service on the host's own root.
		for _, name := range []string{profileName, markerName} {
			if _, err := os.Lstat(filepath.Join(f.root, attachedDir, unit+".d", name)); err != nil {
				f.t.Errorf("%s without its sandbox: %v", what, err)
			}
		}
	}
	if verb != Stop && f.starts != nil {
		f.starts(unit)
	}
	f.n++
	result := "done"
	if list := f.results[what]; len(list) > 0 {
		result, f.results[what] = list[0], list[1:]
	}
	switch {
	case result != "done":
		f.units[unit] = UnitState{Active: "failed", Type: "notify", Result: "exit-code", ExitCode: cldExited, ExitStatus: 1, Invocation: fmt.Sprint(f.n)}
	case verb == Stop:
		f.units[unit] = UnitState{Active: "inactive"}
	default:
		f.units[unit] = UnitState{Active: "active", Type: "notify", Invocation: fmt.Sprint(f.n)}
	}
	ch := make(chan string, 1)
	ch <- result
	return ch, nil
}

func (f *fake) Sweep(context.Context) error { return nil }

func (f *fake) Kill(_ context.Context, unit string) error {
	f.t.Errorf("kill %s, nothing hangs here", unit)
	return nil
}

func (f *fake) Try(context.Context, string, string, []string) error {
	f.t.Error("there is no health command here")
	return nil
}

func (f *fake) Probe(ctx context.Context, p Probe) ([]byte, error) {
	f.patience = 0
	if at, ok := ctx.Deadline(); ok {
		f.patience = time.Until(at)
	}
	if f.probe == nil {
		f.t.Errorf("there is no check here: %+v", p)
		return nil, nil
	}
	return f.probe(p)
}

func (f *fake) Copy(_ context.Context, c Copy) error {
	if err := f.ask("copy while " + strings.Join(c.Freeze, " ") + " waits"); err != nil {
		return err
	}
	for _, d := range c.Dirs {
		if out, err := exec.Command("cp", "--archive", "--no-target-directory", d[0], d[1]).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

func (f *fake) Shelter(context.Context, string) error { f.shelters++; return f.exposed }

func (f *fake) Note(n Note) { f.notes = append(f.notes, n) }

func (f *fake) Log(_ context.Context, _, invocation string, _ int) ([]string, error) {
	return []string{"log of " + invocation}, nil
}

func (f *fake) Errors(_ context.Context, _ []string, _ time.Duration) (map[string]string, error) {
	return f.errors, nil
}

// put makes an image of the given unit files and receives it.
func (f *fake) put(h *Host, page string, units map[string]string) string {
	f.t.Helper()
	path, size, sums := packUnits(f.t, page, units)
	digest := sums.Digest().String()
	r, w, err := os.Pipe()
	if err != nil {
		f.t.Fatal(err)
	}
	defer r.Close()
	go func() {
		defer w.Close()
		_ = encode(w, built{path, digest, size, sums}, nil)
	}()
	if err := h.Receive(context.Background(), protocol.Receive{App: "bowl", Digest: digest, Size: size}, r, nil); err != nil {
		f.t.Fatal(err)
	}
	return digest
}

func packUnits(t *testing.T, page string, units map[string]string) (string, int64, *delta.Sums) {
	t.Helper()
	tree := t.TempDir()
	for name, text := range units {
		file := filepath.Join(tree, "usr/lib/systemd/system", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "page"), []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(tree, "usr/bin"), 0o755), os.WriteFile(filepath.Join(tree, "usr/bin/bowl"), nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	staged, err := image.Stage(image.Options{Name: "bowl", Dirs: []string{tree}})
	if err != nil {
		t.Fatal(err)
	}
	packed, err := image.Pack(context.Background(), staged, image.Erofs, filepath.Join(t.TempDir(), "bowl.raw"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.Open(packed.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	sums, err := delta.Sum(context.Background(), data, packed.Size)
	if err != nil {
		t.Fatal(err)
	}
	return packed.Path, packed.Size, sums
}

// activate returns the result, or the error.
func (f *fake) activate(h *Host, digest string, s protocol.Settings) (protocol.Result, error) {
	var r protocol.Result
	f.did = nil
	err := h.Activate(context.Background(), protocol.Activate{App: "bowl", Digest: digest, Settings: s}, func(e protocol.Event) {
		if e.Result != nil {
			r = *e.Result
		}
	})
	return r, err
}

var (
	unitsOne = map[string]string{"bowl.service": "[Service]\nType=notify\nExecStart=/x\n" + installed}
	unitsTwo = map[string]string{"bowl.service": "[Service]\nType=notify\nExecStart=/y\n" + installed}
)

// opened is the app, and what is kept of it.
func opened(t *testing.T, h *Host) (*app, state) {
	t.Helper()
	a, err := h.open("bowl")
	if err != nil {
		t.Fatal(err)
	}
	st, err := a.readState()
	if err != nil {
		t.Fatal(err)
	}
	return a, st
}

// first is a fake that runs release r1 of unitsOne.
func first(t *testing.T) (*fake, *Host, string) {
	f := newFake(t)
	h := New(f, f.root)
	one := f.put(h, "one", unitsOne)
	if r, err := f.activate(h, one, protocol.Settings{}); err != nil || r.Outcome != protocol.Committed {
		t.Fatalf("%+v %v", r, err)
	}
	if want := []string{"profiles", "attach", "enable", "reload", "restart bowl.service"}; !slices.Equal(f.did, want) {
		t.Errorf("did %v, want %v", f.did, want)
	}
	return f, h, one
}

func TestWhatFailsIsUndone(t *testing.T) {
	broken := errors.New("it broke")
	tests := []struct {
		name    string
		prepare func(*fake)
		outcome string
		cause   []string // parts of it
	}{
		{"attach", func(f *fake) { f.errs["attach"] = []error{broken} }, protocol.RolledBack, []string{"it broke"}},
		{"attach, half-way", func(f *fake) { f.errs["attach"], f.halfway = []error{broken}, true }, protocol.RolledBack, []string{"it broke"}},
		{"attach leaves a service unconfined and says nothing", func(f *fake) { f.halfway = true }, protocol.RolledBack, []string{"20-portable.conf"}},
		{"reload", func(f *fake) { f.errs["reload"] = []error{broken} }, protocol.RolledBack, []string{"it broke"}},
		{"restart is refused", func(f *fake) { f.errs["restart bowl.service"] = []error{broken} }, protocol.RolledBack, []string{"it broke"}},
		{"start fails", func(f *fake) { f.results["restart bowl.service"] = []string{"failed"} }, protocol.RolledBack, []string{"bowl.service exited with status 1"}},
		{"requirement fails", func(f *fake) { f.results["restart bowl.service"] = []string{"dependency"} }, protocol.RolledBack, []string{"a unit that it requires failed"}},
		{"attach, also on the way back", func(f *fake) { f.errs["attach"] = []error{broken, errors.New("still broken")} }, protocol.Failed,
			[]string{"it broke", "going back failed too", "still broken"}},
		{"start, also on the way back", func(f *fake) { f.results["restart bowl.service"] = []string{"failed", "failed"} }, protocol.Failed,
			[]string{"r1 was put back but is not well either"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, h, one := first(t)
			two := f.put(h, "two", unitsTwo)
			tt.prepare(f)
			r, err := f.activate(h, two, protocol.Settings{})
			if err != nil || r.Outcome != tt.outcome || r.Serving != "r1" || r.Release != "r2" {
				t.Fatalf("%+v, %v", r, err)
			}
			for _, part := range tt.cause {
				if !strings.Contains(r.Failure.Cause, part) {
					t.Errorf("cause %q has no %q", r.Failure.Cause, part)
				}
			}
			// The next session finds r1, and puts right what could not be before.
			if _, err := h.Hello(context.Background(), "bowl"); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Recover(context.Background(), "bowl", Online); err != nil {
				t.Fatal(err)
			}
			st, err := h.Status(context.Background(), "bowl")
			if err != nil || st.Problem != "" || st.Current.ID != "r1" || st.Current.Digest != one || st.Units[0].Active != "active" {
				t.Errorf("%+v, %v", st, err)
			}
			body, err := os.ReadFile(filepath.Join(f.root, attachedDir, "bowl.service"))
			if err != nil || string(body) != unitsOne["bowl.service"] {
				t.Errorf("unit file %q, %v", body, err)
			}
			if r, err := f.activate(h, two, protocol.Settings{}); err != nil || r.Outcome != protocol.Committed || r.Serving != "r3" {
				t.Errorf("the next try: %+v, %v", r, err)
			}
		})
	}
}

// A disk that takes nothing more does not hide that the release before serves.
func TestARollbackThatCannotBeNoted(t *testing.T) {
	f, h, _ := first(t)
	two := f.put(h, "two", unitsTwo)
	state := filepath.Join(f.root, "var/lib/devbox/bowl/state.json")
	f.results["restart bowl.service"] = []string{"failed"}
	var r protocol.Result
	err := h.Activate(context.Background(), protocol.Activate{App: "bowl", Digest: two}, func(e protocol.Event) {
		if e.Phase != nil && e.Phase.Name == "failure" {
			// Nothing can be renamed onto a folder that is not empty.
			if err := errors.Join(os.Rename(state, state+".aside"), os.MkdirAll(filepath.Join(state, "full"), 0o755)); err != nil {
				t.Error(err)
			}
		}
		if e.Result != nil {
			r = *e.Result
		}
	})
	if err != nil || r.Outcome != protocol.RolledBack || r.Serving != "r1" || !strings.Contains(r.Failure.Cause, "noted by the next session") {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := errors.Join(os.RemoveAll(state), os.Rename(state+".aside", state)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Recover(context.Background(), "bowl", Online); err != nil {
		t.Fatal(err)
	}
	all, err := h.Releases(context.Background(), "bowl")
	if err != nil || len(all) != 2 || all[0].ID != "r2" || all[0].Outcome == protocol.Committed {
		t.Errorf("%+v, %v", all, err)
	}
	if r, err := f.activate(h, two, protocol.Settings{}); err != nil || r.Outcome != protocol.Committed || r.Serving != "r3" {
		t.Errorf("the next try: %+v, %v", r, err)
	}
}

func TestRefusedBeforeAnythingHappens(t *testing.T) {
	f, h, one := first(t)
	two := f.put(h, "two", unitsTwo)
	other := f.put(h, "three", map[string]string{"bowl.service": unitsOne["bowl.service"], "bowl-x.service": "[Service]\nExecStart=/x\n"})
	f.write(attachedDir+"/bowl-x.service.d/"+markerName, "# Drop-in created for image '/var/lib/portables/bowl-x.raw', do not edit.\n")
	tests := []struct {
		name, digest string
		settings     protocol.Settings
		err          string
	}{
		{"no such image", strings.Repeat("ab", 32), protocol.Settings{}, "no such image"},
		{"no such profile", two, protocol.Settings{Profile: "nonetwork"}, `no portable profile "nonetwork"`},
		{"environment of a unit that is not there", two, protocol.Settings{Env: map[string]map[string]string{"bowl-y.service": nil}}, "no such unit"},
		{"a unit of another image", other, protocol.Settings{}, "on this host already, from"},
	}
	for _, tt := range tests {
		r, err := f.activate(h, tt.digest, tt.settings)
		if err == nil || !strings.Contains(err.Error(), tt.err) || hint.Of(err) == "" {
			t.Errorf("%s: %v (hint %q), %+v", tt.name, err, hint.Of(err), r)
		}
		if len(f.did) > 0 && !slices.Equal(f.did, []string{"profiles"}) {
			t.Errorf("%s: did %v", tt.name, f.did)
		}
	}
	if st, err := h.Status(context.Background(), "bowl"); err != nil || st.Current.Digest != one || st.Problem != "" {
		t.Errorf("%+v %v", st, err)
	}
}

func TestUnchangedAndDryRun(t *testing.T) {
	f, h, one := first(t)
	if r, err := f.activate(h, one, protocol.Settings{}); err != nil || r.Outcome != protocol.Unchanged || len(f.did) > 0 {
		t.Errorf("the same again: %+v, %v, did %v", r, err, f.did)
	}
	f.units["bowl.service"] = UnitState{Active: "failed"}
	if r, err := f.activate(h, one, protocol.Settings{}); err != nil || r.Outcome != protocol.Unchanged || !slices.Equal(f.did, []string{"restart bowl.service"}) {
		t.Errorf("the same, but down: %+v, %v, did %v", r, err, f.did)
	}
	two := f.put(h, "two", unitsTwo)
	f.did = nil
	var r protocol.Result
	err := h.Activate(context.Background(), protocol.Activate{App: "bowl", Digest: two, DryRun: true}, func(e protocol.Event) {
		if e.Result != nil {
			r = *e.Result
		}
	})
	if err != nil || r.Outcome != protocol.Planned || !r.Plan.Reload || len(r.Plan.Restart) != 1 || !slices.Equal(f.did, []string{"profiles"}) {
		t.Errorf("dry run: %+v, %v, did %v", r, err, f.did)
	}
}

func TestBusySaysWho(t *testing.T) {
	f, h, one := first(t)
	a, err := h.open("bowl")
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := a.lock(context.Background(), "anna@laptop", 0)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = f.activate(h, one, protocol.Settings{})
	var coded *CodedError
	if !errors.As(err, &coded) || coded.Code != protocol.CodeBusy || !strings.Contains(err.Error(), "anna@laptop") || hint.Of(err) == "" {
		t.Errorf("%v", err)
	}
	if time.Since(began) < lockWait/2 {
		t.Error("it did not wait")
	}
	unlock()
	if _, err := f.activate(h, one, protocol.Settings{}); err != nil {
		t.Errorf("after the lock was given back: %v", err)
	}
}
