package release

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
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
