package release

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Forget takes an app off this host: its units are stopped, disabled and
// taken away, and all that devbox keeps of it is deleted. What the app itself
// stored (StateDirectory= and its kin) stays.
func (h *Host) Forget(ctx context.Context, name string) error {
	a, err := h.open(name)
	if err != nil {
		return err
	}
	if _, err := os.Stat(a.dir()); os.IsNotExist(err) {
		return nil
	}
	unlock, err := a.lock(ctx, "devbox-host forget", lockWait)
	if err != nil {
		return err
	}
	defer unlock()
	h.shelter(ctx, name)
	// Units that an interrupted activation has added may not name their image yet.
	var added []string
	var swapped *swap // and the data that it has exchanged is not yet to stay
	if j, err := a.readJournal(); err == nil && j != nil {
		if added, err = a.added(j); err != nil {
			return err
		}
		if st, err := a.readState(); err == nil && judge(st, j) == undo {
			swapped = j.Swap
		}
	}
	if err := a.dismantle(context.WithoutCancel(ctx), added); err != nil {
		return err
	}
	if err := a.swapTo(swapped, before); err != nil {
		return err
	}
	// These first: what is found of a deletion that was interrupted must not pass
	// for a release to be put back in place.
	for _, file := range []string{a.place.journal(), a.place.state()} {
		if err := removeIfThere(file); err != nil {
			return err
		}
	}
	if err := syncPath(a.dir()); err != nil {
		return err
	}
	crashpoint("forgotten")
	if err := os.RemoveAll(a.dir()); err != nil {
		return err
	}
	h.sys.Note(Note{App: name, Outcome: forgotten, Text: "taken off this host"})
	return nil
}

// dismantle stops all units of the app, and those that only an interrupted
// activation has brought, and takes their files away, also on disk. It does not
// ask portabled to detach: given an absolute path, portabled of systemd 257
// takes every unit of every image that was attached by one for this image's,
// and would take another app's units away, too.
func (a *app) dismantle(ctx context.Context, added []string) error {
	set, err := a.attachedUnits()
	if err != nil {
		return err
	}
	for _, unit := range added {
		set[unit] = true
	}
	var units, running []string
	for name := range set {
		units = append(units, name)
		if !isTemplate(name) {
			running = append(running, name)
			continue
		}
		instances, err := a.sys.Instances(ctx, name)
		if err != nil {
			return err
		}
		running = append(running, instances...)
	}
	slices.Sort(units)
	slices.Sort(running) // x.service before x.socket, x.timer: all are asked at once
	if err := a.stop(ctx, running, stopGrace); err != nil {
		return err
	}
	if err := a.disable(ctx, units); err != nil {
		return err
	}
	if err := a.cleanUnits(ctx, units); err != nil {
		return err
	}
	if err := a.syncFolders(); err != nil {
		return err
	}
	if err := a.removeImage(); err != nil {
		return err
	}
	for _, unit := range running {
		if err := a.sys.ResetFailed(ctx, unit); err != nil {
			return err
		}
	}
	return a.sys.Reload(ctx)
}

// removeImage takes away what the app is attached under.
func (a *app) removeImage() error {
	for _, name := range []string{a.portableLink(), a.attached()} {
		err := removeIfThere(name)
		if err == nil {
			err = syncPath(filepath.Dir(name))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
