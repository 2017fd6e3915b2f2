package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"devbox/internal/hint"
	"devbox/test/smalldisk"
)

// Each way to a machine looks for space before it begins: it names the folder
// and the cure, and leaves nothing there but its lock.
func TestNoSpaceForAMachine(t *testing.T) {
	for _, c := range []struct {
		name   string
		create func(t *testing.T, dir string) error
		cures  []string
	}{
		{"a base of containers", func(t *testing.T, dir string) error {
			_, err := baseTar(t.Context(), dir, nil)
			return err
		}, []string{"XDG_CACHE_HOME"}},
		{"a container", func(t *testing.T, dir string) error {
			return containerOn(t, dir).unpackRoot(t.Context(), nil, nil)
		}, []string{"XDG_STATE_HOME"}},
		{"a virtual machine", func(t *testing.T, dir string) error {
			f := newLimaFixture(t, nil)
			t.Setenv("LIMA_HOME", dir)
			fakeLimactl(t, "1.2.3", call{args: "list --json bowl", exit: 1})
			return f.Create(t.Context(), nil)
		}, []string{"limactl prune", "LIMA_HOME"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := smalldisk.Mount(t, 1<<20)
			err := c.create(t, disk.Dir)
			if err == nil || !strings.Contains(err.Error(), disk.Dir) || !strings.Contains(err.Error(), "has 1 MiB free, a machine needs") {
				t.Errorf("got %v", err)
			}
			for _, want := range append(c.cures, "free some space on the disk of "+disk.Dir) {
				if !strings.Contains(hint.Of(err), want) {
					t.Errorf("the cure is %q, want %q in it", hint.Of(err), want)
				}
			}
			err = filepath.WalkDir(disk.Dir, func(path string, d os.DirEntry, err error) error {
				if err == nil && !d.IsDir() && d.Name() != "lock" {
					t.Errorf("left %s", path)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// containerOn is a container in dir whose base is a tar file of 8 MiB.
func containerOn(t *testing.T, dir string) *Nspawn {
	t.Helper()
	n := &Nspawn{spec: Spec{Name: "shop", StateDir: dir, CacheDir: t.TempDir()}}
	r := baseRecipe(t.Context())
	base := filepath.Join(n.spec.CacheDir, "nspawn", fmt.Sprintf("debian-13-%s-%s.tar", r.Arch, r.key()))
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		t.Fatal(err)
	}
	// More than one file: of the one that the disk ends in, tar says how much it
	// wrote and not why.
	tree := t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(tree, name), make([]byte, 4<<20), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := run(t.Context(), "tar", "--create", "--file="+base, "--directory="+tree, "one", "two"); err != nil {
		t.Fatal(err)
	}
	return n
}

// A disk that others fill meanwhile: what was unpacked gives its space back.
func TestDiskFillsUpWhileAContainerIsMade(t *testing.T) {
	disk := smalldisk.Mount(t, 2*minRoot) // in memory, which only what is written takes
	n := containerOn(t, disk.Dir)
	err := n.unpackRoot(t.Context(), nil, func(step string) {
		if step == "unpack the base system" {
			disk.Resize(t, 2<<20)
		}
	})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(hint.Of(err), "free some space on the disk of "+disk.Dir) {
		t.Errorf("got %v, hint %q", err, hint.Of(err))
	}
	if left, _ := os.ReadDir(disk.Dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// The cure of a full disk goes before the others that a failed tool has.
func TestFullDiskOfATool(t *testing.T) {
	f := newLimaFixture(t, nil)
	os.RemoveAll(f.dir())
	base := filepath.Join(t.TempDir(), "base.qcow2")
	if err := os.WriteFile(base, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	digest, err := fileDigest(base, "sha256:")
	if err != nil {
		t.Fatal(err)
	}
	f.spec.Base = map[string]BaseImage{runtime.GOARCH: {URL: base, Digest: digest}}
	fakeLimactl(t, "1.2.3", call{args: "list --json bowl", exit: 1}, call{
		args: "create --tty=false --name=bowl " + filepath.Join(f.spec.StateDir, "bowl.yaml"),
		exit: 1, stderr: "level=fatal msg=\"write disk: no space left on device\"\n",
	}, call{args: "list --json bowl", exit: 1})
	if err := f.Create(t.Context(), nil); !strings.Contains(hint.Of(err), "LIMA_HOME") {
		t.Errorf("limactl: %v, hint %q", err, hint.Of(err))
	}

	bin := t.TempDir()
	for _, name := range []string{"mmdebstrap", "go"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho 'x: No space left on device' >&2\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	cache := t.TempDir()
	if err := baseRecipe(t.Context()).build(t.Context(), nil, "root", "tar", cache, "out.tar"); !strings.Contains(hint.Of(err), "disk of "+cache) {
		t.Errorf("mmdebstrap: %v, hint %q", err, hint.Of(err))
	}
	if _, err := InstallLima(t.Context(), cache, nil); !strings.Contains(hint.Of(err), "disk of "+cache) {
		t.Errorf("go: %v, hint %q", err, hint.Of(err))
	}
}
