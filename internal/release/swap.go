package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// swap is an app's data that changes places with a copy of a snapshot: each state
// folder with one rename. Which of the two is in place shows by its inode, so a
// swap can be done or undone however much of it has been done, from the journal
// and the disk alone.
//
// A service that runs goes on with the folder that it was started with, which it
// has mounted, until it ends; so all are restarted after a swap, and each start
// finds wholly the one or wholly the other. What the old ones write until
// then is in what is put aside.
type swap struct {
	Dirs []swapped `json:"dirs"`
}

type swapped struct {
	Dir string `json:"dir"` // below /var/lib
	Was uint64 `json:"was"` // inode of the folder that is put aside
	New uint64 `json:"new"` // inode of the one that takes its place
}

const (
	// asideSnapshot is what the copy is called that takes the data's place, and
	// then what has been put aside, until the activation has ended.
	asideSnapshot = ".aside"
	// fetchTime is how long it may take to copy a snapshot; the app runs meanwhile.
	fetchTime = 10 * time.Minute
)

// wantData finds the snapshot of the data that a release ran on last, and refuses
// while nothing has been touched if there is none, or it cannot be brought back.
func (act *activation) wantData(of string) error {
	cur := act.state.Current
	if cur == nil {
		return noRelease(fmt.Errorf("nothing of %s runs whose data could give way", act.name))
	}
	all, err := act.allSnapshots()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(s snapshot) bool { return s.Of == of })
	if at < 0 {
		var have []string
		for _, s := range all {
			if !slices.Contains(have, s.Of) {
				have = append(have, s.Of)
			}
		}
		text := "there is none at all"
		if len(have) > 0 {
			text = "there is of " + strings.Join(have, ", ")
		}
		return &CodedError{protocol.CodeNoRelease, hint.Errorf("roll back without --with-data, or to another release: `devbox releases` lists the snapshots",
			"there is no snapshot of the data that %s ran on; %s", of, text)}
	}
	back := all[at]
	live, err := act.stateDirs()
	if err != nil {
		return err
	}
	for _, dir := range back.Dirs {
		if is, err := act.dirOf(strings.TrimPrefix(dir, "private/")); err != nil {
			return err
		} else if is != "" && is != dir {
			return hint.Errorf("roll back without --with-data", "the data of %s was in /%s/%s, and is in /%s/%s now", of, dataDir, dir, dataDir, is)
		}
	}
	dirs := outermost(append(slices.Clone(back.Dirs), live...))
	for _, dir := range slices.Concat(back.Dirs, live) {
		if !slices.Contains(dirs, dir) {
			return hint.Errorf("roll back without --with-data", "the data of %s is in other folders than now: /%s/%s", of, dataDir, dir)
		}
	}
	act.back = &back
	act.snap = &snapshot{Before: act.to.Release.ID, Of: cur.ID, Digest: cur.Digest, Dirs: dirs}
	act.to.Release.Data = back.At
	if err := act.sameDevice(live); err != nil {
		return err
	}
	return act.roomFor(act.snapshot(back.Before), back.Dirs, "free some space on the host")
}

// sameDevice refuses data that cannot be renamed to where snapshots are.
func (a *app) sameDevice(dirs []string) error {
	var here unix.Stat_t
	if err := unix.Stat(a.dir(), &here); err != nil {
		return err
	}
	for _, dir := range dirs {
		var st unix.Stat_t
		if err := unix.Lstat(a.stored(dir), &st); err != nil {
			return err
		}
		if st.Dev != here.Dev {
			return hint.Errorf("bring it back by hand: docs/host.md has how", "/%s/%s is on another file system than %s, so the two cannot change places", dataDir, dir, a.snapshots())
		}
	}
	return nil
}

// fetchData copies the snapshot that is to come back to where its folders change
// places with the app's. The app runs meanwhile, and the snapshot stays.
func (act *activation) fetchData(ctx context.Context) (*swap, error) {
	if act.back == nil {
		return nil, nil
	}
	aside := act.snapshot(asideSnapshot)
	if err := act.stopCopy(ctx); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(aside); err != nil {
		return nil, err
	}
	s, err := act.fetch(ctx, aside)
	if err != nil {
		return nil, errors.Join(hint.Wrap(fmt.Errorf("copy the snapshot of the data: %w", err), "nothing was changed; try again"), os.RemoveAll(aside))
	}
	crashpoint("fetched")
	act.rep.phase("fetch")
	return s, nil
}

