package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// snapshot is a copy of what an app has stored, as it was before an activation.
// It is a folder of that activation's name: with what the app keeps below
// /var/lib in it, at the same paths, and this, as snapshot.json.
type snapshot struct {
	Before string    `json:"before"` // id of the release whose activation came next
	Of     string    `json:"of"`     // id of the release that had run on it
	Digest string    `json:"digest"` // of that one's image
	At     time.Time `json:"at"`
	Dirs   []string  `json:"dirs"` // below /var/lib
}

const (
	snapshotFile = "snapshot.json"
	// newSnapshot is what one is called that is being made.
	newSnapshot = ".new"
	// copyTime is how long an app may wait for the copy of its data.
	copyTime = 15 * time.Second
	// noSnapshot is how to do without one that cannot be made; see wantSnapshot.
	noSnapshot = "take `snapshot` out of devbox.yaml and deploy that"
)

// stateDirs are the folders that an app keeps below /var/lib by StateDirectory= of
// its units, of those that run and of those to come, as far as they are there. One
// below another is part of that. A name that is only known once the service is
// started is refused of what is to come: of what runs nobody can change it any more.
func (act *activation) stateDirs() ([]string, error) {
	var dirs []string
	for i, u := range slices.Concat(act.was.Units, act.to.Units) {
		for _, word := range u.Words("Service", "StateDirectory") {
			name, _, _ := strings.Cut(word, ":") // NAME:LINK
			if strings.Contains(name, "%") || !filepath.IsLocal(name) {
				if i < len(act.was.Units) {
					continue
				}
				return nil, hint.Errorf("write the folder's name out in StateDirectory=, or "+noSnapshot,
					"%s keeps its data in %q, which is not known before it is started", u.Name, name)
			}
			dir, err := act.dirOf(name)
			if err != nil {
				return nil, err
			}
			if dir != "" {
				dirs = append(dirs, dir)
			}
		}
	}
	return outermost(dirs), nil
}

// outermost are the folders that are in none of the others, sorted.
func outermost(dirs []string) []string {
	dirs = slices.Compact(slices.Sorted(slices.Values(dirs)))
	return slices.DeleteFunc(slices.Clone(dirs), func(dir string) bool {
		return slices.ContainsFunc(dirs, func(above string) bool { return strings.HasPrefix(dir, above+"/") })
	})
}

// dirOf finds the state folder of that name: that of a dynamic user is below
// private, and a link leads there. It is "" if there is none yet.
func (a *app) dirOf(name string) (string, error) {
	for _, dir := range []string{filepath.Join("private", name), name} {
		path := a.stored(dir)
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			continue
		case err != nil:
			return "", err
		case info.IsDir():
			return dir, nil
		}
		// The link that systemd has made stays when the folder is taken away.
		if to, err := os.Readlink(path); err != nil || filepath.Join(filepath.Dir(path), to) != a.stored(filepath.Join("private", name)) {
			return "", hint.Errorf("put the folder itself there, or "+noSnapshot, "/%s/%s is no folder, so what is stored there cannot be copied", dataDir, dir)
		}
	}
	return "", nil
}

// foresee settles what becomes of the data, and what a release that comes back
// finds of it.
func (act *activation) foresee(ctx context.Context, req protocol.Activate) error {
	cur, of := act.state.Current, act.to.Release.Of
	switch {
	case req.WithData:
		return act.wantData(of)
	case act.same:
		return nil
	case cur != nil && of != "":
		old, err := act.lookUp(of, act.state)
		if err != nil {
			return err
		}
		act.finds = act.migration(ctx, old, *cur)
	}
	return act.wantSnapshot()
}

// wantSnapshot decides whether a snapshot is made before an activation, and
// refuses it while nothing has been touched if none could be, or none before the
// next one. The settings that a person has now say whether: those that are deployed,
// or that run when a release comes back. So there is a way on without one.
func (act *activation) wantSnapshot() error {
	cur, now := act.state.Current, act.to.Release.Settings
	if cur != nil && act.to.Release.Of != "" {
		now = cur.Settings
	}
	if now.State.Snapshot != protocol.BeforeActivate {
		return nil
	}
	dirs, err := act.stateDirs()
	if err != nil || cur == nil || len(dirs) == 0 {
		return err
	}
	if err := act.roomFor(filepath.Join(act.root, dataDir), dirs, "free some space on the host, or "+noSnapshot); err != nil {
		return err
	}
	act.snap = &snapshot{Before: act.to.Release.ID, Of: cur.ID, Digest: cur.Digest, Dirs: dirs}
	return nil
}

// roomFor refuses data that does not fit on the disk once more: dirs below base.
// cure is what can be done about that.
func (a *app) roomFor(base string, dirs []string, cure string) error {
	var need int64
	for _, dir := range dirs {
		n, err := sizeOf(filepath.Join(base, dir))
		if err != nil {
			return err
		}
		need += n
	}
	free, err := freeSpace(a.dir())
	if err != nil {
		return err
	}
	if free < need+margin {
		return hint.Errorf(cure,
			"not enough space in %s for a copy of the data: it has %d MB, %d MB are free", a.snapshots(), (need+1<<20-1)>>20, free>>20)
	}
	return nil
}

