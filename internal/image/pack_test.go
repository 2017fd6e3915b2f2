package image

import (
	"os"
	"path/filepath"
	"testing"
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

func TestPackAndCompare(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	write(t, src+"/usr/bin/bowl", "#!/bin/sh\n", 0o755)
	write(t, src+"/usr/lib/systemd/system/bowl.service", "[Service]\nExecStart=/usr/bin/bowl\nStateDirectory=bowl\n", 0o644)
	var images []*Image
	for _, name := range []string{"a.raw", "b.raw"} {
		tree, err := Stage(Options{Name: "bowl", Dirs: []string{src}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Pack(t.Context(), tree, Erofs, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		img, err := Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		images = append(images, img)
		write(t, src+"/usr/bin/bowl", "#!/bin/sh\nexit\n", 0o755)
	}
	d, err := Compare(images[0], images[1])
	if err != nil {
		t.Fatal(err)
	}
	old, err := images[0].Units()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v %+v %+v", d, old, Affected(old, old, d))
}