func (act *activation) fetch(ctx context.Context, aside string) (*swap, error) {
	var copies [][2]string
	for _, dir := range act.snap.Dirs {
		to := filepath.Join(aside, dir)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return nil, err
		}
		from := filepath.Join(act.snapshot(act.back.Before), dir)
		if slices.Contains(act.back.Dirs, dir) {
			copies = append(copies, [2]string{from, to})
		} else if err := emptyLike(act.stored(dir), to); err != nil {
			return nil, err
		}
	}
	if err := act.sys.Copy(ctx, Copy{Unit: act.copyUnit(), Dirs: copies, Limit: fetchTime}); err != nil {
		return nil, err
	}
	if err := canExchange(aside); err != nil {
		return nil, err
	}
	act.snap.At = time.Now().UTC().Truncate(time.Second)
	if err := writeJSON(filepath.Join(aside, snapshotFile), act.snap); err != nil {
		return nil, err
	}
	s := &swap{}
	for _, dir := range act.snap.Dirs {
		// Where the app has none now there is one to change places with. That it is
		// made comes after all that may well fail.
		if err := emptyLike(filepath.Join(aside, dir), act.stored(dir)); err != nil {
			return nil, err
		}
		was, err := inode(act.stored(dir))
		if err != nil {
			return nil, err
		}
		is, err := inode(filepath.Join(aside, dir))
		if err != nil {
			return nil, err
		}
		s.Dirs = append(s.Dirs, swapped{Dir: dir, Was: was, New: is})
	}
	return s, syncAll(aside)
}

// emptyLike makes a folder with the owner and mode of another, unless there is one.
func emptyLike(like, dir string) error {
	info, err := os.Stat(like)
	if err != nil {
		return err
	}
	if err := makeDir(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s has no owner", like)
	}
	return errors.Join(os.Chown(dir, int(st.Uid), int(st.Gid)), os.Chmod(dir, info.Mode().Perm()))
}

// canExchange tries on two folders what is to be done with the data.
func canExchange(dir string) error {
	a, b := filepath.Join(dir, ".a"), filepath.Join(dir, ".b")
	err := errors.Join(os.Mkdir(a, 0o700), os.Mkdir(b, 0o700))
	if err == nil {
		err = exchange(a, b)
	}
	return errors.Join(err, os.Remove(a), os.Remove(b))
}

func exchange(a, b string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("exchange %s and %s: %w", a, b, err)
	}
	return nil
}

func inode(name string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return 0, fmt.Errorf("look at %s: %w", name, err)
	}
	return st.Ino, nil
}

// Which of the two folders of a swap is to be in place.
type side func(swapped) uint64

func fetched(d swapped) uint64 { return d.New }
func before(d swapped) uint64  { return d.Was }

// swapTo has the folders of one side of a swap in place, on disk, whatever is
// there now. A nil swap has none.
func (a *app) swapTo(s *swap, want side) error {
	if s == nil {
		return nil
	}
	for _, d := range s.Dirs {
		live, aside := a.stored(d.Dir), filepath.Join(a.snapshot(asideSnapshot), d.Dir)
		is, err := inode(live)
		if err != nil {
			return err
		}
		switch is {
		case want(d):
		case d.Was, d.New:
			if err := exchange(live, aside); err != nil {
				return err
			}
		default:
			return hint.Errorf("find out what has put it there; the data of before is in "+aside,
				"%s is neither the folder that was there nor the one that was to take its place", live)
		}
		crashpoint("swapping")
		// Also if it was in place: it may be no more than in memory.
		if err := syncPath(filepath.Dir(live)); err != nil {
			return err
		}
		// It may have become a snapshot already.
		if err := syncPath(filepath.Dir(aside)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	crashpoint("swapped")
	return nil
}

// endSwap ends the swap of an activation that has ended: what is aside then
// becomes a snapshot. It is what was there before, or, if the release was not kept,
// what that one has written while it was on trial: nothing that an app has stored is
// deleted here, and a process may be left that still writes.
func (a *app) endSwap(s *swap, to protocol.Release) error {
	if s == nil {
		return nil
	}
	aside := a.snapshot(asideSnapshot)
	if to.Outcome != protocol.Committed {
		if err := a.swapTo(s, before); err != nil {
			return err
		}
		file := filepath.Join(aside, snapshotFile)
		var is snapshot
		if there, err := readJSON(file, &is); err != nil {
			return err
		} else if there {
			is.Of, is.Digest, is.At = to.ID, to.Digest, time.Now().UTC().Truncate(time.Second)
			if err := writeJSON(file, is); err != nil {
				return err
			}
		}
	}
	if _, err := os.Lstat(aside); err == nil {
		if err := os.Rename(aside, a.snapshot(to.ID)); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err // where there is none, this has been done already
	}
	crashpoint("put-aside")
	return syncPath(a.snapshots())
}
