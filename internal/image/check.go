package image

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Problem is something about a tree that will go wrong, or may, on a host.
type Problem struct {
	Path    string `json:"path,omitempty"`  // in the image, without a leading slash; "" for the whole
	Line    int    `json:"line,omitempty"`  // in that file, 0 if it has none
	Field   string `json:"field,omitempty"` // the setting, "" if none
	Text    string `json:"text"`            // what is wrong, lower case, no full stop
	Cure    string `json:"cure,omitempty"`  // what to change
	Warning bool   `json:"warning"`         // it may be meant so
}

// String is one line: PATH:LINE: Field=: text.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Path)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Path != "" {
		b.WriteString(": ")
	}
	if p.Field != "" {
		b.WriteString(p.Field + "=: ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// CheckOptions say what a tree is checked for.
type CheckOptions struct {
	Name string // of the app, which is the unit prefix
	Arch string // the host's, as GOARCH names it
	// StateCheck is the program of the tree that devbox.yaml has under
	// state.check, "" for none.
	StateCheck string
}

// Check finds what portabled would ignore or refuse, and what would keep a unit
// from starting on a host. It returns all problems, sorted by path and line;
// those that are not warnings should stop a deployment. It stops early, with
// what it has, when ctx ends.
func (t *Tree) Check(ctx context.Context, o CheckOptions) []Problem {
	c := &checker{CheckOptions: o, ctx: ctx, tree: t, fsys: t.FS(), units: map[string]Unit{}}
	c.release()
	c.mountPoints()
	c.unitFiles()
	for _, u := range sortedUnits(c.units) {
		if ctx.Err() != nil {
			break
		}
		c.unit(u)
	}
	c.sharedState()
	if o.StateCheck != "" {
		if text, cure := c.runnable(strings.TrimPrefix(o.StateCheck, "/")); text != "" {
			c.add(Problem{Text: "state.check: " + text, Cure: cure})
		}
	}
	slices.SortStableFunc(c.problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), a.Line-b.Line)
	})
	return c.problems
}

type checker struct {
	CheckOptions
	ctx      context.Context
	tree     *Tree
	fsys     fs.FS
	units    map[string]Unit // those that portabled will install
	problems []Problem
}

func sortedUnits(units map[string]Unit) []Unit {
	var all []Unit
	for _, u := range units {
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b Unit) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func (c *checker) add(p Problem) { c.problems = append(c.problems, p) }

func (c *checker) release() {
	values, file := readRelease(c.fsys)
	prefixes := strings.Fields(values["PORTABLE_PREFIXES"])
	switch {
	case file == "":
		c.add(Problem{Path: "usr/lib/os-release", Text: "there is no os-release, without which portabled refuses the image",
			Cure: fmt.Sprintf("add one with ID=%s and PORTABLE_PREFIXES=%s, or leave it to devbox", c.Name, c.Name)})
		return
	case values["ID"] == "":
		c.add(Problem{Path: file, Field: "ID", Text: "it is not set, without which portabled refuses the image", Cure: "add ID=" + c.Name})
	}
	switch {
	case len(prefixes) == 0:
		c.add(Problem{Path: file, Field: "PORTABLE_PREFIXES", Text: "it is not set, so that this image may bring units of any name",
			Cure: "add PORTABLE_PREFIXES=" + c.Name, Warning: true})
	case !slices.ContainsFunc(prefixes, func(p string) bool { return MatchesPrefix(c.Name, p) }):
		c.add(Problem{Path: file, Field: "PORTABLE_PREFIXES", Text: fmt.Sprintf("%q is not among them, so that portabled refuses the image", c.Name),
			Cure: "add " + c.Name})
	}
}

func (c *checker) mountPoints() {
	for _, m := range mountPoints {
		info, err := fs.Lstat(c.fsys, m.Path)
		switch {
		case err != nil:
			c.add(Problem{Path: m.Path, Text: "the " + kind(m.Mode.Type()) + " is missing, on which systemd mounts the host's", Cure: "add it, empty"})
		case info.Mode().Type() != m.Mode.Type():
			c.add(Problem{Path: m.Path, Text: fmt.Sprintf("it is a %s and must be a %s: systemd mounts the host's over it", kind(info.Mode().Type()), kind(m.Mode.Type())),
				Cure: "make it an empty " + kind(m.Mode.Type())})
		}
	}
}

// ignoredTypes are unit types that systemd knows and portabled does not install.
var ignoredTypes = []string{"mount", "automount", "swap", "slice", "scope", "device", "snapshot", "link", "netdev", "network", "nspawn", "dnssd"}

// unitFiles finds the units that portabled will install, and says what else in
// the unit folders it will pass over without a word.
func (c *checker) unitFiles() {
	foreign := map[string][]string{}
	for _, dir := range unitDirs {
		entries, _ := fs.ReadDir(c.fsys, dir)
		for _, d := range entries {
			c.unitFile(dir, d, foreign)
		}
	}
	for _, dir := range unitDirs {
		if names := foreign[dir]; len(names) > 0 {
			c.add(Problem{Path: dir, Warning: true,
				Text: fmt.Sprintf("portabled will ignore %s: the name does not begin with %q and then `.`, `-` or `@`", someOf(names), c.Name),
				Cure: fmt.Sprintf("rename them to %s-….service and so on if they belong to the app", c.Name)})
		}
	}
	if len(c.units) == 0 {
		c.add(Problem{Path: "usr/lib/systemd/system", Text: fmt.Sprintf("there is no unit for the app %q, so that portabled refuses the image", c.Name),
			Cure: fmt.Sprintf("add %s.service there", c.Name)})
	}
}

func someOf(names []string) string {
	const shown = 5
	if more := len(names) - shown; more > 1 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), more)
	}
	return strings.Join(names, ", ")
}

