package release

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"devbox/internal/protocol"
)

// What something else than devbox did to a release that was committed is put
// right when the next session opens, and what runs is that release.
func TestRepair(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(t *testing.T, f *fake, a *app, other string)
		did  []string // nil: nothing was wrong
	}{
		{"nothing", func(*testing.T, *fake, *app, string) {}, nil},
		{"another image was put in place", func(t *testing.T, f *fake, a *app, other string) {
			if err := linkOver(a.image(short(other)), a.attached()); err != nil {
				t.Fatal(err)
			}
		}, []string{"restart bowl.service"}},
		{"the image was taken away: what runs has it mounted still", func(t *testing.T, f *fake, a *app, _ string) {
			if err := os.Remove(a.attached()); err != nil {
				t.Fatal(err)
			}
		}, []string{}},
		{"a unit file was edited", func(t *testing.T, f *fake, a *app, _ string) {
			f.write(attachedDir+"/bowl.service", "[Service]\nType=notify\nExecStart=/z\n"+installed)
		}, []string{"attach", "reload", "restart bowl.service"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, h, one := first(t)
			two := f.put(h, "two", unitsOne)
			a, err := h.open("bowl")
			if err != nil {
				t.Fatal(err)
			}
			c.harm(t, f, a, two)
			f.did = nil
			said, err := h.Hello(context.Background(), "bowl")
			if err != nil || (said == "") != (c.did == nil) {
				t.Errorf("said %q, %v", said, err)
			}
			if !slices.Equal(f.did, c.did) {
				t.Errorf("did %v, want %v", strings.Join(f.did, ", "), c.did)
			}
			if !sameFile(a.attached(), a.image(short(one))) {
				t.Error("the attached image is not r1's")
			}
			if again, err := h.Hello(context.Background(), "bowl"); again != "" || err != nil {
				t.Errorf("again: %q, %v", again, err)
			}
		})
	}
}

// interrupted is first, whose activation of another image ended in the middle:
// its process was restarted from that image, the journal is there.
func interrupted(t *testing.T) (f *fake, h *Host, two string) {
	f, h, one := first(t)
	two = f.put(h, "two", unitsOne)
	a, st := opened(t, h)
	j := journal{From: st.Current, To: protocol.Release{ID: "r2", Digest: two}, Before: map[string]string{"bowl.service": f.units["bowl.service"].Invocation}}
	if err := writeJSON(a.place.journal(), j); err != nil {
		t.Fatal(err)
	}
	if err := linkOver(a.image(short(two)), a.attached()); err != nil {
		t.Fatal(err)
	}
	f.units["bowl.service"] = UnitState{Active: "active", Type: "notify", Invocation: "r2's"}
	f.did = nil
	if one == two {
		t.Fatal("the two images are the same")
	}
	return f, h, two
}

// A release before that is not well must not keep the one away that cures it.
func TestWhatIsNotWellDoesNotKeepTheNextAway(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(f *fake, a *app)
		said string
	}{
		{"it does not start any more", func(f *fake, _ *app) { f.results["restart bowl.service"] = []string{"failed"} }, "r1 was put back but is not well: bowl.service exited"},
		{"its image was deleted", func(_ *fake, a *app) {
			if err := os.RemoveAll(a.images()); err != nil {
				panic(err)
			}
		}, "no such image"},
		{"its image is damaged", func(_ *fake, a *app) {
			st, err := a.readState()
			if err == nil {
				name := a.image(short(st.Current.Digest))
				var info os.FileInfo
				if info, err = os.Stat(name); err == nil {
					err = replaceFile(name, make([]byte, info.Size())) // as large as it was
				}
			}
			if err != nil {
				panic(err)
			}
		}, "broken image"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, h, _ := interrupted(t)
			a, err := h.open("bowl")
			if err != nil {
				t.Fatal(err)
			}
			c.harm(f, a)
			said, err := h.Hello(context.Background(), "bowl")
			if err != nil || !strings.Contains(said, c.said) {
				t.Errorf("said %q, %v; want %q", said, err, c.said)
			}
			if _, err := h.Welcome(context.Background(), "bowl"); err != nil {
				t.Error(err)
			}
			three := f.put(h, "three", unitsTwo)
			if r, err := f.activate(h, three, protocol.Settings{}); err != nil || r.Outcome != protocol.Committed || r.Serving != "r3" {
				t.Errorf("the next release: %+v, %v", r, err)
			}
		})
	}
}

// Going back fails once its files are in place and before its units are
// restarted: the next session restarts them, so that none runs the release that
// was given up.
func TestGoingBackIsTriedAgain(t *testing.T) {
	f, h, _ := first(t)
	two := f.put(h, "two", unitsOne)
	broken := errors.New("the bus is gone")
	f.results["restart bowl.service"] = []string{"failed"}
	f.errs["restart bowl.service"] = []error{nil, broken}
	r, err := f.activate(h, two, protocol.Settings{})
	if err != nil || r.Outcome != protocol.Failed || !strings.Contains(r.Failure.Cause, "the next session tries it again") {
		t.Fatalf("%+v, %v", r, err)
	}
	f.units["bowl.service"] = UnitState{Active: "active", Type: "notify", Invocation: "r2's, started by Restart="}
	f.did = nil
	said, err := h.Hello(context.Background(), "bowl")
	if err != nil || !strings.Contains(said, "r1 runs") || !slices.Equal(f.did, []string{"restart bowl.service"}) {
		t.Errorf("said %q, did %v, %v", said, f.did, err)
	}
}
