package image

import (
	"context"
	"github.com/erofs/go-erofs"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
)

func benchTree(b testing.TB) *Tree {
	dir := b.TempDir()
	src := filepath.Join(dir, "src")
	big := make([]byte, 54_550_690)
	rand.New(rand.NewSource(1)).Read(big)
	write(b, src+"/usr/bin/litestream", string(big), 0o755)
	write(b, src+"/usr/bin/bowl", string(big[:12_800_000]), 0o755)
	write(b, src+"/etc/litestream.yml", "x\n", 0o644)
	tree, err := Stage(Options{Name: "bowl", Dirs: []string{src}})
	if err != nil {
		b.Fatal(err)
	}
	return tree
}

func BenchmarkPackErofs(b *testing.B) {
	tree := benchTree(b)
	dst := filepath.Join(b.TempDir(), "a.raw")
	for b.Loop() {
		if _, err := Pack(b.Context(), tree, Erofs, dst); err != nil {
			b.Fatal(err)
		}
		os.Remove(dst)
	}
}

// Over the image of the same tree but for a small file.
func BenchmarkRepackErofs(b *testing.B) {
	tree := benchTree(b)
	dst := filepath.Join(b.TempDir(), "a.raw")
	if _, err := Pack(b.Context(), tree, Erofs, dst); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		tree.lookup("etc/litestream.yml").Mode ^= 0o1
		if _, err := Repack(b.Context(), tree, dst); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPackLibrary(b *testing.B) {
	tree := benchTree(b)
	dst := filepath.Join(b.TempDir(), "a.raw")
	for b.Loop() {
		if _, err := writeImage(b.Context(), tree, dst, packLibrary); err != nil {
			b.Fatal(err)
		}
		os.Remove(dst)
	}
}

func packLibrary(ctx context.Context, tree *Tree, f *os.File) error {
	w := erofs.Create(f, erofs.WithBuildTime(0, 0))
	if err := w.CopyFrom(tree.FS()); err != nil {
		return err
	}
	return w.Close()
}

func BenchmarkCompareErofs(b *testing.B) {
	tree := benchTree(b)
	var images [2]*Image
	for i := range images {
		dst := filepath.Join(b.TempDir(), "a.raw")
		if _, err := Pack(b.Context(), tree, Erofs, dst); err != nil {
			b.Fatal(err)
		}
		img, err := Open(dst)
		if err != nil {
			b.Fatal(err)
		}
		defer img.Close()
		images[i] = img
	}
	for name, same := range map[string]Same{
		"unknown": nil,
		"known":   func(at, n int64) bool { return at >= 1<<20 }, // as after a change of a small file
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if d, err := Compare(images[0], images[1], same); err != nil || !d.Empty() {
					b.Fatal(d, err)
				}
			}
		})
	}
}
