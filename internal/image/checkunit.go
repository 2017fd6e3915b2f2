package image

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

func (c *checker) unit(u Unit) {
	switch u.Type {
	case "service":
		c.execs(u)
		c.folders(u)
		c.coupling(u)
		c.credentials(u)
	case "socket":
		c.starts(u)
		c.socket(u)
	case "timer", "path":
		c.starts(u)
	}
}

// starts checks that what a socket, timer or path starts is in the image.
func (c *checker) starts(u Unit) {
	want := u.Service
	if u.Type == "socket" && u.Yes("Socket", "Accept") {
		want = strings.TrimSuffix(u.Name, ".socket") + "@.service"
	}
	if _, ok := c.units[want]; ok || !MatchesPrefix(want, c.Name) && strings.Contains(want, ".") && u.Last(u.section(), "Unit") != "" {
		return // there, or a unit of the host that was named on purpose
	}
	c.add(Problem{Path: u.Path, Text: fmt.Sprintf("it starts %s, which is not among the units of this image", want),
		Cure: "add " + want + ", or name another unit with " + map[string]string{"socket": "Service=", "timer": "Unit=", "path": "Unit="}[u.Type]})
}

// socket finds what makes the listener close when the service restarts: PartOf=,
// BindsTo= and Requires= pass a restart on (systemd.unit(5); seen with systemd
// 257), and clients then get refused and reset connections.
func (c *checker) socket(u Unit) {
	if len(u.Listen) == 0 {
		c.add(Problem{Path: u.Path, Text: "it listens on nothing", Cure: "add ListenStream= in [Socket]"})
	}
	for _, field := range []string{"PartOf", "BindsTo", "Requires", "Requisite"} {
		for _, o := range u.setting("Unit", field) {
			if !slices.Contains(strings.Fields(u.expand(o.value)), u.Service) {
				continue
			}
			text := fmt.Sprintf("it restarts the socket whenever %s restarts: the listener closes and clients are refused", u.Service)
			if field == "Requisite" {
				text = fmt.Sprintf("the socket opens only while %s runs, and then it cannot: a socket is opened before its service", u.Service)
			}
			c.add(Problem{Path: u.Path, Line: o.line, Field: field, Text: text,
				Cure: "remove the line: the socket starts its service by itself and stays open"})
		}
	}
}

// coupling warns of services that restart or stop with others of the app. A
// oneshot that must have run first, and the service's own socket, are meant so.
func (c *checker) coupling(u Unit) {
	for _, field := range []string{"Requires", "BindsTo", "PartOf"} {
		for _, o := range u.setting("Unit", field) {
			for _, name := range strings.Fields(u.expand(o.value)) {
				other, ok := c.units[name]
				if !ok || other.Type != "service" || name == u.Name {
					continue
				}
				if field == "Requires" && other.Last("Service", "Type") == "oneshot" {
					continue
				}
				c.add(Problem{Path: u.Path, Line: o.line, Field: field, Warning: true,
					Text: fmt.Sprintf("it restarts and stops %s whenever %s does", u.Name, name),
					Cure: "use Wants= and After= if one can run without the other"})
			}
		}
	}
}

// folders checks that what systemd mounts on or changes to is in the image,
// which is read-only on the host.
func (c *checker) folders(u Unit) {
	for _, d := range u.Dirs {
		if strings.HasPrefix(d.Path, "/run/") {
			continue
		}
		if info, err := fs.Stat(c.fsys, d.Path[1:]); err != nil || !info.IsDir() {
			c.add(Problem{Path: u.Path, Line: u.line("Service", d.Field), Field: d.Field,
				Text: d.Path + " is not a folder in the image: the start fails with status 226/NAMESPACE", Cure: "add it, empty"})
		}
	}
	for _, m := range u.mounts() {
		if _, err := fs.Stat(c.fsys, m.path[1:]); err != nil {
			c.add(Problem{Path: u.Path, Line: m.line, Field: m.name,
				Text: m.path + " is not in the image: the start fails with status 226/NAMESPACE", Cure: "add it, empty"})
		}
	}
	for _, o := range u.setting("Service", "WorkingDirectory") {
		dir := u.expand(o.value)
		if !path.IsAbs(dir) || strings.Contains(dir, "%") || overHost(dir) {
			continue
		}
		if info, err := fs.Stat(c.fsys, strings.TrimPrefix(path.Clean(dir), "/")); path.Clean(dir) != "/" && (err != nil || !info.IsDir()) {
			c.add(Problem{Path: u.Path, Line: o.line, Field: "WorkingDirectory", Text: dir + " is not a folder in the image: the start fails with status 200/CHDIR",
				Cure: "add it to the image"})
		}
	}
}

func (u *Unit) line(section, name string) int {
	for _, o := range u.options {
		if o.section == section && o.name == name {
			return o.line
		}
	}
	return 0
}

// mount is a path that must exist in the image for a setting to work.
type mount struct {
	option
	path string
	file bool // by its looks
}

// mounts are the targets of bind mounts and temporary file systems.
func (u *Unit) mounts() []mount {
	var all []mount
	for _, name := range []string{"BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "MountImages"} {
		for _, o := range u.setting("Service", name) {
			for _, word := range splitWords(o.value) {
				p := mountTarget(name, u.expand(word))
				if p == "" || strings.Contains(p, "%") || overHost(p) {
					continue
				}
				all = append(all, mount{o, p, name[0] == 'B' && looksLikeFile(p)})
			}
		}
	}
	return all
}

// mountTarget is where in the image a bind mount (source:target:options) or a
// temporary file system (target:options) goes. "" if it needs nothing there:
// with `-` systemd passes over a source that is missing, but not over a target.
func mountTarget(name, word string) string {
	parts := strings.Split(strings.TrimPrefix(word, "-"), ":")
	target := parts[0]
	if name != "TemporaryFileSystem" && len(parts) > 1 && parts[1] != "" {
		target = parts[1]
	}
	if !path.IsAbs(target) || path.Clean(target) == "/" {
		return ""
	}
	return path.Clean(target)
}

// overHost says whether p lies in a file system that systemd mounts in every
// service's root, where it can make what is missing.
func overHost(p string) bool {
	for _, dir := range []string{"/run", "/dev", "/proc", "/sys", "/tmp", "/var/tmp"} {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}

// looksLikeFile guesses what a bind mount's source on the host is; a mount
// point must be of the same kind.
func looksLikeFile(p string) bool {
	base, ext := path.Base(p), path.Ext(p)
	return ext != "" && ext != ".d" && ext != base ||
		slices.Contains([]string{"hosts", "passwd", "group", "hostname", "localtime", "machine-id", "shadow", "services", "protocols"}, base)
}
