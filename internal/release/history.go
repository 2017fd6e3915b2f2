package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// maxHistory is how many releases are remembered, and listed.
const maxHistory = 200

// Releases lists the history of an app, newest first.
func (h *Host) Releases(_ context.Context, name string) ([]protocol.Release, error) {
	a, err := h.open(name)
	if err != nil {
		return nil, err
	}
	st, err := a.readState()
	if err != nil {
		return nil, err
	}
	all, err := a.history(st)
	if err != nil {
		return nil, err
	}
	all = all[:min(len(all), maxHistory)]
	snapshots, err := a.allSnapshots()
	if err != nil {
		return nil, err
	}
	for i, r := range all {
		if at := slices.IndexFunc(snapshots, func(s snapshot) bool { return s.Of == r.ID }); at >= 0 {
			all[i].Snapshot = snapshots[at].At
		}
		if protocol.ValidDigest(r.Digest) != nil {
			continue // its record cannot be read
		}
		_, err := os.Stat(a.image(short(r.Digest)))
		all[i].Gone = errors.Is(err, fs.ErrNotExist)
	}
	return all, nil
}

func (a *app) record(id string) string { return filepath.Join(a.releases(), id+".json") }

// addHistory records how a release ended.
func (a *app) addHistory(r protocol.Release) error {
	if err := os.MkdirAll(a.releases(), 0o755); err != nil {
		return err
	}
	return writeJSON(a.record(r.ID), r)
}

// history reads what is recorded, newest first. The running release and the one
// before are part of it also where their record is missing, as it is for a
// moment after the first is committed. A record that cannot be read is told of
// as a release that never was committed: it must not hide the others.
func (a *app) history(st state) ([]protocol.Release, error) {
	entries, err := os.ReadDir(a.releases())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := []protocol.Release{}
	for _, r := range []*protocol.Release{st.Current, st.Previous} {
		if r != nil {
			all = append(all, *r)
		}
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || number(id) == 0 || slices.ContainsFunc(all, func(r protocol.Release) bool { return r.ID == id }) {
			continue
		}
		var r protocol.Release
		if there, err := readJSON(a.record(id), &r); err != nil || r.ID != id {
			r = protocol.Release{ID: id, Cause: "its record cannot be read"}
		} else if !there {
			continue // it has just been deleted
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(x, y protocol.Release) int { return number(y.ID) - number(x.ID) })
	return all, nil
}

// keepers are the releases whose images stay, to go back to: the running one,
// the one before it, and of the other images the newest committed releases,
// st.Keep in all.
func (st state) keepers(history []protocol.Release) []protocol.Release {
	var all []protocol.Release
	add := func(r protocol.Release) {
		if !slices.ContainsFunc(all, func(k protocol.Release) bool { return k.Digest == r.Digest }) {
			all = append(all, r)
		}
	}
	for _, r := range []*protocol.Release{st.Current, st.Previous} {
		if r != nil {
			add(*r)
		}
	}
	for _, r := range history {
		if len(all) >= st.Keep {
			break
		}
		if r.Outcome == protocol.Committed {
			add(r)
		}
	}
	return all
}

// forgetOld deletes the records of long ago, but not those of the releases that
// one can go back to.
func (a *app) forgetOld(history, keepers []protocol.Release) error {
	var errs []error
	for _, r := range history[min(len(history), maxHistory):] {
		if !slices.ContainsFunc(keepers, func(k protocol.Release) bool { return k.ID == r.ID }) {
			errs = append(errs, removeIfThere(a.record(r.ID)))
		}
	}
	return errors.Join(errs...)
}

// requested is the release that a request asks for: one of the image that was
// sent, or one of the history over again, with all that it ran with.
func (a *app) requested(req protocol.Activate, st state) (protocol.Release, error) {
	if req.Release == "" {
		return protocol.Release{Digest: req.Digest, Settings: req.Settings, Source: req.Source, Signature: req.Signature}, nil
	}
	old, err := a.lookUp(req.Release, st)
	if err != nil {
		return old, err
	}
	return protocol.Release{Digest: old.Digest, Settings: old.Settings, Source: old.Source, Signature: old.Signature, Of: old.ID}, nil
}

// lookUp finds a release that was committed.
func (a *app) lookUp(id string, st state) (protocol.Release, error) {
	none := protocol.Release{}
	if id == protocol.Previous {
		if st.Previous == nil {
			return none, noRelease(fmt.Errorf("no release of %s ran before the one that runs", a.name))
		}
		return *st.Previous, nil
	}
	history, err := a.history(st)
	if err != nil {
		return none, err
	}
	at := slices.IndexFunc(history, func(r protocol.Release) bool { return r.ID == id })
	if at < 0 {
		return none, noRelease(fmt.Errorf("%s has no release %s, or it was long ago", a.name, id))
	}
	if r := history[at]; r.Outcome != protocol.Committed {
		return none, noRelease(fmt.Errorf("%s was never kept: %s", id, cmp.Or(r.Cause, r.Outcome)))
	}
	return history[at], nil
}

// noRelease says that one cannot go back to a release.
func noRelease(err error) error {
	return hint.Wrap(&CodedError{protocol.CodeNoRelease, err}, "choose another one: `devbox releases` lists them")
}

// same says whether two releases are one and the same thing to run.
func same(a, b protocol.Release) bool {
	return a.Digest == b.Digest && reflect.DeepEqual(a.Settings, b.Settings)
}
