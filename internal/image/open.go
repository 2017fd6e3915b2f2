package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"devbox/internal/hint"
)

// Image is a packed image, open for reading. Open has read its whole index and
// checked it, so that a broken or hostile image gives errors there or when a
// file is read, and costs bounded memory.
type Image struct {
	Format Format
	Size   int64 // bytes

	file *os.File
	tree *Tree
}

// Open opens an image, telling its format by its magic number.
func Open(name string) (*Image, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	img, err := open(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open image %s: %w", name, err)
	}
	return img, nil
}

func open(f *os.File) (img *Image, err error) {
	// The readers below are libraries that were not written for hostile images.
	defer func() {
		if r := recover(); r != nil {
			img, err = nil, broken("it makes no sense: %v", r)
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, hint.Errorf("give a file that devbox packed", "it is a %s", kind(info.Mode().Type()))
	}
	img = &Image{Size: info.Size(), file: f, tree: newTree("")}
	var magic [erofsSuperAt + 4]byte
	n, _ := f.ReadAt(magic[:], 0)
	switch {
	case n == len(magic) && binary.LittleEndian.Uint32(magic[erofsSuperAt:]) == erofsMagic:
		img.Format = Erofs
		err = readErofs(img)
	case n == len(magic) && string(magic[:4]) == squashfsMagic:
		img.Format = Squashfs
		err = readSquashfs(img)
	default:
		err = broken("it is neither erofs nor squashfs")
	}
	if err != nil {
		return nil, err
	}
	img.tree.sort()
	return img, nil
}

// ErrBroken is in the chain of an error about an image that breaks the rules of
// its format, or those of a portable image.
var ErrBroken = errors.New("broken image")

func broken(format string, args ...any) error {
	return hint.Wrap(fmt.Errorf("%w: %w", ErrBroken, fmt.Errorf(format, args...)), "pack it again, or send it again whole")
}

// Limits on what an image may hold, far above what a service needs: they bound
// the memory that a hostile image can take.
const (
	maxEntries   = 1 << 18
	maxPathLen   = 4096
	maxDepth     = 100      // folders in folders; Stage refuses more
	maxPathBytes = 64 << 20 // of all paths and link targets together
)

// FS is the content of the image. It is good until Close.
func (i *Image) FS() fs.FS { return i.tree.treeFS() }

// Entries are all folders, files and links, sorted by path, without the root.
func (i *Image) Entries() []Entry { return i.tree.Entries() }

// Close closes the file.
func (i *Image) Close() error { return i.file.Close() }

// Units are those that portabled installs from this image: of the prefixes in
// its os-release, or all of them if that names none. They are sorted by name.
// Their Reads include where links lead and the interpreters of scripts.
func (i *Image) Units() ([]Unit, error) {
	tf := i.tree.treeFS()
	units, err := unitsIn(tf, prefixesOf(tf))
	if err != nil {
		return nil, err
	}
	for n := range units {
		units[n].resolve(tf)
	}
	return units, nil
}

// prefixesOf reads PORTABLE_PREFIXES= (os-release(5)).
func prefixesOf(fsys fs.FS) []string {
	release, _ := readRelease(fsys)
	return strings.Fields(release["PORTABLE_PREFIXES"])
}

// releaseFiles are where systemd looks for os-release(5), the first one wins.
var releaseFiles = []string{"etc/os-release", "usr/lib/os-release"}

// readRelease parses os-release, and says which file it is; "" if none.
func readRelease(fsys fs.FS) (map[string]string, string) {
	values := map[string]string{}
	for _, name := range releaseFiles {
		data, err := readSmall(fsys, name, 1<<16)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok && !strings.HasPrefix(key, "#") {
				values[key] = strings.Trim(value, `"'`)
			}
		}
		return values, name
	}
	return values, ""
}

// indexer fills an image's tree from a library's file system.
type indexer struct {
	fsys  fs.FS
	tree  *Tree
	bytes int
	dirs  map[uint64]bool // inodes of folders so far
	// entry completes e, which has its path, from what the library says.
	entry func(e *Entry, info fs.FileInfo) (inode uint64, err error)
}

// add takes an entry in. A folder that stands in two places, which Linux has
// not, would make an endless tree of a few bytes.
func (x *indexer) add(e *Entry, inode uint64) error {
	if e.Mode.IsDir() {
		if x.dirs[inode] {
			return broken("folder %q is in two places", e.Path)
		}
		x.dirs[inode] = true
	}
	x.bytes += len(e.Path) + len(e.Target)
	switch {
	case strings.Count(e.Path, "/") > maxDepth:
		return broken("it has more than %d folders in each other", maxDepth)
	case len(e.Path) > maxPathLen || !fs.ValidPath(e.Path):
		return broken("a path in it is not valid or too long")
	case x.tree.lookup(e.Path) != nil:
		return broken("it has %q twice", e.Path)
	case len(x.tree.byPath) >= maxEntries || x.bytes > maxPathBytes:
		return broken("it has more than %d entries, or very long paths", maxEntries)
	}
	x.tree.put(e)
	return nil
}

// dir indexes a folder and all below it.
func (x *indexer) dir(dir string) error {
	f, err := x.fsys.Open(dir)
	if err != nil {
		return broken("read folder %q: %w", dir, err)
	}
	defer f.Close()
	list, ok := f.(fs.ReadDirFile)
	if !ok {
		return broken("%q is not a folder", dir)
	}
	for {
		batch, err := list.ReadDir(256)
		for _, d := range batch {
			if name := d.Name(); name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				return broken("folder %q has an entry named %q", dir, name)
			}
			info, err := d.Info()
			if err != nil {
				return broken("read %q in folder %q: %w", d.Name(), dir, err)
			}
			e := &Entry{Path: path.Join(dir, d.Name())}
			inode, err := x.entry(e, info)
			if err != nil {
				return err
			}
			if err := x.add(e, inode); err != nil {
				return err
			}
			if e.Mode.IsDir() {
				if err := x.dir(e.Path); err != nil {
					return err
				}
			}
		}
		if err != nil || len(batch) == 0 {
			return endOfDir(dir, err)
		}
	}
}
