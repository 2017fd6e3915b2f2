package release

import (
	"context"
	"errors"
	"os"
	"slices"
)

// Forget takes an app off this host: its units are stopped, disabled and
// detached, and all that devbox keeps of it is deleted. What the app itself
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
	if err := a.dismantle(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	return os.RemoveAll(a.dir())
}

// dismantle stops and detaches all units of the app. It never asks portabled to
// clean: that would delete the app's own data.
func (a *app) dismantle(ctx context.Context) error {
	set, err := a.attachedUnits()
	if err != nil {
		return err
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
	var detached error
	if len(units) > 0 {
		detached = a.sys.Detach(ctx, a.attached())
	}
	// portabled gives up at a file that it does not know, as it leaves them
	// itself when it is killed (seen with systemd 257).
	if err := a.cleanUnits(ctx, units); err != nil {
		return errors.Join(detached, err)
	}
	if err := removeIfThere(a.attached()); err != nil {
		return err
	}
	for _, unit := range running {
		if err := a.sys.ResetFailed(ctx, unit); err != nil {
			return err
		}
	}
	return a.sys.Reload(ctx)
}
