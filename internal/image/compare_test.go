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
		if got, err := Compare(old, new); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v: %v\n got %+v\nwant %+v", formats, err, got, want)
		}
		if got, err := Compare(old, openImage(t, a, formats[1])); err != nil || !got.Empty() {
			t.Errorf("%v: the same differ: %+v %v", formats, got, err)
		}
	}
}
