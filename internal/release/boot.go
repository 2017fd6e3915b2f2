package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"devbox/internal/hint"
)

// undoAtBoot is undo for a host that is booting: before any unit of the app
// starts, when there is neither a portabled nor a bus to reach it by. So it is
// done with files alone, those that the journal has, and PID 1.
func (a *app) undoAtBoot(ctx context.Context, j *journal) error {
	if j.From != nil {
		if _, err := os.Stat(a.image(short(j.From.Digest))); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s", errNoImage, short(j.From.Digest))
		} else if err != nil {
			return err
		}
		if j.Plan.Reload && j.Files == nil {
			return hint.Errorf("run `devbox-host recover` once the host is up", "the journal has no unit files: it is that of an older devbox-host")
		}
	}
	units, err := a.attachedUnits()
	if err != nil {
		return err
	}
	crashpoint("boot")
	if j.From == nil || j.Plan.Reload {
		if units, err = a.putFilesBack(j); err != nil {
			return err
		}
	}
	crashpoint("boot-files")
	if err := a.putImageBack(j); err != nil {
		return err
	}
	crashpoint("boot-image")
	if err := a.swapTo(j.Swap, before); err != nil {
		return err
	}
	if j.From == nil || j.Plan.Reload {
		if err := a.sys.Reload(ctx); err != nil {
			return err
		}
	}
	crashpoint("boot-reloaded")
	return a.requeue(ctx, j, units)
}

// putImageBack makes the image, and the file that says which release it is,
// those of before.
func (a *app) putImageBack(j *journal) error {
	if j.From == nil {
		return a.removeImage()
	}
	return a.switchTo(target{Release: *j.From}, &Plan{Switch: true})
}

// requeue brings the jobs that systemd made of the files it found when it
// started in line with those that are there now. It does not wait for what it
// starts, which waits for sysinit.target, which waits for this process.
func (a *app) requeue(ctx context.Context, j *journal, units map[string]bool) error {
	start, err := a.wantedAtBoot(ctx, j)
	if err != nil {
		return err
	}
	var stop []string
	for unit := range units {
		names := []string{unit}
		if isTemplate(unit) {
			if names, err = a.sys.Instances(ctx, unit); err != nil {
				return err
			}
		}
		_, gone := os.Lstat(a.unit(unit))
		for _, name := range names {
			st, err := a.sys.Unit(ctx, name)
			switch {
			case err != nil:
				return err
			case !st.gone(): // it has not waited: it may have DefaultDependencies=no
				stop = append(stop, name)
				if gone == nil {
					start[name] = true
				}
			case gone != nil && st.Queued:
				stop = append(stop, name)
			}
		}
	}
	slices.Sort(stop) // x.service before x.socket, as ever: all are asked at once
	if err := a.stop(ctx, stop, stopGrace); err != nil {
		return err
	}
	var errs []error
	for _, unit := range slices.SortedFunc(maps.Keys(start), socketsFirst) {
		if _, err := a.sys.Queue(ctx, Start, unit); err != nil {
			errs = append(errs, &fault{unit: unit, cause: err.Error()})
		}
	}
	return errors.Join(errs...)
}

func socketsFirst(x, y string) int {
	if xs, ys := strings.HasSuffix(x, ".socket"), strings.HasSuffix(y, ".socket"); xs != ys {
		if xs {
			return -1
		}
		return 1
	}
	return strings.Compare(x, y)
}

// wantedAtBoot finds the units that another one wants which is up, or on its
// way up: what this boot would have started had it found the files of before.
func (a *app) wantedAtBoot(ctx context.Context, j *journal) (map[string]bool, error) {
	wanted := map[string]bool{}
	for _, f := range j.Files {
		by, ok := wantedBy(f.Path)
		if !ok {
			continue
		}
		st, err := a.sys.Unit(ctx, by)
		if err != nil {
			return nil, err
		}
		if st.Queued || st.up() {
			wanted[filepath.Base(f.Path)] = true
		}
	}
	return wanted, nil
}

// wantedBy is the unit in whose folder a link is: multi-user.target for
// multi-user.target.wants/bowl.service.
func wantedBy(link string) (string, bool) {
	for _, suffix := range wantFolders {
		if by, ok := strings.CutSuffix(filepath.Base(filepath.Dir(link)), suffix); ok {
			return by, true
		}
	}
	return "", false
}
