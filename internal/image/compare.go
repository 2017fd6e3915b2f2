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

// Same reports of bytes [at, at+n) of two image files whether they are known to
// be equal. False says nothing.
type Same func(at, n int64) bool

// Compare finds what differs between two images: types, permission bits, link
// targets and content. Times and owners are the same in every image. Content
// that same knows, which may be nil, is not read.
func Compare(old, new *Image, same Same) (Diff, error) {
	if same == nil {
		same = func(int64, int64) bool { return false }
	}
	c := comparer{same: same}
	var d Diff
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
			same, err := c.sameEntry(a, b)
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

type comparer struct {
	same Same
	buf  pair
}

func (c *comparer) sameEntry(a, b *Entry) (bool, error) {
	if a.Mode != b.Mode || a.Size != b.Size || a.Target != b.Target {
		return false, nil
	}
	if a.Mode.Type() != 0 || a.Size == 0 {
		return true, nil
	}
	if c.known(a, b) {
		return true, nil
	}
	if len(a.extents) == 1 && len(b.extents) == 1 && a.Size >= bigFile {
		return c.sameExtents(a, b)
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
	return sameContent(ra, rb, &c.buf)
}

// known says whether two files lie at the same places of their images, in bytes
// that are known to be equal.
func (c *comparer) known(a, b *Entry) bool {
	return len(a.extents) > 0 && slices.Equal(a.extents, b.extents) &&
		!slices.ContainsFunc(a.extents, func(x extent) bool { return !c.same(x.at, x.size) })
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
func (c *comparer) sameExtents(a, b *Entry) (bool, error) {
	const piece = 1 << 20
	at, from := a.extents[0].at, b.extents[0].at
	var next atomic.Int64
	var differ atomic.Bool
	var g errgroup.Group
	for range min(runtime.GOMAXPROCS(0), 4) {
		g.Go(func() error {
			var buf pair
			for !differ.Load() {
				off := next.Add(piece) - piece
				if off >= a.Size {
					return nil
				}
				n := min(piece, a.Size-off)
				if at == from && c.same(at+off, n) {
					continue
				}
				same, err := sameContent(io.NewSectionReader(a.image, at+off, n), io.NewSectionReader(b.image, from+off, n), &buf)
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
