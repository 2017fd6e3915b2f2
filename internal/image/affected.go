package image

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Effect is what a new image means for one unit.
type Effect struct {
	Unit    string
	Added   bool // only the new image has it: start it
	Removed bool // only the old image has it: stop it
	Restart bool // both have it, and what it runs on changed
	Reload  bool // its unit file came, went or changed: attach and daemon-reload
	// Why is a phrase for a person: what changed, or why the unit stays.
	Why string
}

// Affected decides what a difference between two images means for their units.
// It returns one Effect for each unit of either, sorted by name. The rules:
//
//   - A service restarts if its unit file, a program that it runs or a file that
//     it reads changed. It reads the paths that it mentions and those of its
//     [X-Devbox] Reads=; a folder stands for all below it.
//   - A changed file that no unit claims restarts every service without Reads=.
//   - A socket, timer, path or target restarts only if its unit file changed. A
//     socket takes its service with it: it cannot be opened under a running one.
//   - Folders that merely came or went restart nothing but who mentions them.
func Affected(old, new []Unit, d Diff) []Effect {
	a := affected{old: byName(old), new: byName(new)}
	a.changed = slices.Concat(d.Changed, d.Added, d.Removed)
	slices.Sort(a.changed)
	var effects []Effect
	for _, name := range a.names() {
		effects = append(effects, a.effect(name))
	}
	return effects
}

type affected struct {
	old, new map[string]Unit
	changed  []string
}

func byName(units []Unit) map[string]Unit {
	m := make(map[string]Unit, len(units))
	for _, u := range units {
		m[u.Name] = u
	}
	return m
}

func (a *affected) names() []string {
	var names []string
	for name := range a.old {
		names = append(names, name)
	}
	for name := range a.new {
		if _, ok := a.old[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (a *affected) effect(name string) Effect {
	was, inOld := a.old[name]
	is, inNew := a.new[name]
	switch {
	case !inOld:
		return Effect{Unit: name, Added: true, Reload: true, Why: "new in this image"}
	case !inNew:
		return Effect{Unit: name, Removed: true, Reload: true, Why: "no longer in the image"}
	case was.Hash != is.Hash:
		return Effect{Unit: name, Restart: true, Reload: true, Why: "unit file changed"}
	case is.Type != "service":
		return Effect{Unit: name, Why: "its unit file is the same"}
	}
	if why := a.socketOf(name); why != "" {
		return Effect{Unit: name, Restart: true, Why: why}
	}
	for _, p := range a.changed {
		if reads(is, p) || reads(was, p) {
			return Effect{Unit: name, Restart: true, Why: p + " changed"}
		}
	}
	if !is.ReadsDeclared {
		for _, p := range a.changed {
			if !strings.HasSuffix(p, "/") && !inUnitDir(p) && !a.claimed(p) {
				return Effect{Unit: name, Restart: true, Why: p + " changed, which no unit claims"}
			}
		}
	}
	return Effect{Unit: name, Why: stays(is)}
}

func (a *affected) socketOf(service string) string {
	for _, name := range a.names() {
		is, ok := a.new[name]
		was, before := a.old[name]
		if ok && before && is.Type == "socket" && is.Service == service && is.Hash != was.Hash {
			return name + " changed"
		}
	}
	return ""
}

// claimed says whether a unit reads p by name. A folder that many programs
// share proves nothing about who reads below it.
func (a *affected) claimed(p string) bool {
	for _, units := range []map[string]Unit{a.old, a.new} {
		for _, u := range units {
			for _, r := range slices.Concat(u.Execs, u.Reads) {
				if under(p, r) && !slices.Contains(sharedDirs, r) {
					return true
				}
			}
		}
	}
	return false
}

var sharedDirs = []string{
	"/", "/bin", "/etc", "/etc/ssl", "/etc/ssl/certs", "/lib", "/lib64", "/opt", "/sbin", "/srv", "/usr", "/usr/bin", "/usr/lib",
	"/usr/lib64", "/usr/libexec", "/usr/local", "/usr/local/bin", "/usr/local/lib", "/usr/sbin", "/usr/share", "/var", "/var/lib",
}

func reads(u Unit, p string) bool {
	return slices.ContainsFunc(u.Execs, func(r string) bool { return under(p, r) }) ||
		slices.ContainsFunc(u.Reads, func(r string) bool { return under(p, r) })
}

// under says whether the changed path p is r or below it.
func under(p, r string) bool {
	p = "/" + strings.TrimSuffix(p, "/")
	return r == "/" || p == r || strings.HasPrefix(p, r+"/")
}

// inUnitDir says whether only PID 1 reads p.
func inUnitDir(p string) bool {
	return slices.ContainsFunc(unitDirs, func(dir string) bool { return strings.HasPrefix(p, dir+"/") })
}

func stays(u Unit) string {
	all := slices.Concat(u.Execs, u.Reads)
	if !u.ReadsDeclared || len(all) == 0 {
		return "nothing that it reads changed"
	}
	for i, p := range all {
		all[i] = strings.TrimPrefix(path.Clean(p), "/")
	}
	const shown = 4
	if more := len(all) - shown; more > 0 {
		return fmt.Sprintf("reads only %s and %d more", strings.Join(all[:shown], ", "), more)
	}
	return "reads only " + strings.Join(all, ", ")
}
