package image

import (
	"errors"
	"io"
	"io/fs"

	"github.com/erofs/go-erofs"
)

// extent is a piece of a file's content, as it stands in the image.
type extent struct{ at, size int64 }

// readErofs indexes an uncompressed erofs image.
func readErofs(img *Image) error {
	fsys, err := erofs.Open(img.file)
	if err != nil {
		return broken("read super block: %w", err)
	}
	x := &indexer{fsys: fsys, tree: img.tree, dirs: map[uint64]bool{}}
	x.entry = func(e *Entry, info fs.FileInfo) (uint64, error) {
		st, ok := info.Sys().(*erofs.Stat)
		if !ok {
			return 0, errors.New("go-erofs gives no inode")
		}
		return uint64(st.Ino), erofsEntry(img, fsys, e, info, st)
	}
	return x.dir(".")
}

func erofsEntry(img *Image, fsys fs.FS, e *Entry, info fs.FileInfo, st *erofs.Stat) error {
	// info.Mode() of go-erofs keeps the raw bits of the inode; Stat.Mode is
	// what fs.FileMode means.
	e.Mode = st.Mode
	if info.Mode().Type() != e.Mode.Type() {
		return broken("%q has two types", e.Path)
	}
	switch e.Mode.Type() {
	case fs.ModeDir:
		return nil
	case fs.ModeSymlink:
		target, err := fs.ReadLink(fsys, e.Path)
		if err != nil {
			return broken("read link %q: %w", e.Path, err)
		}
		e.Target = target
		return nil
	case 0:
	default:
		return broken("%q is a %s", e.Path, kind(e.Mode.Type()))
	}
	e.Size = st.Size
	if e.Size == 0 {
		return nil
	}
	if st.InodeLayout != erofsPlain && st.InodeLayout != erofsInline {
		return broken("%q is compressed or in chunks, which devbox does not pack", e.Path)
	}
	ranges, ok := info.(interface{ DataRange() []erofs.DataRange })
	if !ok {
		return errors.New("go-erofs gives no data ranges")
	}
	var sum int64
	for _, r := range ranges.DataRange() {
		if r.Offset < 0 || r.Size <= 0 || r.Size > img.Size || r.Offset > img.Size-r.Size {
			return broken("the content of %q is not inside the image", e.Path)
		}
		e.extents = append(e.extents, extent{r.Offset, r.Size})
		sum += r.Size
	}
	if sum != e.Size {
		return broken("%q has %d bytes of content and says %d", e.Path, sum, e.Size)
	}
	e.image = img.file
	return nil
}

// openExtents reads a file's content straight from the image.
func (e *Entry) openExtents() io.ReadCloser {
	if len(e.extents) == 1 {
		return io.NopCloser(io.NewSectionReader(e.image, e.extents[0].at, e.extents[0].size))
	}
	var parts []io.Reader
	for _, x := range e.extents {
		parts = append(parts, io.NewSectionReader(e.image, x.at, x.size))
	}
	return io.NopCloser(io.MultiReader(parts...))
}

func endOfDir(dir string, err error) error {
	if err == nil || err == io.EOF {
		return nil
	}
	return broken("read folder %q: %w", dir, err)
}
