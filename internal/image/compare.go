package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
)

// Diff is what differs between two images, as sorted paths without a leading
// slash. A folder ends in "/" and is listed only for itself (its mode, or a
// folder that came or went), not for what is below.
type Diff struct {
	Added, Removed, Changed []string
}

// Empty says that the images hold the same.
func (d Diff) Empty() bool { return len(d.Added)+len(d.Removed)+len(d.Changed) == 0 }

// Compare finds what differs between two images: types, permission bits, link
// targets and content. Times and owners are the same in every image.
func Compare(old, new *Image) (Diff, error) {
	var d Diff
	err := compareDirs(old.fsys, new.fsys, ".", &d)
	if err != nil {
		return Diff{}, fmt.Errorf("compare images: %w", err)
	}
	slices.Sort(d.Added)
	slices.Sort(d.Removed)
	slices.Sort(d.Changed)
	return d, nil
}

func compareDirs(old, new fs.FS, dir string, d *Diff) error {
	was, err := fs.ReadDir(old, dir)
	if err != nil {
		return err
	}
	is, err := fs.ReadDir(new, dir)
	if err != nil {
		return err
	}
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(is) == 0 || len(was) > 0 && was[0].Name() < is[0].Name():
			if err := listAll(old, path.Join(dir, was[0].Name()), was[0], &d.Removed); err != nil {
				return err
			}
			was = was[1:]
		case len(was) == 0 || is[0].Name() < was[0].Name():
			if err := listAll(new, path.Join(dir, is[0].Name()), is[0], &d.Added); err != nil {
				return err
			}
			is = is[1:]
		default:
			if err := compareEntries(old, new, path.Join(dir, is[0].Name()), was[0], is[0], d); err != nil {
				return err
			}
			was, is = was[1:], is[1:]
		}
	}
	return nil
}

func listAll(fsys fs.FS, name string, e fs.DirEntry, list *[]string) error {
	if !e.IsDir() {
		*list = append(*list, name)
		return nil
	}
	*list = append(*list, name+"/")
	entries, err := fs.ReadDir(fsys, name)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := listAll(fsys, path.Join(name, e.Name()), e, list); err != nil {
			return err
		}
	}
	return nil
}

func compareEntries(old, new fs.FS, name string, was, is fs.DirEntry, d *Diff) error {
	if was.Type() != is.Type() {
		if err := listAll(old, name, was, &d.Removed); err != nil {
			return err
		}
		return listAll(new, name, is, &d.Added)
	}
	a, err := was.Info()
	if err != nil {
		return err
	}
	b, err := is.Info()
	if err != nil {
		return err
	}
	if is.IsDir() {
		if a.Mode() != b.Mode() {
			d.Changed = append(d.Changed, name+"/")
		}
		return compareDirs(old, new, name, d)
	}
	same := a.Mode() == b.Mode() && a.Size() == b.Size()
	if same {
		switch is.Type() {
		case fs.ModeSymlink:
			same, err = sameLink(old, new, name)
		case 0:
			same, err = sameContent(old, new, name)
		}
		if err != nil {
			return err
		}
	}
	if !same {
		d.Changed = append(d.Changed, name)
	}
	return nil
}

func sameLink(old, new fs.FS, name string) (bool, error) {
	a, err := fs.ReadLink(old, name)
	if err != nil {
		return false, err
	}
	b, err := fs.ReadLink(new, name)
	return a == b, err
}

func sameContent(old, new fs.FS, name string) (bool, error) {
	a, err := old.Open(name)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := new.Open(name)
	if err != nil {
		return false, err
	}
	defer b.Close()
	return sameReaders(a, b)
}

func sameReaders(a, b io.Reader) (bool, error) {
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if errA != nil || errB != nil {
			return (errA == nil) == (errB == nil), nil
		}
	}
}
