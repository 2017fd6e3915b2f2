package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Diff is what differs between two images, as sorted paths without a leading
// slash. A folder ends in "/" and is listed only for itself (its mode, or that
// it came or went), not for what is below.
type Diff struct {
	Added, Removed, Changed []string
}

// Empty says that the images hold the same.
func (d Diff) Empty() bool { return len(d.Added)+len(d.Removed)+len(d.Changed) == 0 }

// Compare finds what differs between two images: types, permission bits, link
// targets and content. Times and owners are the same in every image.
func Compare(old, new *Image) (Diff, error) {
	var d Diff
	var buf pair
	was, is := old.tree.entries, new.tree.entries
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(is) == 0 || len(was) > 0 && was[0].Path < is[0].Path:
			d.Removed = append(d.Removed, was[0].diffName())
			was = was[1:]
		case len(was) == 0 || is[0].Path < was[0].Path:
			d.Added = append(d.Added, is[0].diffName())
			is = is[1:]
		default:
			a, b := was[0], is[0]
			was, is = was[1:], is[1:]
			if a.Mode.Type() != b.Mode.Type() {
				d.Removed = append(d.Removed, a.diffName())
				d.Added = append(d.Added, b.diffName())
				continue
			}
			same, err := sameEntry(a, b, &buf)
			if err != nil {
				return Diff{}, fmt.Errorf("compare images: %s: %w", b.Path, err)
			}
			if !same {
				d.Changed = append(d.Changed, b.diffName())
			}
		}
	}
	slices.Sort(d.Added) // "a/" sorts after "a-b", "a" before it
	slices.Sort(d.Removed)
	slices.Sort(d.Changed)
	return d, nil
}

func (e *Entry) diffName() string {
	if e.Mode.IsDir() {
		return e.Path + "/"
	}
	return e.Path
}

func sameEntry(a, b *Entry, buf *pair) (bool, error) {
	if a.Mode != b.Mode || a.Size != b.Size || a.Target != b.Target {
		return false, nil
	}
	if a.Mode.Type() != 0 || a.Size == 0 {
		return true, nil
	}
	if len(a.extents) == 1 && len(b.extents) == 1 && a.Size >= bigFile {
		return sameExtents(a, b)
	}
	ra, err := a.open()
	if err != nil {
		return false, err
	}
	defer ra.Close()
	rb, err := b.open()
	if err != nil {
		return false, err
	}
	defer rb.Close()
	return sameContent(ra, rb, buf)
}

// pair is two buffers. They are small enough to stay in the processor's cache,
// which makes this about twice as fast as with a megabyte each.
type pair struct{ a, b [128 << 10]byte }

func sameContent(a, b io.Reader, buf *pair) (bool, error) {
	for {
		n, errA := io.ReadFull(a, buf.a[:])
		m, errB := io.ReadFull(b, buf.b[:])
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if !bytes.Equal(buf.a[:n], buf.b[:m]) {
			return false, nil
		}
		if errA != nil || errB != nil {
			return true, nil
		}
	}
}

// sameExtents compares two big files straight in their images, with all
// processors.
func sameExtents(a, b *Entry) (bool, error) {
	const piece = 4 << 20
	var next atomic.Int64
	var differ atomic.Bool
	var g errgroup.Group
	for range min(runtime.GOMAXPROCS(0), 4) {
		g.Go(func() error {
			var buf pair
			for !differ.Load() {
				at := next.Add(piece) - piece
				if at >= a.Size {
					return nil
				}
				n := min(piece, a.Size-at)
				same, err := sameContent(io.NewSectionReader(a.image, a.extents[0].at+at, n), io.NewSectionReader(b.image, b.extents[0].at+at, n), &buf)
				if err != nil {
					return err
				}
				if !same {
					differ.Store(true)
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return !differ.Load(), err
}
