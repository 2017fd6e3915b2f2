package secret

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"devbox/internal/hint"
	"devbox/test/smalldisk"
)

// A disk that is full, or was made read-only by an error, is named as the cause.
func TestSetWithoutADisk(t *testing.T) {
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, d smalldisk.Disk)
		mend   func(t *testing.T, d smalldisk.Disk)
		want   error
		advice string
	}{
		{"full", func(t *testing.T, d smalldisk.Disk) { d.Resize(t, 12<<10) }, func(t *testing.T, d smalldisk.Disk) { d.Resize(t, 1<<20) }, unix.ENOSPC, "free some space"},
		{"read-only", func(t *testing.T, d smalldisk.Disk) { remount(t, d, unix.MS_RDONLY) }, func(t *testing.T, d smalldisk.Disk) { remount(t, d, 0) }, unix.EROFS, "mount the host's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := on(t, nil)
			disk := smalldisk.Mount(t, 1<<20)
			write(t, disk.Dir, "etc/hostname", "host")
			s.root = disk.Dir
			before := strings.Repeat("a", 100)
			if err := s.Set(t.Context(), "k", []byte(before)); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, disk)
			err := s.Set(t.Context(), "k", bytes.Repeat([]byte("x"), 60<<10))
			if !errors.Is(err, c.want) || !strings.Contains(hint.Of(err), c.advice) {
				t.Errorf("%v, hint %q", err, hint.Of(err))
			}
			if got := s.read(t); !reflect.DeepEqual(got, map[string]string{"bowl.k": before}) {
				t.Errorf("left behind: %.200q", got)
			}
			c.mend(t, disk)
			if err := s.Set(t.Context(), "k", []byte("abc")); err != nil {
				t.Error(err)
			}
		})
	}
}

func remount(t *testing.T, d smalldisk.Disk, flags uintptr) {
	t.Helper()
	if err := unix.Mount("", d.Dir, "", unix.MS_REMOUNT|flags, "size=1048576,mode=0755"); err != nil {
		t.Fatal(err)
	}
}
