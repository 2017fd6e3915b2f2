package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// tree is what is known of the watched files, and how they differ from the
// last commit. Paths in it are relative to top, with slashes; "" is top.
type tree struct {
	base     string // what the paths of changes are relative to
	top      string // holds all that is watched; base unless a path is outside
	scope    scope
	override *rules // has the last word
	outer    *rules // of the folders above top
	root     *dir
	notifier notifier

	scans    uint32         // counts scans of folders
	changed  map[string]sum // what differs -> its sum as committed
	touched  []string       // changed during this look
	relevant bool           // this look saw something that is not ignored
	buf      []byte         // for reading files
	unwanted int            // folders that found no watch left
}

// dir is a watched folder.
type dir struct {
	path  string
	inode uint64
	scan  uint32
	rules *rules
	files map[string]*file
	dirs  map[string]*dir
}

func newTree(ctx context.Context, opts Options, n notifier) (*tree, error) {
	t := &tree{
		base:     opts.Root,
		notifier: n,
		changed:  make(map[string]sum),
		buf:      make([]byte, 64<<10),
	}
	t.top, t.scope = newScope(opts.Root, opts.Paths)
	t.override = refine(nil, opts.Root, []byte(strings.Join(opts.Ignore, "\n")))
	t.outer = outerRules(refine(nil, "/", []byte(editorFiles)), t.top)
	if _, _, err := t.look(ctx, nil, true); err != nil {
		return nil, err
	}
	clear(t.changed) // all is as it was found
	return t, nil
}

func (t *tree) abs(p string) string { return filepath.Join(t.top, p) }

// ignored decides about an entry of a folder that is not ignored itself.
func (t *tree) ignored(d *dir, p string, isDir bool) bool {
	if path.Base(p) == ".git" {
		return true
	}
	switch t.scope.of(p) {
	case outOfScope:
		return true
	case onTheWay:
		return !isDir
	case named:
		return false
	}
	full := t.abs(p)
	if ignored, decided := t.override.decide(full, isDir); decided {
		return ignored
	}
	ignored, _ := d.rules.decide(full, isDir)
	return ignored
}

// look compares what may have changed with what is known, everything if all
// is set. It returns the paths whose content changed, and whether anything
// that is not ignored was touched at all.
func (t *tree) look(ctx context.Context, paths []string, all bool) (changed []string, relevant bool, err error) {
	t.touched, t.relevant = nil, all
	if all || slices.Contains(paths, ".") {
		err = t.rescan(ctx)
	} else {
		err = t.lookAtAll(ctx, paths)
	}
	if err == nil && t.unwanted > 0 {
		err = t.outOfWatches()
	}
	return t.touched, t.relevant, err
}

func (t *tree) lookAtAll(ctx context.Context, paths []string) error {
	slices.Sort(paths)
	// What is gone goes first, so that a folder that moved within the tree
	// gives up the watches that it needs at its new place.
	for _, p := range paths {
		t.forgetIfGone(p)
	}
	for _, p := range paths {
		if err := t.lookAt(ctx, p); err != nil {
			return err
		}
	}
	for _, p := range paths {
		if d := t.find(parent(p)); d != nil && path.Base(p) == ".gitignore" {
			t.relevant = true
			d.rules = readRules(t.rulesAbove(d.path), t.abs(d.path))
			if err := t.scan(ctx, d, deep); err != nil {
				return err
			}
		}
	}
	return nil
}

// parent of a path, "" for one at the top.
func parent(p string) string {
	return p[:max(0, strings.LastIndexByte(p, '/'))]
}

func join(d, name string) string {
	if d == "" {
		return name
	}
	return d + "/" + name
}

// find returns a watched folder, or nil.
func (t *tree) find(p string) *dir {
	d := t.root
	for p != "" && d != nil {
		name, rest, _ := strings.Cut(p, "/")
		d, p = d.dirs[name], rest
	}
	return d
}

func (t *tree) rulesAbove(p string) *rules {
	if p == "" {
		return t.outer
	}
	return t.find(parent(p)).rules
}

// forgetIfGone forgets p if it is no more, or no more what it was.
func (t *tree) forgetIfGone(p string) {
	d := t.find(parent(p))
	if d == nil {
		return
	}
	name := path.Base(p)
	info, err := os.Lstat(t.abs(p))
	if sub := d.dirs[name]; sub != nil && (err != nil || !info.IsDir() || printOf(info).inode != sub.inode) {
		t.relevant = true
		t.removeDir(d, sub)
	}
	if d.files[name] != nil && (err != nil || !watchable(info.Mode())) {
		t.relevant = true
		t.removeFile(d, name)
	}
}

func watchable(mode fs.FileMode) bool { return mode.IsRegular() || mode&fs.ModeType == fs.ModeSymlink }

// lookAt compares one path that is there.
func (t *tree) lookAt(ctx context.Context, p string) error {
	d := t.find(parent(p))
	if d == nil {
		return nil
	}
	info, err := os.Lstat(t.abs(p))
	if err != nil || t.ignored(d, p, info.IsDir()) {
		return nil
	}
	t.relevant = true
	if info.IsDir() {
		return t.enter(ctx, d, path.Base(p), shallow)
	}
	t.update(d, path.Base(p), info)
	return nil
}

// depth of a scan: deep also looks into folders that are known.
type depth bool

const (
	shallow depth = false
	deep    depth = true
)