func (c *checker) unitFile(dir string, d fs.DirEntry, foreign map[string][]string) {
	name := d.Name()
	file := path.Join(dir, name)
	ext := strings.TrimPrefix(path.Ext(name), ".")
	if d.IsDir() {
		if kind := folderKind(name); kind != "" && MatchesPrefix(name, c.Name) {
			c.add(Problem{Path: file, Text: "portabled ignores the " + kind + " of an image", Cure: folderCure(name)})
		}
		return
	}
	known := slices.Contains(unitTypes, ext)
	switch {
	case !known && !slices.Contains(ignoredTypes, ext):
		if MatchesPrefix(name, c.Name) {
			c.add(Problem{Path: file, Text: "its name ends like no unit type, so that it is ignored", Cure: "rename it to end in .service, .socket, .timer, .path or .target", Warning: true})
		}
	case !MatchesPrefix(name, c.Name):
		foreign[dir] = append(foreign[dir], name)
	case !known:
		c.add(Problem{Path: file, Text: fmt.Sprintf("portabled ignores .%s units of an image: it installs only services, sockets, timers, paths and targets", ext),
			Cure: "put it on the host, with cloud-init/server.yaml"})
	case strings.HasSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "."+ext), "@"), "-"):
		c.add(Problem{Path: file, Text: "its drop-ins would be those of every unit whose name begins like this, so that a host refuses it",
			Cure: "have its name end otherwise than in -"})
	case c.units[name].Name != "":
		c.add(Problem{Path: file, Text: "it is hidden by " + c.units[name].Path, Cure: "remove one of them", Warning: true})
	default:
		c.parse(file, name)
	}
}

func folderKind(name string) string {
	switch {
	case strings.HasSuffix(name, ".d"):
		return "drop-ins"
	case strings.HasSuffix(name, ".wants"), strings.HasSuffix(name, ".requires"), strings.HasSuffix(name, ".upholds"):
		return "links in " + path.Ext(name) + " folders"
	}
	return ""
}

func folderCure(name string) string {
	if strings.HasSuffix(name, ".d") {
		return "write the settings into " + strings.TrimSuffix(name, ".d") + " itself"
	}
	return "use WantedBy= or RequiredBy= in [Install]"
}

func (c *checker) parse(file, name string) {
	data, err := readSmall(c.fsys, file, maxUnit)
	if err != nil {
		c.add(Problem{Path: file, Text: err.Error(), Cure: "make it a readable file"})
		return
	}
	if len(data) == 0 {
		c.add(Problem{Path: file, Text: "it is empty, so that portabled ignores it", Cure: "fill it or remove it"})
		return
	}
	u, err := ParseUnit(name, data)
	if err != nil {
		c.add(Problem{Path: file, Text: err.Error(), Cure: "see systemd.syntax(7)"})
		return
	}
	u.Path = file
	c.units[name] = u
}

// sharedState finds services that share a state folder and have no user in
// common: with DynamicUser= each gets its own, and cannot read the other's.
func (c *checker) sharedState() {
	users := map[string]Unit{} // folder -> the first service that has it
	for _, u := range sortedUnits(c.units) {
		for _, d := range u.Dirs {
			first, ok := users[d.Path]
			if !ok {
				users[d.Path] = u
				continue
			}
			if first.Name == u.Name || !u.Yes("Service", "DynamicUser") && !first.Yes("Service", "DynamicUser") {
				continue
			}
			if a, b := first.userName(), u.userName(); a != b {
				c.add(Problem{Path: u.Path, Field: d.Field, Text: fmt.Sprintf("%s is shared with %s, which runs as another user (%s, not %s)", d.Path, first.Name, a, b),
					Cure: "give both units the same User="})
			}
		}
	}
}

// userName is the user of a service; DynamicUser= makes one up from the unit's
// name (systemd.exec(5)).
func (u *Unit) userName() string {
	name, _, _ := strings.Cut(strings.TrimSuffix(u.Name, ".service"), "@")
	if user := u.Last("Service", "User"); user != "" || !u.Yes("Service", "DynamicUser") {
		return cmp.Or(user, "root")
	}
	return name
}

func isYes(s string) bool {
	return slices.Contains([]string{"1", "yes", "y", "true", "t", "on"}, strings.ToLower(s))
}
