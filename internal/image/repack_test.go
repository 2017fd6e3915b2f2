package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Over whatever file, the image is the one that Pack writes, and what is said
// to have stayed did.
func TestRepack(t *testing.T) {
	const mb = 1 << 20
	tree := func(files map[string]string) *Tree {
		src := t.TempDir()
		for name, text := range files {
			write(t, filepath.Join(src, name), text, 0o644)
		}
		tree, err := Stage(Options{Name: "bowl", Dirs: []string{src}})
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	tool, app := strings.Repeat("tool", 2*mb+5), strings.Repeat("app-", mb+400)
	now := tree(map[string]string{"usr/bin/tool": tool, "usr/bin/app": app, "etc/small": "x", "etc/page": strings.Repeat("p", 9000)})
	packed := func(tree *Tree) []byte {
		dst := filepath.Join(t.TempDir(), "packed")
		if _, err := Pack(t.Context(), tree, Erofs, dst); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	want := packed(now)
	blocks := (len(want) + mb - 1) / mb
	for _, x := range []struct {
		name string
		over []byte
		kept int // blocks
	}{
		{"nothing", nil, 0},
		{"itself", want, blocks},
		{"a longer one", append(bytes.Clone(want), make([]byte, 3*mb)...), blocks},
		{"a shorter one", want[:2*mb+100], 2},
		{"another small file", packed(tree(map[string]string{"usr/bin/tool": tool, "usr/bin/app": app, "etc/small": "y", "etc/page": strings.Repeat("p", 9000)})), blocks - 1},
		{"another app", packed(tree(map[string]string{"usr/bin/tool": tool, "usr/bin/app": "X" + app[1:], "etc/small": "x", "etc/page": strings.Repeat("p", 9000)})), blocks - 1},
		{"dirt between the files", bytes.Repeat([]byte{1}, len(want)), 0},
	} {
		dst := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(dst, x.over, 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := Repack(t.Context(), now, dst)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) || p.Size != int64(len(want)) {
			t.Errorf("over %s: not what Pack writes", x.name)
		}
		kept := 0
		for at := 0; at < len(want); at += mb {
			end := min(at+mb, len(want))
			if p.Kept(int64(at), int64(end-at)) {
				kept++
				if end > len(x.over) || !bytes.Equal(x.over[at:end], want[at:end]) {
					t.Errorf("over %s: bytes from %d on are said to have stayed", x.name, at)
				}
			}
		}
		if kept != x.kept {
			t.Errorf("over %s: %d of %d blocks stayed, want %d", x.name, kept, blocks, x.kept)
		}
		if p.Kept(0, p.Size+1) || p.Kept(-1, 1) {
			t.Errorf("over %s: what is outside is said to have stayed", x.name)
		}
	}
}

func TestRepackRefusesChangedFile(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/usr/bin/app", strings.Repeat("a", 5<<20), 0o755)
	tree, err := Stage(Options{Name: "bowl", Dirs: []string{src}})
	if err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "image")
	write(t, dst, "", 0o644)
	write(t, src+"/usr/bin/app", "short", 0o755)
	if _, err := Repack(t.Context(), tree, dst); err == nil || !strings.Contains(err.Error(), "changed while it was packed") {
		t.Errorf("%v", err)
	}
}
