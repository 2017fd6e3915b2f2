package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// fault is why a release cannot be kept. It is an error, so that what systemd
// refuses and what a unit did wrong go the same way.
type fault struct {
	unit  string
	cause string
	log   []string
}

func (f *fault) Error() string { return f.cause }

// install brings the files of a target into place: everything up to, and not
// including, starting a unit. It may be interrupted at any point and repeated.
func (a *app) install(ctx context.Context, t target, p *Plan, rep *report) error {
	if err := a.stop(ctx, p.Vanished, graceful); err != nil {
		return err
	}
	if err := a.disable(ctx, slices.Concat(p.Vanished, p.Disable)); err != nil {
		return err
	}
	crashpoint("stopped")
	if err := a.switchTo(t, p); err != nil {
		return err
	}
	if err := a.swapTo(p.Swap, fetched); err != nil {
		return err
	}
	rep.phase("switch")
	if p.Attach {
		if err := a.sys.Attach(ctx, a.attached(), a.name, t.profile()); err != nil {
			return err
		}
		crashpoint("attached")
		rep.phase("attach")
	}
	if err := a.cleanUnits(ctx, p.Vanished); err != nil {
		return err
	}
	if err := a.writeDropIns(p.DropIns); err != nil {
		return err
	}
	crashpoint("drop-ins")
	if len(p.Enable) > 0 {
		if err := a.sys.Enable(ctx, p.Enable); err != nil {
			return err
		}
	}
	if p.Reload {
		if err := a.sys.Reload(ctx); err != nil {
			return err
		}
		crashpoint("reloaded")
		rep.phase("reload")
	}
	return a.verify(t)
}

// switchTo makes the image, and the file that says which release it is, those
// of the target.
func (a *app) switchTo(t target, p *Plan) error {
	env, err := readIfThere(a.place.env())
	if err != nil {
		return err
	}
	if want := t.envFile(); string(env) != string(want) {
		if err := writeSynced(a.place.env(), want); err != nil {
			return err
		}
	}
	crashpoint("env")
	if !p.Switch {
		return nil
	}
	if err := makeDir(filepath.Dir(a.attached()), 0o700); err != nil {
		return err
	}
	if err := linkOver(a.image(short(t.Release.Digest)), a.attached()); err != nil {
		return fmt.Errorf("switch %s: %w", a.attached(), err)
	}
	crashpoint("switched")
	return nil
}

func (a *app) disable(ctx context.Context, units []string) error {
	if len(units) == 0 {
		return nil
	}
	return a.sys.Disable(ctx, units)
}

// cleanUnits removes what is left of units that no image has any more.
func (a *app) cleanUnits(ctx context.Context, units []string) error {
	for _, name := range units {
		if err := a.removeUnit(name); err != nil {
			return err
		}
		// systemd would go on to list one that has failed.
		if !isTemplate(name) {
			if err := a.sys.ResetFailed(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeUnit removes a unit's files.
func (a *app) removeUnit(name string) error {
	// The folder with the sandbox after the unit file, and only if that is gone:
	// without it a unit could be started on the host's own root, and nobody would
	// find it any more.
	if err := removeIfThere(a.unit(name)); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(a.unitD(name)), a.removeDropIn(name))
}

func (a *app) removeDropIn(unit string) error {
	if err := removeIfThere(a.dropIn(unit)); err != nil {
		return err
	}
	// The folder may hold a person's own drop-ins.
	_ = os.Remove(filepath.Dir(a.dropIn(unit)))
	return nil
}

func (a *app) writeDropIns(files map[string]string) error {
	for unit, text := range files {
		name := a.dropIn(unit)
		if err := makeDir(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := writeSynced(name, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// syncUnits puts on disk what portabled and systemd wrote of a target's units,
// which they do not do themselves: a power cut would leave empty unit files, of
// which systemd thinks that they are masked.
func (a *app) syncUnits(t target) error {
	var names []string
	for _, u := range t.Units {
		files, err := filepath.Glob(filepath.Join(a.unitD(u.Name), "*.conf"))
		if err != nil {
			return err
		}
		names = append(append(names, a.unit(u.Name), a.unitD(u.Name)), files...)
	}
	for _, name := range names {
		if err := syncPath(name); err != nil {
			return err
		}
	}
	return a.syncFolders()
}

// syncFolders puts on disk which unit files there are and what is enabled.
func (a *app) syncFolders() error {
	names := []string{filepath.Join(a.root, attachedDir)}
	for _, suffix := range wantFolders {
		dirs, err := filepath.Glob(filepath.Join(a.root, unitDir, "*"+suffix))
		if err != nil {
			return err
		}
		names = append(names, dirs...)
	}
	for _, name := range append(names, filepath.Join(a.root, unitDir)) {
		if err := syncPath(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// run starts and restarts what a plan names, and judges the release by it.
func (a *app) run(ctx context.Context, t target, p *Plan, rep *report, hurry time.Duration) error {
	// Before any socket is opened: it closes again while its service is still
	// one that was started too often.
	for _, unit := range slices.Concat(p.Restart, p.Nudge, p.Sockets) {
		if err := a.sys.ResetFailed(ctx, unit); err != nil {
			return err
		}
	}
	// The sockets first: as long as one is open, a visitor has its service started.
	for _, units := range [][]string{p.Sockets, p.Release} {
		if err := a.stop(ctx, units, hurry); err != nil {
			return err
		}
	}
	limit := deadlineOf(t.Release.Settings.Health)
	for _, socket := range p.Sockets {
		if _, err := a.restartAll(ctx, []string{socket}, limit, hurry); err != nil {
			return err
		}
	}
	crashpoint("sockets")
	a.nudge(ctx, p.Nudge)
	counts, err := a.restartAll(ctx, p.Restart, limit, hurry)
	if err != nil {
		return err
	}
	crashpoint("restarted")
	rep.phase("restart")
	if err := a.settle(ctx, t, p, max(limit-time.Since(counts), limit/2)); err != nil {
		return err
	}
	rep.phase("health")
	return nil
}

func (a *app) nudge(ctx context.Context, units []string) {
	for _, unit := range units {
		// That it does not come up is not this release's fault: see Plan.Nudge.
		_, _ = a.sys.Queue(ctx, Start, unit)
	}
}

// checkProfile refuses a profile that the host does not have: portabled would
// attach without one, and the services would run unconfined.
func (a *app) checkProfile(ctx context.Context, profile string) error {
	have, err := a.sys.Profiles(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(have, profile) {
		return hint.Errorf(fmt.Sprintf("use one of %v", have), "this host has no portable profile %q", profile)
	}
	return nil
}

// failure describes err for the client.
func failure(err error) *protocol.Failure {
	var f *fault
	if errors.As(err, &f) {
		return &protocol.Failure{Unit: f.unit, Cause: f.cause, Log: f.log}
	}
	return &protocol.Failure{Cause: err.Error()}
}
