package image

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"devbox/internal/hint"
)

// Tree is what goes into an image: folders, plain files and symbolic links,
// all owned by root and dated 1970. It holds the names of files, not their
// content.
type Tree struct {
	Name    string
	entries []*Entry // sorted by Path, without the root
	byPath  map[string]*Entry
}

// Entry is one folder, file or link of a [Tree].
type Entry struct {
	Path   string      // in the image, without a leading slash: "usr/bin/bowl"
	Mode   fs.FileMode // type and permission bits
	Size   int64       // bytes, of a plain file
	Source string      // the file on this machine that holds the content; "" if Data does
	Data   []byte      // content of a file that devbox adds
	Target string      // where a link points

	image   io.ReaderAt // of an Entry in an [Image]: the file that holds extents
	extents []extent
	inImage func() (io.ReadCloser, error) // or what opens it
}

// Entries are sorted by path. The root is not among them.
func (t *Tree) Entries() []Entry {
	all := make([]Entry, len(t.entries))
	for i, e := range t.entries {
		all[i] = *e
	}
	return all
}

func newTree(name string) *Tree {
	return &Tree{Name: name, byPath: map[string]*Entry{}}
}

func (t *Tree) lookup(p string) *Entry { return t.byPath[p] }

func (t *Tree) put(e *Entry) { t.byPath[e.Path] = e }

// putParents adds the folders above p. It returns the entry that is in the
// way if one of them is not a folder.
func (t *Tree) putParents(p string) *Entry {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		e := t.byPath[dir]
		if e == nil {
			t.put(&Entry{Path: dir, Mode: fs.ModeDir | 0o755})
			continue
		}
		if !e.Mode.IsDir() {
			return e
		}
	}
	return nil
}

// sort fixes the order of the entries once the tree is complete.
func (t *Tree) sort() {
	t.entries = t.entries[:0]
	for _, e := range t.byPath {
		t.entries = append(t.entries, e)
	}
	slices.SortFunc(t.entries, func(a, b *Entry) int { return strings.Compare(a.Path, b.Path) })
}

// FS is the tree as the image will show it. Links are followed within the
// tree, as a service with the image as its root sees them.
func (t *Tree) FS() fs.FS { return t.treeFS() }

func (t *Tree) treeFS() *treeFS {
	tf := &treeFS{t: t, children: map[string][]fs.DirEntry{".": nil}}
	for _, e := range t.entries {
		dir := path.Dir(e.Path)
		tf.children[dir] = append(tf.children[dir], entryInfo{e})
	}
	return tf
}

func (e *Entry) open() (io.ReadCloser, error) {
	switch {
	case e.image != nil:
		return e.openExtents(), nil
	case e.inImage != nil:
		return e.inImage()
	case e.Source != "":
		return os.Open(e.Source)
	}
	return io.NopCloser(bytes.NewReader(e.Data)), nil
}

