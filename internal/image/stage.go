package image

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"devbox/internal/hint"
)

// Options say what goes into an image.
type Options struct {
	Name  string   // of the app: file name, unit prefix and os-release ID
	Dirs  []string // folders whose content becomes the image; later ones over earlier ones
	Files []File   // laid over the folders
}

// File puts one file, or a folder with all below it, into the image.
type File struct {
	From string      // on this machine
	To   string      // in the image, absolute
	Mode fs.FileMode // permission bits; 0 takes 0755 if From is executable, else 0644
}

// maxName is what keeps NAME_VERSION.raw and every unit name well inside the
// 255 bytes of a file name.
const maxName = 64

// CheckName says why name cannot name an app: an image's name ends at its
// first "_" (portablectl(1)), and it is a unit prefix and an os-release ID.
func CheckName(name string) error {
	bad := strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	})
	switch {
	case name == "":
		return hint.Errorf("set `name` in devbox.yaml", "the image has no name")
	case strings.Contains(name, "_"):
		return hint.Errorf("use `-` instead: systemd reads an image's name up to its first `_`", "name %q has a `_`", name)
	case bad >= 0:
		return hint.Errorf("use a-z, 0-9 and `-`", "name %q has a %q", name, []rune(name[bad:])[0])
	case name[0] == '-' || name[len(name)-1] == '-':
		return hint.Errorf("begin and end it with a letter or digit", "name %q begins or ends with `-`", name)
	case len(name) > maxName:
		return hint.Errorf(fmt.Sprintf("use at most %d letters", maxName), "name %q is too long", name)
	}
	return nil
}

// Stage collects the tree and adds what a portable service needs to start.
// It reports everything that cannot go into an image at once, joined.
func Stage(o Options) (*Tree, error) {
	s := &stager{tree: newTree(o.Name)}
	s.fail(CheckName(o.Name))
	for _, dir := range o.Dirs {
		s.addDir(dir)
	}
	s.addFiles(o.Files)
	s.tree.sort()
	s.checkLinks()
	if len(s.errs) > 0 {
		return nil, fmt.Errorf("stage image: %w", errors.Join(s.errs...))
	}
	s.fail(addNeeded(s.tree))
	if len(s.errs) > 0 {
		return nil, fmt.Errorf("stage image: %w", errors.Join(s.errs...))
	}
	return s.tree, nil
}

type stager struct {
	tree *Tree
	errs []error
	seen map[string]string // path -> File.From, to find two files for one place
}

func (s *stager) fail(err error) {
	if err != nil {
		s.errs = append(s.errs, err)
	}
}

func (s *stager) addDir(dir string) {
	info, err := os.Stat(dir)
	if err != nil {
		s.fail(hint.Errorf("check `image` in devbox.yaml, and that the build makes this folder", "read %s: %w", dir, errors.Unwrap(err)))
		return
	}
	if !info.IsDir() {
		s.fail(hint.Errorf("name a folder, or list it as a single file", "%s is not a folder", dir))
		return
	}
	s.walk(dir, ".", 0)
}

// walk adds what is below from on this machine under to in the image.
func (s *stager) walk(from, to string, mode fs.FileMode) {
	// With a slash, a link to the folder is the folder.
	err := filepath.WalkDir(from+"/", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			s.fail(unreadable(file, err))
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		p := path.Join(to, filepath.ToSlash(rel))
		if p == "." {
			return nil
		}
		if !fs.ValidPath(p) {
			s.fail(hint.Errorf("rename it, or leave it out of the image", "the name of %q is not UTF-8", file))
			return nil
		}
		info, err := d.Info()
		if err != nil {
			s.fail(unreadable(file, err))
			return nil
		}
		s.add(p, file, info, mode)
		return nil
	})
	s.fail(err)
}

func unreadable(file string, err error) error {
	return hint.Errorf("make it readable for you, or leave it out of the image", "read %s: %w", file, cmp.Or(errors.Unwrap(err), err))
}