// sizeOf is what a folder takes on the disk, bytes. Files may come and go
// meanwhile.
func sizeOf(dir string) (int64, error) {
	var top unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		return 0, fmt.Errorf("look at %s: %w", dir, err)
	}
	var size int64
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case st.Dev != top.Dev:
			return hint.Errorf("unmount it, or "+noSnapshot, "%s is a file system of its own, which cannot be copied with the rest", path)
		}
		size += st.Blocks * 512
		return nil
	})
	return size, err
}

// takeSnapshot makes the snapshot that is wanted, if one is. The app's services wait
// while it is copied, and no longer: that it reaches the disk they need not wait for.
func (act *activation) takeSnapshot(ctx context.Context) error {
	if act.snap == nil || act.back != nil {
		return nil
	}
	limit := copyTime
	var running []string
	for name, st := range act.seen.states() {
		if !st.up() || st.Sub == "exited" || !strings.HasSuffix(name, ".service") {
			continue
		}
		running = append(running, name)
		if st.Watchdog > 0 { // which goes on while it waits, half of it may be over
			limit = min(limit, st.Watchdog/3)
		}
	}
	if len(running) == 0 {
		limit = fetchTime // nobody waits
	}
	slices.Sort(running)
	act.snap.At = time.Now().UTC().Truncate(time.Second)
	if err := act.stopCopy(ctx); err != nil {
		return err
	}
	err := act.copyData(*act.snap, func(dirs [][2]string) error {
		return act.sys.Copy(ctx, Copy{Unit: act.copyUnit(), Freeze: running, Dirs: dirs, Limit: limit})
	})
	if err != nil {
		return hint.Wrap(fmt.Errorf("copy the data as it is before the activation, within %s: %w", limit, err),
			"nothing was changed; try again, or "+noSnapshot)
	}
	act.rep.phase("snapshot")
	return nil
}

// copyUnit is the unit that copies data of the app. Only who has the app's lock
// starts it.
func (a *app) copyUnit() string { return "devbox-copy-" + a.name + ".service" }

// stopCopy ends what a devbox-host that was killed had begun: it would write to
// what is about to be made anew.
func (a *app) stopCopy(ctx context.Context) error {
	st, err := a.sys.Unit(ctx, a.copyUnit())
	if err != nil {
		return err
	}
	if !st.gone() { // what it has frozen goes on before it ends, which is not to be cut short
		if err := a.stop(ctx, []string{a.copyUnit()}, graceful); err != nil {
			return err
		}
	}
	return a.sys.ResetFailed(ctx, a.copyUnit())
}

// copyData makes a snapshot with what do copies. It has its name only once all of
// it is on disk.
func (a *app) copyData(s snapshot, do func(dirs [][2]string) error) error {
	temp := a.snapshot(newSnapshot)
	if err := errors.Join(makeDir(a.snapshots(), 0o700), os.RemoveAll(temp)); err != nil {
		return err
	}
	var dirs [][2]string
	for _, dir := range s.Dirs {
		to := filepath.Join(temp, dir)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		dirs = append(dirs, [2]string{a.stored(dir), to})
	}
	err := do(dirs)
	crashpoint("copied")
	if err == nil {
		err = writeJSON(filepath.Join(temp, snapshotFile), s)
	}
	if err == nil {
		err = syncAll(temp)
	}
	if err == nil {
		err = os.Rename(temp, a.snapshot(s.Before))
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	return syncPath(a.snapshots())
}

// syncAll puts the file system that a folder is on, and so all of the folder, on disk.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// allSnapshots lists the snapshots, newest first. What is none, or cannot be read,
// is not listed.
func (a *app) allSnapshots() ([]snapshot, error) {
	names, err := namesIn(a.snapshots())
	if err != nil {
		return nil, err
	}
	var all []snapshot
	for _, name := range names {
		var s snapshot
		if there, err := readJSON(filepath.Join(name, snapshotFile), &s); err == nil && there && filepath.Base(name) == s.Before {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(x, y snapshot) int { return number(y.Before) - number(x.Before) })
	return all, nil
}

// collectSnapshots deletes the snapshots that one cannot go back to any more, and
// what a killed process left of one. Of as many releases as keep their images the
// newest stays: many may be of one, before which none was kept. And of the others
// one, which may have what a release has written that was not kept.
func (a *app) collectSnapshots(st state, history []protocol.Release, images map[string]bool) error {
	all, err := a.allSnapshots()
	if err != nil {
		return err
	}
	errs := []error{os.RemoveAll(a.snapshot(newSnapshot)), os.RemoveAll(a.snapshot(asideSnapshot))}
	wanted := map[string]bool{} // releases that can come back and whose newest is yet to be found
	for _, r := range history {
		wanted[r.ID] = r.Outcome == protocol.Committed
	}
	kept, others := 0, 0
	for _, s := range all {
		switch there := images[short(s.Digest)]; {
		case there && wanted[s.Of] && kept < cmp.Or(st.Keep, keepImages):
			wanted[s.Of] = false
			kept++
		case there && others == 0:
			others++
		default:
			errs = append(errs, os.RemoveAll(a.snapshot(s.Before)))
		}
	}
	return errors.Join(errs...)
}
