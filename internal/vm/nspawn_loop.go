package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// detachLoops frees loop devices that the stopped machine left behind. Those
// of units go by themselves with the last process; those that `losetup` made
// stay, and their file with them.
//
// The kernel names a backing file as the container saw it, so files are told
// by device and inode.
func (n *Nspawn) detachLoops(ctx context.Context) error {
	if found, _ := filepath.Glob("/sys/block/loop*/loop/backing_file"); len(found) == 0 {
		return nil
	}
	out, err := run(ctx, "losetup", "--list", "--noheadings", "--raw", "--output=NAME,BACK-INO,BACK-MAJ:MIN")
	if err != nil {
		return err
	}
	var st syscall.Stat_t
	if err := syscall.Stat(n.path("root"), &st); err != nil {
		return ignoreMissing(err)
	}
	dev := uint64(st.Dev) //nolint:unconvert // an int32 on macOS
	here := loopsOn(out, fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)))
	if len(here) == 0 {
		return nil
	}
	var errs []error
	err = filepath.WalkDir(n.path("root"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		for _, name := range here[info.Sys().(*syscall.Stat_t).Ino] {
			if _, err := run(ctx, "losetup", "--detach", name); err != nil && fileExists(filepath.Join("/sys/block", filepath.Base(name), "loop")) {
				errs = append(errs, err)
			}
		}
		return nil
	})
	return errors.Join(append(errs, ignoreMissing(err))...)
}

// loopsOn reads losetup's list: the loop devices by the inode of their file,
// for the file system dev.
func loopsOn(list, dev string) map[uint64][]string {
	found := map[uint64][]string{}
	for line := range strings.Lines(list) {
		f := strings.Fields(strings.ReplaceAll(line, `\x20`, " ")) // padding, in util-linux 2.38
		if len(f) != 3 || f[2] != dev {
			continue
		}
		if ino, err := strconv.ParseUint(f[1], 10, 64); err == nil {
			found[ino] = append(found[ino], f[0])
		}
	}
	return found
}
