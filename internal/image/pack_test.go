package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"devbox/internal/hint"
)

func write(t testing.TB, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// A file that grows moves no bigger one, and of those behind it none as long as
// it grows by little.
func TestBigFilesKeepTheirPlace(t *testing.T) {
	at := func(app, tool int) (int64, int64) {
		tree := newTree("x")
		for name, size := range map[string]int{"a/app": app, "z/tool": tool, "etc/small": 100, "etc/more": 5000} {
			tree.putParents(name)
			tree.put(&Entry{Path: name, Mode: 0o644, Size: int64(size)})
		}
		tree.sort()
		l, err := planErofs(tree)
		if err != nil {
			t.Fatal(err)
		}
		var places [2]int64
		for _, n := range l.big {
			places[map[string]int{"a/app": 0, "z/tool": 1}[n.Path]] = n.block * BlockSize
		}
		return places[0], places[1]
	}
	const mb = 1 << 20
	if app, tool := at(12*mb, 54*mb+5); tool != 1*mb || app != 56*mb {
		t.Errorf("tool at %d, app at %d", tool, app)
	}
	if app, tool := at(13*mb, 54*mb+5); tool != 1*mb || app != 56*mb {
		t.Errorf("with a larger app: tool at %d, app at %d", tool, app)
	}
	if app, tool := at(60*mb+5000, 54*mb); app != 1*mb || tool != 62*mb {
		t.Errorf("with the app the largest: tool at %d, app at %d", tool, app)
	}
	if _, tool := at(60*mb+900_000, 54*mb); tool != 62*mb {
		t.Errorf("with that app larger: tool at %d", tool)
	}
}

func TestPackLeavesNothing(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/etc/a", "0123456789", 0o644)
	write(t, src+"/usr/bin/big", strings.Repeat("x", bigFile), 0o755)
	stage := func() *Tree {
		tree, err := Stage(Options{Name: "bowl", Dirs: []string{src}})
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	shrunk, gone := stage(), stage()
	write(t, src+"/etc/a", "012345678", 0o644)
	big := stage()
	write(t, src+"/usr/bin/big", "x", 0o755)
	for _, format := range []Format{Erofs, Squashfs} {
		for name, tt := range map[string]struct {
			ctx  context.Context
			tree *Tree
			want string
		}{
			"cancelled":      {cancelled, shrunk, "context canceled"},
			"a small change": {t.Context(), shrunk, "changed while it was packed"},
			"a large change": {t.Context(), big, "big changed while it was packed"},
			"a file is gone": {t.Context(), gone, "no such file"},
		} {
			if name == "a file is gone" {
				os.Remove(src + "/etc/a")
			} else {
				write(t, src+"/etc/a", "012345678", 0o644)
			}
			dir := t.TempDir()
			write(t, dir+"/x.raw", "before", 0o644)
			_, err := Pack(tt.ctx, tt.tree, format, dir+"/x.raw")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s, %s: got %v, want %s", format, name, err, tt.want)
			}
			entries, _ := os.ReadDir(dir)
			if b, _ := os.ReadFile(dir + "/x.raw"); string(b) != "before" || len(entries) != 1 {
				t.Errorf("%s, %s: the folder holds %v, the file %q", format, name, entries, b)
			}
		}
	}
	tree := checkTree(t, nil)
	if _, err := Pack(t.Context(), tree, "zip", t.TempDir()+"/x.raw"); err == nil || !strings.Contains(err.Error(), `unknown image format "zip"`) {
		t.Errorf("got %v", err)
	}
	if _, err := Pack(t.Context(), tree, Erofs, t.TempDir()+"/no/x.raw"); err == nil {
		t.Error("no error without a folder to write in")
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Pack(t.Context(), tree, Squashfs, t.TempDir()+"/x.raw"); err == nil || !strings.Contains(hint.Of(err), "squashfs-tools") {
		t.Errorf("without mksquashfs: %v (%s)", err, hint.Of(err))
	}
}
