package hint

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"
	"testing"
)

func TestCures(t *testing.T) {
	var (
		plain = errors.New("disk full")
		git   = Errorf("apt-get install git", "git: %w", plain)
		qemu  = Wrap(errors.New("qemu: not found"), "apt-get install qemu")
	)
	for _, c := range []struct {
		name  string
		err   error
		first string
		all   []string
	}{
		{"nil", nil, "", nil},
		{"none", fmt.Errorf("build: %w", plain), "", nil},
		{"one, wrapped", fmt.Errorf("build: %w", git), "apt-get install git", []string{"apt-get install git"}},
		{"the outer one wins", Wrap(fmt.Errorf("build: %w", git), "run doctor"), "run doctor", []string{"run doctor"}},
		{"an empty cure hides none", Wrap(git, ""), "apt-get install git", []string{"apt-get install git"}},
		{"joined, in order", errors.Join(git, plain, qemu), "apt-get install git", []string{"apt-get install git", "apt-get install qemu"}},
		{"joined, each once", fmt.Errorf("set up: %w", errors.Join(git, errors.Join(qemu, git))), "apt-get install git",
			[]string{"apt-get install git", "apt-get install qemu"}},
		{"two in one format", fmt.Errorf("%w; %w", qemu, git), "apt-get install qemu", []string{"apt-get install qemu", "apt-get install git"}},
		{"one over joined ones", Wrap(errors.Join(git, qemu), "run doctor"), "run doctor", []string{"run doctor"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Of(c.err); got != c.first {
				t.Errorf("Of = %q, want %q", got, c.first)
			}
			if got := All(c.err); !slices.Equal(got, c.all) {
				t.Errorf("All = %q, want %q", got, c.all)
			}
		})
	}
}

func TestFullDisk(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "/cache/x", Err: syscall.ENOSPC}
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"none", nil, ""},
		{"another cause", syscall.EIO, ""},
		{"a full disk", fmt.Errorf("pack: %w", full), "make room"},
		{"a quota", syscall.EDQUOT, "make room"},
		{"one that knows better", Wrap(full, "limactl prune"), "limactl prune"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Full(c.err, "make room"); Of(got) != c.want || !errors.Is(got, c.err) {
				t.Errorf("got %v, hint %q", got, Of(got))
			}
		})
	}
	if !SaysFull("tar: x: Cannot write: No space left on device\n") || SaysFull("tar: x: Cannot open: No such file or directory\n") {
		t.Error("it does not know a full disk by what tar says")
	}
}

func TestWrapKeepsTheError(t *testing.T) {
	cause := errors.New("disk full")
	if err := Wrap(cause, "delete something"); !errors.Is(err, cause) || err.Error() != "disk full" {
		t.Errorf("Wrap changed the error to %v", err)
	}
	if err := Wrap(nil, "delete something"); err != nil {
		t.Errorf("Wrap made an error of none: %v", err)
	}
}