func (s *stager) add(p, file string, info fs.FileInfo, mode fs.FileMode) {
	e := &Entry{Path: p, Source: file}
	switch t := info.Mode().Type(); t {
	case fs.ModeDir:
		e.Mode, e.Source = fs.ModeDir|0o755, ""
	case fs.ModeSymlink:
		target, err := os.Readlink(file)
		if err != nil {
			s.fail(unreadable(file, err))
			return
		}
		e.Mode, e.Source, e.Target = fs.ModeSymlink|0o777, "", target
	case 0:
		if err := readable(file); err != nil {
			s.fail(unreadable(file, err))
			return
		}
		e.Size = info.Size()
		e.Mode = 0o644
		if info.Mode()&0o100 != 0 {
			e.Mode = 0o755
		}
		if mode != 0 {
			e.Mode = mode.Perm()
		}
	default:
		s.fail(hint.Errorf("leave it out of the image", "%s is a %s: an image holds only files, folders and links", file, kind(t)))
		return
	}
	s.place(e, file)
}

// place puts e in the tree, over what an earlier folder had there.
func (s *stager) place(e *Entry, file string) {
	if strings.Count(e.Path, "/") > maxDepth || len(e.Path) > maxPathLen {
		s.fail(hint.Errorf("leave it out of the image", "%s: it lies in more than %d folders, or its path is too long", file, maxDepth))
		return
	}
	if old := s.tree.lookup(e.Path); old != nil && old.Mode.IsDir() != e.Mode.IsDir() {
		s.fail(hint.Errorf("rename or remove one of them", "%s: %s is a %s there, and a %s in an earlier folder",
			file, e.Path, kind(e.Mode.Type()), kind(old.Mode.Type())))
		return
	} else if old != nil && old.Mode.IsDir() {
		return
	}
	if inWay := s.tree.putParents(e.Path); inWay != nil {
		s.fail(hint.Errorf("rename or remove one of them", "%s cannot be at %s: %s is a %s", file, e.Path, inWay.Path, kind(inWay.Mode.Type())))
		return
	}
	s.tree.put(e)
}

func (s *stager) addFiles(files []File) {
	s.seen = map[string]string{}
	for _, f := range files {
		to, err := cleanTo(f)
		if err != nil {
			s.fail(err)
			continue
		}
		if before, ok := s.seen[to]; ok {
			s.fail(hint.Errorf("keep one of them", "%s and %s both go to /%s", before, f.From, to))
			continue
		}
		s.seen[to] = f.From
		info, err := os.Stat(f.From)
		if err != nil {
			s.fail(unreadable(f.From, err))
			continue
		}
		if info.IsDir() {
			s.walk(f.From, to, f.Mode)
			continue
		}
		s.add(to, f.From, info, f.Mode)
	}
}

func cleanTo(f File) (string, error) {
	to := strings.TrimPrefix(filepath.ToSlash(f.To), "/")
	clean := path.Clean(to)
	if to == "" || clean == "." || !fs.ValidPath(clean) || clean != strings.TrimSuffix(to, "/") {
		return "", hint.Errorf("give a path like /etc/app.conf", "%s cannot go to %q", f.From, f.To)
	}
	if strings.HasSuffix(f.To, "/") {
		return path.Join(clean, filepath.Base(f.From)), nil
	}
	return clean, nil
}

// checkLinks refuses links that climb out of the tree: on a host they would
// point somewhere else than here.
func (s *stager) checkLinks() {
	for _, e := range s.tree.entries {
		if e.Mode.Type() != fs.ModeSymlink || path.IsAbs(e.Target) {
			continue
		}
		to := path.Join(path.Dir(e.Path), e.Target)
		if to == ".." || strings.HasPrefix(to, "../") {
			s.fail(hint.Errorf("point it at a path inside the image", "link %s escapes the image: it points to %s", e.Path, e.Target))
		}
	}
}

func readable(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	return f.Close()
}

func kind(t fs.FileMode) string {
	switch t {
	case 0:
		return "file"
	case fs.ModeDir:
		return "folder"
	case fs.ModeSymlink:
		return "link"
	case fs.ModeSocket:
		return "socket"
	case fs.ModeNamedPipe:
		return "fifo"
	}
	return "device"
}