// rescan compares the whole tree.
func (t *tree) rescan(ctx context.Context) error {
	info, err := os.Lstat(t.top)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", t.top)
	}
	if t.root == nil || t.root.inode != printOf(info).inode {
		if t.root == nil {
			t.root = newDir("")
		}
		t.unwatch(t.root)
		t.root.inode = printOf(info).inode
	}
	if err := t.watch(t.root); err != nil {
		return err
	}
	t.root.rules = readRules(t.outer, t.top)
	return t.scan(ctx, t.root, deep)
}

func newDir(p string) *dir {
	return &dir{path: p, files: make(map[string]*file), dirs: make(map[string]*dir)}
}

// enter watches a folder, new or known, and then scans it: files that were
// made before the watch was there have no event.
func (t *tree) enter(ctx context.Context, d *dir, name string, how depth) error {
	sub, known := d.dirs[name]
	if !known {
		sub = newDir(join(d.path, name))
	}
	if err := t.watch(sub); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR) {
			return nil // gone again, or not for us to see
		}
		return err
	}
	info, err := os.Lstat(t.abs(sub.path))
	if err != nil || !info.IsDir() {
		return nil // gone again: its event is on the way
	}
	sub.inode, sub.scan = printOf(info).inode, t.scans
	d.dirs[name] = sub
	if !known || how == deep {
		sub.rules = readRules(d.rules, t.abs(sub.path))
	}
	return t.scan(ctx, sub, how)
}

// watch asks for events of d. When there are no watches left it goes on
// without, to be able to tell where they all went.
func (t *tree) watch(d *dir) error {
	err := t.notifier.Add(t.abs(d.path))
	switch {
	case errors.Is(err, syscall.ENOSPC):
		t.unwanted++
		return nil
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return t.outOfFiles(err)
	}
	return err
}

// readAtOnce is how many entries of a folder are held in memory.
const readAtOnce = 1024

// scan compares the entries of a folder with what is known.
func (t *tree) scan(ctx context.Context, d *dir, how depth) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.scans++
	this := t.scans
	f, err := os.Open(t.abs(d.path))
	if err != nil {
		return nil // gone again, or not for us to see
	}
	defer f.Close()
	var below []string
	for {
		entries, err := f.ReadDir(readAtOnce)
		for _, e := range entries {
			p := join(d.path, e.Name())
			if t.ignored(d, p, e.IsDir()) {
				t.drop(d, e.Name())
				continue
			}
			if sub := d.dirs[e.Name()]; e.IsDir() {
				if sub != nil {
					sub.scan = this
				}
				if sub == nil || how == deep {
					below = append(below, e.Name())
				}
				continue
			}
			if info, err := e.Info(); err == nil {
				t.update(d, e.Name(), info)
				if known := d.files[e.Name()]; known != nil {
					known.scan = this
				}
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil // gone again: its event is on the way
		}
	}
	for _, sub := range d.dirs {
		if sub.scan != this {
			t.removeDir(d, sub)
		}
	}
	for name, known := range d.files {
		if known.scan != this {
			t.removeFile(d, name)
		}
	}
	for _, name := range below {
		t.forgetIfGone(join(d.path, name)) // replaced by another folder
		if err := t.enter(ctx, d, name, how); err != nil {
			return err
		}
	}
	return nil
}

// update compares one file with what is known of it.
func (t *tree) update(d *dir, name string, info fs.FileInfo) {
	if !watchable(info.Mode()) {
		return
	}
	p, print := join(d.path, name), printOf(info)
	known := d.files[name]
	if known != nil && known.print == print && !known.racy {
		return
	}
	now := time.Now()
	s, err := content(t.abs(p), info, t.buf)
	if err != nil {
		return // gone again: its event is on the way
	}
	var before sum
	if known == nil {
		known = &file{}
		d.files[name] = known
	} else {
		before = known.sum
	}
	known.print, known.sum, known.racy = print, s, racy(print, now)
	if s != before {
		t.note(p, before, s)
	}
}

func (t *tree) removeFile(d *dir, name string) {
	before := d.files[name].sum
	delete(d.files, name)
	t.note(join(d.path, name), before, sum{})
}

func (t *tree) removeDir(d *dir, sub *dir) {
	t.unwatch(sub)
	t.emptyDir(sub)
	delete(d.dirs, path.Base(sub.path))
}

func (t *tree) emptyDir(d *dir) {
	for name := range d.files {
		t.removeFile(d, name)
	}
	for _, sub := range d.dirs {
		t.emptyDir(sub)
	}
}

// unwatch gives up the watches of a folder and all below.
func (t *tree) unwatch(d *dir) {
	_ = t.notifier.Remove(t.abs(d.path)) // it may be gone by itself
	for _, sub := range d.dirs {
		t.unwatch(sub)
	}
}

// drop forgets what is ignored from now on. That is no change of content.
func (t *tree) drop(d *dir, name string) {
	if sub := d.dirs[name]; sub != nil {
		t.unwatch(sub)
		t.dropChanges(sub)
		delete(d.dirs, name)
	}
	if d.files[name] != nil {
		delete(t.changed, join(d.path, name))
		delete(d.files, name)
	}
}

func (t *tree) dropChanges(d *dir) {
	for name := range d.files {
		delete(t.changed, join(d.path, name))
	}
	for _, sub := range d.dirs {
		t.dropChanges(sub)
	}
}

// all calls do for each watched folder.
func (d *dir) all(do func(*dir)) {
	do(d)
	for _, sub := range d.dirs {
		sub.all(do)
	}
}

func (t *tree) count() (folders, files int) {
	t.root.all(func(d *dir) { folders, files = folders+1, files+len(d.files) })
	return folders, files
}
