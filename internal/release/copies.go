package release

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"devbox/internal/protocol"
)

// fileCopy is a file or a symbolic link of an app's units, as the journal keeps it.
type fileCopy struct {
	Path string `json:"path"`           // below the root
	Data []byte `json:"data,omitempty"` // of a file
	Link string `json:"link,omitempty"` // where a link leads
}

// wantFolders are the suffixes of folders that hold the links of enabled units.
var wantFolders = []string{".wants", ".requires", ".upholds"}

// remember puts into a journal what the host has of the app's units before they
// become those of t.
func (a *app) remember(j *journal, t target) error {
	set, err := a.attachedUnits()
	if err != nil {
		return err
	}
	j.Files = []fileCopy{}
	add := func(name string) error {
		f, err := a.copyOf(name)
		if err == nil && f != nil {
			j.Files = append(j.Files, *f)
		}
		return err
	}
	for _, unit := range slices.Sorted(maps.Keys(set)) {
		// The unit last: it is not to come back without its sandbox.
		names, err := namesIn(a.unitD(unit))
		if err != nil {
			return err
		}
		for _, name := range append(names, a.dropIn(unit), a.unit(unit)) {
			if err := add(name); err != nil {
				return err
			}
		}
	}
	links, err := a.linksTo(set)
	if err != nil {
		return err
	}
	for _, link := range links {
		if err := add(link); err != nil {
			return err
		}
	}
	for _, u := range t.Units {
		if !set[u.Name] {
			j.Added = append(j.Added, u.Name)
		}
	}
	return nil
}

// copyOf reads a file or link; nil if there is none.
func (a *app) copyOf(name string) (*fileCopy, error) {
	inside, err := filepath.Rel(a.root, name)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f := &fileCopy{Path: inside}
	switch {
	case info.Mode().IsRegular():
		f.Data, err = os.ReadFile(name)
	case info.Mode()&fs.ModeSymlink != 0:
		f.Link, err = os.Readlink(name)
	default:
		return nil, nil // not portabled's
	}
	return f, err
}

// added are the units that only the interrupted activation has brought. Of one
// that portabled was just writing, the marker that tells whose it is may be empty.
func (a *app) added(j *journal) ([]string, error) {
	var units []string
	for _, unit := range j.Added {
		if protocol.ValidUnit(a.name, unit) != nil {
			continue
		}
		from, err := a.markerPath(unit)
		if err != nil {
			return nil, err
		}
		if from == "" || from == a.attached() {
			units = append(units, unit)
		}
	}
	return units, nil
}

// putFilesBack makes what the host has of the app's units what the journal has,
// on disk, and returns the units of before and after. A unit file that was there
// before is never missing meanwhile.
func (a *app) putFilesBack(j *journal) (map[string]bool, error) {
	units, err := a.attachedUnits()
	if err != nil {
		return nil, err
	}
	added, err := a.added(j)
	if err != nil {
		return nil, err
	}
	for _, unit := range added {
		units[unit] = true
	}
	kept := map[string]bool{}
	for _, f := range j.Files {
		if err := a.putBack(f); err != nil {
			return nil, err
		}
		name := filepath.Join(a.root, f.Path)
		kept[name] = true
		if filepath.Dir(name) == filepath.Join(a.root, attachedDir) {
			units[filepath.Base(name)] = true
		}
	}
	crashpoint("boot-back")
	return units, a.removeOthers(units, kept)
}

// putBack writes one file or link, unless it is as it should be.
func (a *app) putBack(f fileCopy) error {
	name := filepath.Join(a.root, f.Path)
	is, err := a.copyOf(name)
	if err != nil {
		return err
	}
	if is == nil || is.Link != f.Link || string(is.Data) != string(f.Data) {
		if err := makeDir(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if f.Link != "" {
			err = replaceLink(f.Link, name)
		} else {
			err = replaceFile(name, f.Data)
		}
		if err != nil {
			return err
		}
	} else if f.Link == "" {
		// It may be no more than in memory.
		if err := syncPath(name); err != nil {
			return err
		}
	}
	return syncPath(filepath.Dir(name))
}

// removeOthers removes what there is of units beside what is kept.
func (a *app) removeOthers(units, kept map[string]bool) error {
	links, err := a.linksTo(units)
	if err != nil {
		return err
	}
	for _, link := range links {
		if !kept[link] {
			if err := removeLink(link); err != nil {
				return err
			}
		}
	}
	for unit := range units {
		if !kept[a.unit(unit)] {
			if err := a.removeUnit(unit); err != nil {
				return err
			}
			continue
		}
		names, err := namesIn(a.unitD(unit))
		if err != nil {
			return err
		}
		for _, name := range names {
			if !kept[name] {
				if err := os.RemoveAll(name); err != nil {
					return err
				}
			}
		}
		if !kept[a.dropIn(unit)] {
			if err := a.removeDropIn(unit); err != nil {
				return err
			}
		}
		if err := syncPath(a.unitD(unit)); err != nil {
			return err
		}
	}
	return a.syncFolders()
}

// linksTo finds the links by which units are enabled.
func (a *app) linksTo(units map[string]bool) ([]string, error) {
	names, err := namesIn(filepath.Join(a.root, unitDir))
	if err != nil {
		return nil, err
	}
	for _, dir := range slices.Clone(names) {
		if !slices.Contains(wantFolders, filepath.Ext(dir)) {
			continue
		}
		inside, err := namesIn(dir)
		if err != nil {
			return nil, err
		}
		names = append(names, inside...)
	}
	var links []string
	for _, name := range names {
		to, err := os.Readlink(name)
		if err != nil {
			continue // no link, or gone by now
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(name), to)
		} else {
			to = filepath.Join(a.root, to)
		}
		if filepath.Dir(to) == filepath.Join(a.root, attachedDir) && units[filepath.Base(to)] {
			links = append(links, name)
		}
	}
	return links, nil
}

// namesIn lists the paths of what is in a folder, none if there is no such folder.
func namesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, filepath.Join(dir, e.Name()))
	}
	return names, nil
}
