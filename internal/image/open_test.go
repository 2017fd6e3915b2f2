package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/erofs/go-erofs"
)

func smallTree(t testing.TB) *Tree {
	t.Helper()
	src := t.TempDir()
	write(t, src+"/usr/bin/bowl", "#!/bin/sh\n", 0o755)
	write(t, src+"/etc/long", strings.Repeat("0123456789", 2000), 0o644)
	write(t, src+"/"+unitDir+"bowl.service", "[Service]\nExecStart=link\n[X-Devbox]\nReads=\n", 0o644)
	write(t, src+"/"+unitDir+"other.service", "[Service]\nExecStart=/usr/bin/bowl\n", 0o644)
	for link, to := range map[string]string{"usr/bin/link": "bowl", "bin": "usr/bin", "usr/bin/sh": "/usr/bin/shell"} {
		if err := os.Symlink(to, filepath.Join(src, link)); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := Stage(Options{Name: "bowl", Dirs: []string{src}})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func openImage(t testing.TB, tree *Tree, format Format) *Image {
	t.Helper()
	img, err := Open(packTemp(t, tree, format))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

func TestUnits(t *testing.T) {
	for _, format := range []Format{Erofs, Squashfs} {
		units, err := openImage(t, smallTree(t), format).Units()
		if err != nil {
			t.Fatal(err)
		}
		if len(units) != 1 {
			t.Fatalf("%s: %+v: want those of the prefix only", format, units)
		}
		u := units[0]
		// The link and what it leads to; the interpreter, by two links, to nothing.
		want := []string{"/bin", "/bin/sh", "/usr/bin/bowl", "/usr/bin/sh"}
		if u.Name != "bowl.service" || u.Path != unitDir+"bowl.service" || !reflect.DeepEqual(u.Execs, []string{"/usr/bin/link"}) || !reflect.DeepEqual(u.Reads, want) {
			t.Errorf("%s: %+v", format, u)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/text", "hello", 0o644)
	write(t, dir+"/zeros", strings.Repeat("\x00", 8192), 0o644)
	for name, want := range map[string]string{"gone": "no such file", "text": "neither erofs nor squashfs", "zeros": "neither erofs nor squashfs", ".": "it is a folder"} {
		if _, err := Open(filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A folder that contains itself ends in an error, soon.
func TestOpenLoop(t *testing.T) {
	data, err := os.ReadFile(packTemp(t, smallTree(t), Erofs))
	if err != nil {
		t.Fatal(err)
	}
	l, err := planErofs(smallTree(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range l.nodes {
		if n.Path != "usr/lib/systemd" {
			continue
		}
		// Its only folder is "system": point that at the folder itself.
		at := BlockSize + n.at + n.inodeSize() + 2*erofsDirent
		binary.LittleEndian.PutUint64(data[at:], uint64(n.at/erofsSlot))
	}
	file := filepath.Join(t.TempDir(), "loop.raw")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); !errors.Is(err, ErrBroken) {
		t.Errorf("got %v", err)
	}
}

// What other programs pack can be read too.
func TestOpenForeignErofs(t *testing.T) {
	tree := oddTree(t, t.TempDir())
	t.Run("go-erofs", func(t *testing.T) {
		f, err := os.Create(filepath.Join(t.TempDir(), "x.raw"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w := erofs.Create(f, erofs.WithBuildTime(0, 0))
		if err := errors.Join(w.CopyFrom(tree.FS()), w.Close()); err != nil {
			t.Fatal(err)
		}
		img, err := Open(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		sameAs(t, tree, img.FS())
	})
	t.Run("mkfs.erofs", func(t *testing.T) {
		if _, err := exec.LookPath("mkfs.erofs"); err != nil {
			t.Skip("needs mkfs.erofs (package erofs-utils)")
		}
		src, file := t.TempDir(), filepath.Join(t.TempDir(), "x.raw")
		write(t, src+"/etc/a", strings.Repeat("a", 10000), 0o644)
		if text, err := exec.Command("mkfs.erofs", "-T0", "--all-root", "-x-1", file, src).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, text)
		}
		img, err := Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		if b, err := fs.ReadFile(img.FS(), "etc/a"); err != nil || len(b) != 10000 || b[9999] != 'a' {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
}

// walkAll reads all of an image, up to a bound on content.
func walkAll(img *Image) error {
	left := int64(8 << 20)
	for _, e := range img.tree.entries {
		if !e.Mode.IsRegular() || left <= 0 {
			continue
		}
		r, err := e.open()
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, io.LimitReader(r, left))
		r.Close()
		if left -= n; err != nil {
			return err
		}
	}
	_, err := img.Units()
	return err
}

func FuzzOpen(f *testing.F) {
	for _, format := range []Format{Erofs, Squashfs} {
		if format == Squashfs {
			if _, err := exec.LookPath("mksquashfs"); err != nil {
				continue
			}
		}
		data, err := os.ReadFile(packTemp(f, smallTree(f), format))
		if err != nil {
			f.Fatal(err)
		}
		data = bytes.TrimRight(data, "\x00")
		f.Add(data)
		// Damage that a plain run of the tests sees too.
		for at := 0; at < len(data); at += 61 {
			bad := bytes.Clone(data)
			bad[at] ^= byte(1 << (at % 8))
			f.Add(bad)
		}
		f.Add(data[:len(data)/2])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "x.raw")
		if err := os.WriteFile(file, append(data, make([]byte, BlockSize)...), 0o600); err != nil {
			t.Fatal(err)
		}
		img, err := Open(file)
		if err != nil {
			return
		}
		defer img.Close()
		walkAll(img)
		var total int64
		for _, e := range img.tree.entries {
			total += e.Size
		}
		if total > 16<<20 {
			return // a hole or a shared block can claim any size, which takes time but no memory
		}
		if d, err := Compare(img, img, nil); err == nil && !d.Empty() {
			t.Errorf("differs from itself: %+v", d)
		}
	})
}
