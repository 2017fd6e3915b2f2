//go:build linux

// Package smalldisk gives tests a disk that is easily full.
package smalldisk

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Disk is a mounted file system of its own.
type Disk struct{ Dir string }

// Mount mounts a file system of so many bytes, in memory, until the test ends.
func Mount(t *testing.T, size int64) Disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small disk")
	}
	d := Disk{t.TempDir()}
	if err := unix.Mount("devbox-test", d.Dir, "tmpfs", 0, options(size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.Dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// Resize makes the disk a larger or a smaller one.
func (d Disk) Resize(t *testing.T, size int64) {
	t.Helper()
	if err := unix.Mount("", d.Dir, "", unix.MS_REMOUNT, options(size)); err != nil {
		t.Fatal(err)
	}
}

func options(size int64) string { return fmt.Sprintf("size=%d,mode=0755", size) }
