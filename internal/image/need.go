package image

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"devbox/internal/hint"
)

// mountPoints must exist in an image for systemd to set up the service's root
// (RootImage= in systemd.exec(5)), with their modes.
var mountPoints = []Entry{
	{Path: "proc", Mode: fs.ModeDir | 0o755},
	{Path: "sys", Mode: fs.ModeDir | 0o755},
	{Path: "dev", Mode: fs.ModeDir | 0o755},
	{Path: "run", Mode: fs.ModeDir | 0o755},
	{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	{Path: "var/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	// portabled's profiles mount the host's over these two.
	{Path: "etc/machine-id", Mode: 0o644},
	{Path: "etc/resolv.conf", Mode: 0o644},
}

// addNeeded adds what portabled and systemd need and the tree does not have.
func addNeeded(t *Tree) error {
	var errs []error
	for _, m := range mountPoints {
		errs = append(errs, t.need(m, "systemd needs it"))
	}
	fsys := t.FS()
	if _, err := fs.Stat(fsys, "etc/os-release"); err != nil {
		if _, err := fs.Stat(fsys, "usr/lib/os-release"); err != nil {
			text := fmt.Appendf(nil, "ID=%s\nPRETTY_NAME=%s\nPORTABLE_PREFIXES=%s\n", t.Name, t.Name, t.Name)
			errs = append(errs, t.need(Entry{Path: "usr/lib/os-release", Mode: 0o644, Data: text, Size: int64(len(text))}, "portabled needs it"))
		}
	}
	units, _ := unitsIn(fsys, []string{t.Name}) // Check tells what is wrong with the others
	for _, u := range units {
		for _, d := range u.Dirs {
			if !strings.HasPrefix(d.Path, "/run/") { // a tmpfs on the host covers it
				errs = append(errs, t.need(Entry{Path: d.Path[1:], Mode: fs.ModeDir | 0o755}, u.Name+" has "+d.Field+"="))
			}
		}
		for _, m := range u.mounts() {
			if _, err := fs.Stat(fsys, m.path[1:]); err == nil {
				continue
			}
			e := Entry{Path: m.path[1:], Mode: fs.ModeDir | 0o755}
			if m.file {
				e.Mode = 0o644
			}
			errs = append(errs, t.need(e, u.Name+" has "+m.name+"="))
		}
	}
	t.sort()
	return errors.Join(errs...)
}

// need adds e unless the tree has it, or says what is in the way.
func (t *Tree) need(e Entry, why string) error {
	inWay := t.putParents(e.Path)
	if inWay == nil {
		old := t.lookup(e.Path)
		if old == nil {
			t.put(&e)
			return nil
		}
		if old.Mode.Type() == e.Mode.Type() {
			if e.Mode.IsDir() {
				old.Mode = e.Mode
			}
			return nil
		}
		inWay = old
	}
	return hint.Errorf(fmt.Sprintf("make /%s a %s, or leave it out", inWay.Path, kind(e.Mode.Type())),
		"/%s is a %s, but must be a %s: %s", inWay.Path, kind(inWay.Mode.Type()), kindAt(e, inWay), why)
}

func kindAt(e Entry, inWay *Entry) string {
	if path.Clean(e.Path) == inWay.Path {
		return kind(e.Mode.Type())
	}
	return "folder"
}
