package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// unitDirs are the folders in which portabled looks for units in an image, the
// first one that has a name wins (lookup_paths_init in systemd's
// src/libsystemd/sd-path/path-lookup.c).
var unitDirs = []string{
	"etc/systemd/system.control", "etc/systemd/system", "etc/systemd/system.attached",
	"usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system",
}

// unitTypes are those that portabled installs from an image.
var unitTypes = []string{"service", "socket", "target", "timer", "path"}

// MatchesPrefix says whether portabled installs unit from an image whose name
// is prefix: the prefix must end at the end, "-", "." or "@" (prefix_match in
// systemd's src/portable/portable.c).
func MatchesPrefix(unit, prefix string) bool {
	rest, ok := strings.CutPrefix(unit, prefix)
	return ok && prefix != "" && (rest == "" || strings.ContainsRune("-.@", rune(rest[0])))
}

// unitsIn parses the units that portabled would install, sorted by name. With
// no prefixes it takes all. Beside an error it returns those that it could read.
func unitsIn(fsys fs.FS, prefixes []string) ([]Unit, error) {
	var all []Unit
	var errs []error
	seen := map[string]bool{}
	for _, dir := range unitDirs {
		entries, err := fs.ReadDir(fsys, dir)
		if err != nil {
			continue // no such folder
		}
		for _, d := range entries {
			name := d.Name()
			if seen[name] || !slices.Contains(unitTypes, strings.TrimPrefix(path.Ext(name), ".")) {
				continue
			}
			if len(prefixes) > 0 && !slices.ContainsFunc(prefixes, func(p string) bool { return MatchesPrefix(name, p) }) {
				continue
			}
			if t := d.Type(); t != 0 && t != fs.ModeSymlink {
				continue
			}
			file := path.Join(dir, name)
			data, err := readSmall(fsys, file, maxUnit)
			if err != nil {
				errs = append(errs, fmt.Errorf("read unit %s: %w", file, err))
				continue
			}
			if len(data) == 0 {
				continue // portabled skips empty files
			}
			u, err := ParseUnit(name, data)
			if err != nil {
				errs = append(errs, fmt.Errorf("read unit in %s: %w", dir, err))
				continue
			}
			u.Path = file
			seen[name] = true
			all = append(all, u)
		}
	}
	slices.SortFunc(all, func(a, b Unit) int { return strings.Compare(a.Name, b.Name) })
	return all, errors.Join(errs...)
}

// readSmall reads a file whole, refusing one of more than limit bytes.
func readSmall(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, nil
}

// resolve adds to u.Execs what bare names of programs mean, and to u.Reads the
// files behind those that u names: where links lead, and what runs its scripts.
func (u *Unit) resolve(tf *treeFS) {
	for _, e := range u.execLines() {
		name := u.expand(e.name)
		if name == "" || strings.ContainsAny(name, "%/$") {
			continue
		}
		if file := inSearchPath(tf, name); file != "" && !slices.Contains(u.Execs, "/"+file) {
			u.Execs = append(u.Execs, "/"+file)
		}
	}
	for _, p := range slices.Concat(u.Execs, u.Reads) {
		u.readBehind(tf, p)
	}
	for _, p := range u.Execs {
		for range maxInterpreters {
			if p = interpreter(tf, p); p == "" {
				break
			}
			u.readBehind(tf, p)
		}
	}
	slices.Sort(u.Reads)
}

func (u *Unit) readBehind(tf *treeFS, p string) {
	for _, name := range append(tf.trail(p[1:]), p[1:]) {
		if p := "/" + name; name != "." && !slices.Contains(u.Reads, p) && !slices.Contains(u.Execs, p) {
			u.Reads = append(u.Reads, p)
		}
	}
}

// interpreter is what a script at p names after "#!", "" if it is none.
func interpreter(fsys fs.FS, p string) string {
	f, err := fsys.Open(p[1:])
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 256)
	n, _ := io.ReadFull(f, head)
	line, ok := strings.CutPrefix(string(head[:n]), "#!")
	if !ok {
		return ""
	}
	line, _, _ = strings.Cut(line, "\n")
	if fields := strings.Fields(line); len(fields) > 0 && path.IsAbs(fields[0]) {
		return path.Clean(fields[0])
	}
	return ""
}
