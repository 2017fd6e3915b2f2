package image

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	before := map[string]string{"etc/a": "a", "etc/same": "s", "etc/mode": "m", "dir/x": "x", "dir-x": "x", "swap": "file", "goes/deep/f": "f",
		"usr/bin/big": strings.Repeat("0123456789", 700_000), "usr/bin/same": strings.Repeat("x", 5<<20)}
	after := map[string]string{"etc/a": "b", "etc/same": "s", "etc/mode": "m", "dir/x": "longer", "swap/file": "", "new/f": "f",
		"usr/bin/big": strings.Repeat("0123456789", 700_000-1) + "012345678X", "usr/bin/same": strings.Repeat("x", 5<<20)}
	stage := func(files map[string]string, link string, mode os.FileMode) *Tree {
		src := t.TempDir()
		for name, text := range files {
			write(t, filepath.Join(src, name), text, 0o644)
		}
		os.Chmod(src+"/etc/mode", mode)
		for name, to := range map[string]string{"link": link, "samelink": "x"} {
			if err := os.Symlink(to, filepath.Join(src, name)); err != nil {
				t.Fatal(err)
			}
		}
		tree, err := Stage(Options{Name: "bowl", Dirs: []string{src}})
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	a, b := stage(before, "here", 0o644), stage(after, "there", 0o755)
	want := Diff{
		Added:   []string{"new/", "new/f", "swap/", "swap/file"},
		Removed: []string{"dir-x", "goes/", "goes/deep/", "goes/deep/f", "swap"},
		Changed: []string{"dir/x", "etc/a", "etc/mode", "link", "usr/bin/big"},
	}
	// An image of one format can follow one of the other.
	for _, formats := range [][2]Format{{Erofs, Erofs}, {Squashfs, Squashfs}, {Erofs, Squashfs}} {
		old, new := openImage(t, a, formats[0]), openImage(t, b, formats[1])
		if got, err := Compare(old, new, nil); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v: %v\n got %+v\nwant %+v", formats, err, got, want)
		}
		if got, err := Compare(old, openImage(t, a, formats[1]), nil); err != nil || !got.Empty() {
			t.Errorf("%v: the same differ: %+v %v", formats, got, err)
		}
	}
}

// What is known to be equal is not read: neither a whole file nor a part of a
// big one. What is not known is.
func TestCompareKnown(t *testing.T) {
	src := t.TempDir()
	big := strings.Repeat("0123456789abcdef", 6<<20/16)
	write(t, src+"/usr/bin/big", big, 0o755)
	write(t, src+"/etc/small", strings.Repeat("s", 5000), 0o644)
	stage := func() *Tree {
		tree, err := Stage(Options{Name: "bowl", Dirs: []string{src}})
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	old := openImage(t, stage(), Erofs)
	write(t, src+"/usr/bin/big", "X"+big[1:], 0o755)
	write(t, src+"/etc/small", strings.Repeat("S", 5000), 0o644)
	new := openImage(t, stage(), Erofs)
	at := new.tree.lookup("usr/bin/big").extents[0].at
	for _, x := range []struct {
		name string
		same Same
		want []string
	}{
		{"nothing", nil, []string{"etc/small", "usr/bin/big"}},
		{"everything", func(int64, int64) bool { return true }, nil},
		{"what is before the big file", func(pos, n int64) bool { return pos+n <= at }, []string{"usr/bin/big"}},
		{"where the big file differs", func(pos, n int64) bool { return pos == at && n == 1<<20 }, []string{"etc/small"}},
		{"the rest of the big file", func(pos, n int64) bool { return pos > at }, []string{"etc/small", "usr/bin/big"}},
	} {
		if got, err := Compare(old, new, x.same); err != nil || !reflect.DeepEqual(got, Diff{Changed: x.want}) {
			t.Errorf("%s known: %+v %v", x.name, got, err)
		}
	}
}
