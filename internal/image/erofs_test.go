package image

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// oddTree has one of everything that an image can hold.
func oddTree(t testing.TB, src string) *Tree {
	t.Helper()
	write(t, src+"/usr/bin/bowl", strings.Repeat("program ", 1000), 0o700)
	write(t, src+"/usr/bin/big", strings.Repeat("0123456789abcde\n", bigFile/16+5), 0o755)
	write(t, src+"/usr/bin/bigger", strings.Repeat("fedcba987654321\n", bigFile/16+70000), 0o755)
	write(t, src+"/etc/empty", "", 0o600)
	write(t, src+"/etc/one", "1", 0o664)
	write(t, src+"/etc/block", strings.Repeat("b", BlockSize), 0o644)
	write(t, src+"/etc/inline", strings.Repeat("i", BlockSize-erofsCompact), 0o644)
	write(t, src+"/etc/notinline", strings.Repeat("n", BlockSize-erofsCompact+1), 0o644)
	for i := range 700 {
		write(t, fmt.Sprintf("%s/srv/many/%s-%d", src, strings.Repeat("x", i%250), i), fmt.Sprint(i), 0o644)
	}
	for _, name := range []string{"-dash", "!bang", "a b", "ünïcode", "new\nline", "...", strings.Repeat("n", 255), "quote'\""} {
		write(t, filepath.Join(src, "srv/odd", name), name, 0o644)
	}
	if err := os.MkdirAll(src+"/srv/none/at/all", 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"rel": "../srv/odd", "abs": "/usr/bin/bowl", "long": "/" + strings.Repeat("d/", 2000) + "x", "none": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(src, "etc", link)); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := Stage(Options{Name: "odd", Dirs: []string{src}})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// sameAs compares what fsys shows with the tree that went into it.
func sameAs(t *testing.T, tree *Tree, fsys fs.FS) {
	t.Helper()
	seen := 0
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := tree.lookup(name)
		if name == "." {
			want = rootEntry
		} else {
			seen++
		}
		if want == nil {
			t.Errorf("%q is in the image only", name)
			return nil
		}
		if info.Mode() != want.Mode {
			t.Errorf("%q has mode %v, want %v", name, info.Mode(), want.Mode)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			if st.Uid != 0 || st.Gid != 0 || !info.ModTime().Equal(time.Unix(0, 0)) {
				t.Errorf("%q belongs to %d:%d and dates from %v", name, st.Uid, st.Gid, info.ModTime())
			}
			if want.Mode.IsDir() {
				if n := len(subdirs(tree, name)); int(st.Nlink) != 2+n {
					t.Errorf("%q has %d links, want %d", name, st.Nlink, 2+n)
				}
			}
		}
		switch want.Mode.Type() {
		case fs.ModeSymlink:
			if to, err := fs.ReadLink(fsys, name); err != nil || to != want.Target {
				t.Errorf("%q points to %.40q (%v), want %.40q", name, to, err, want.Target)
			}
		case 0:
			compareContent(t, want, fsys, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen != len(tree.entries) {
		t.Errorf("the image shows %d entries, the tree has %d", seen, len(tree.entries))
	}
}

func subdirs(tree *Tree, dir string) []string {
	var all []string
	for _, e := range tree.entries {
		if e.Mode.IsDir() && filepath.Dir(e.Path) == dir {
			all = append(all, e.Path)
		}
	}
	return all
}

func compareContent(t *testing.T, want *Entry, fsys fs.FS, name string) {
	t.Helper()
	r, err := want.open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := fs.ReadFile(fsys, name)
	if err != nil {
		t.Errorf("read %q: %v", name, err)
	} else if !bytes.Equal(a, b) {
		t.Errorf("%q differs: %d bytes in the tree, %d in the image", name, len(a), len(b))
	}
}

func packTemp(t testing.TB, tree *Tree, format Format) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "odd.raw")
	p, err := Pack(t.Context(), tree, format, dst)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dst); err != nil || info.Size() != p.Size || p.Size%BlockSize != 0 {
		t.Fatalf("Pack says %+v, the file: %v %v", p, info, err)
	}
	return dst
}

func TestPackedReadBack(t *testing.T) {
	for _, format := range []Format{Erofs, Squashfs} {
		t.Run(string(format), func(t *testing.T) {
			tree := oddTree(t, t.TempDir())
			img, err := Open(packTemp(t, tree, format))
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			if img.Format != format {
				t.Errorf("Open says %s", img.Format)
			}
			sameAs(t, tree, img.FS())
		})
	}
}

func TestErofsReadByFsck(t *testing.T) {
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Skip("needs fsck.erofs (package erofs-utils)")
	}
	tree := oddTree(t, t.TempDir())
	image := packTemp(t, tree, Erofs)
	out := filepath.Join(t.TempDir(), "out")
	if text, err := exec.Command(fsck, "--extract="+out, "--no-preserve-owner", "--no-preserve-perms", image).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	// What fsck extracts loses owners and modes; the kernel test holds those.
	for _, e := range tree.entries {
		if e.Mode.IsRegular() {
			compareContent(t, e, os.DirFS(out), e.Path)
		}
	}
}

func TestErofsMountedByKernel(t *testing.T) {
	for _, format := range []Format{Erofs, Squashfs} {
		t.Run(string(format), func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("needs root to mount a loop device")
			}
			tree := oddTree(t, t.TempDir())
			at := mountImage(t, packTemp(t, tree, format), format)
			sameAs(t, tree, os.DirFS(at))
			for _, e := range tree.entries {
				if n, err := unix.Llistxattr(filepath.Join(at, e.Path), nil); n > 0 || err != nil && err != unix.ENOTSUP {
					t.Errorf("%q has %d bytes of extended attributes (%v)", e.Path, n, err)
				}
			}
		})
	}
}

func mountImage(t *testing.T, image string, format Format) string {
	t.Helper()
	at := t.TempDir()
	text, err := exec.Command("mount", "-t", string(format), "-o", "loop,ro", image, at).CombinedOutput()
	if err != nil {
		t.Skipf("needs loop devices and %s in the kernel: %s", format, text)
	}
	t.Cleanup(func() {
		if text, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, text)
		}
	})
	return at
}
