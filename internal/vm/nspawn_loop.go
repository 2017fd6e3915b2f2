package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

type loopDevice struct {
	Name string `json:"name"`
	Ino  uint64 `json:"back-ino"`
	Dev  string `json:"back-maj:min"`
}

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
	out, err := run(ctx, "losetup", "--json", "--list", "--output=NAME,BACK-INO,BACK-MAJ:MIN")
	if err != nil {
		return err
	}
	if out == "" {
		return nil
	}
	var list struct {
		Devices []loopDevice `json:"loopdevices"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return fmt.Errorf("read `losetup --json`: %w", err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(n.path("root"), &st); err != nil {
		return ignoreMissing(err)
	}
	dev := uint64(st.Dev)
	here := map[uint64]string{}
	for _, d := range list.Devices {
		if d.Dev == fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) {
			here[d.Ino] = d.Name
		}
	}
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
		if name, ok := here[info.Sys().(*syscall.Stat_t).Ino]; ok {
			if _, err := run(ctx, "losetup", "--detach", name); err != nil && fileExists(filepath.Join("/sys/block", filepath.Base(name), "loop")) {
				errs = append(errs, err)
			}
		}
		return nil
	})
	return errors.Join(append(errs, ignoreMissing(err))...)
}