// openSized opens e and checks that it still has the size it was staged with.
func (e *Entry) openSized() (io.ReadCloser, error) {
	r, err := e.open()
	if err != nil {
		return nil, err
	}
	if f, ok := r.(*os.File); ok {
		info, err := f.Stat()
		if err == nil && info.Size() != e.Size {
			err = changed(e)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
	}
	return r, nil
}

func changed(e *Entry) error {
	return hint.Errorf("let the build finish before the image is packed", "%s changed while it was packed", e.Source)
}

type treeFS struct {
	t        *Tree
	children map[string][]fs.DirEntry // sorted, because entries are
}

var rootEntry = &Entry{Path: ".", Mode: fs.ModeDir | 0o755}

// maxLinks is how many links one path may lead through, as in Linux (ELOOP).
const maxLinks = 40

// find walks to name. follow says whether a link at its end is followed.
func (tf *treeFS) find(op, name string, follow bool) (*Entry, error) {
	return tf.walk(op, name, follow, func(*Entry) {})
}

// trail lists the links on the way to name, and where they end.
func (tf *treeFS) trail(name string) []string {
	var all []string
	if e, err := tf.walk("stat", name, true, func(link *Entry) { all = append(all, link.Path) }); err == nil {
		all = append(all, e.Path)
	}
	return all
}

func (tf *treeFS) walk(op, name string, follow bool, passed func(link *Entry)) (*Entry, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	fail := func(err error) (*Entry, error) { return nil, &fs.PathError{Op: op, Path: name, Err: err} }
	cur, rest := rootEntry, name
	if name == "." {
		rest = ""
	}
	for links := 0; rest != ""; {
		first, more, _ := strings.Cut(rest, "/")
		if first == "" || first == "." {
			rest = more
			continue
		}
		if !cur.Mode.IsDir() {
			return fail(fmt.Errorf("%s is not a folder", cur.Path))
		}
		next := tf.t.lookup(path.Join(cur.Path, first))
		if next == nil {
			return fail(fs.ErrNotExist)
		}
		if next.Mode.Type() == fs.ModeSymlink && (follow || more != "") {
			if links++; links > maxLinks {
				return fail(fmt.Errorf("too many links"))
			}
			passed(next)
			// ".." above the root stays at the root, as chroot(2) has it.
			target := next.Target
			if !path.IsAbs(target) {
				target = path.Join("/", cur.Path, target)
			}
			cur, rest = rootEntry, strings.TrimPrefix(path.Join("/", target, more), "/")
			continue
		}
		cur, rest = next, more
	}
	return cur, nil
}

func (tf *treeFS) Open(name string) (fs.File, error) {
	e, err := tf.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if e.Mode.IsDir() {
		return &treeDir{entryInfo: entryInfo{e}, list: tf.children[e.Path]}, nil
	}
	r, err := e.open()
	if err != nil {
		return nil, err
	}
	return &treeFile{r, entryInfo{e}}, nil
}

func (tf *treeFS) Stat(name string) (fs.FileInfo, error) {
	e, err := tf.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return entryInfo{e}, nil
}

func (tf *treeFS) Lstat(name string) (fs.FileInfo, error) {
	e, err := tf.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return entryInfo{e}, nil
}

func (tf *treeFS) ReadLink(name string) (string, error) {
	e, err := tf.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if e.Mode.Type() != fs.ModeSymlink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return e.Target, nil
}

func (tf *treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := tf.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !e.Mode.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	return slices.Clone(tf.children[e.Path]), nil
}

// entryInfo shows an Entry as fs.FileInfo and fs.DirEntry.
type entryInfo struct{ e *Entry }

func (i entryInfo) Name() string               { return path.Base(i.e.Path) }
func (i entryInfo) Size() int64                { return i.e.Size }
func (i entryInfo) Mode() fs.FileMode          { return i.e.Mode }
func (i entryInfo) ModTime() time.Time         { return time.Unix(0, 0) }
func (i entryInfo) IsDir() bool                { return i.e.Mode.IsDir() }
func (i entryInfo) Sys() any                   { return nil }
func (i entryInfo) Type() fs.FileMode          { return i.e.Mode.Type() }
func (i entryInfo) Info() (fs.FileInfo, error) { return i, nil }

type treeFile struct {
	io.ReadCloser
	info entryInfo
}

func (f *treeFile) Stat() (fs.FileInfo, error) { return f.info, nil }

type treeDir struct {
	entryInfo
	list []fs.DirEntry
	at   int
}

func (d *treeDir) Stat() (fs.FileInfo, error) { return d.entryInfo, nil }
func (d *treeDir) Close() error               { return nil }
func (d *treeDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.e.Path, Err: fs.ErrInvalid}
}

func (d *treeDir) ReadDir(n int) ([]fs.DirEntry, error) {
	rest := d.list[d.at:]
	if n <= 0 {
		d.at = len(d.list)
		return slices.Clone(rest), nil
	}
	if len(rest) == 0 {
		return nil, io.EOF
	}
	rest = rest[:min(n, len(rest))]
	d.at += len(rest)
	return slices.Clone(rest), nil
}
