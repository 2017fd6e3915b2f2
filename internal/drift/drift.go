// Package drift says in what hosts differ from each other and from the
// repository that they are made from. It compares facts and asks nobody.
package drift

import (
	"maps"
	"slices"
	"strings"

	"devbox/internal/facts"
)

// Kinds of differences.
const (
	Drift    = "drift"    // nothing explains it
	Expected = "expected" // Why explains it
	Unknown  = "unknown"  // it could not be read, and Why says why
)

// Difference is one thing that is not the same everywhere. A side that does
// not have it, or was not asked, is empty.
type Difference struct {
	Group  string `json:"group"`
	What   string `json:"what"`
	Dev    string `json:"dev,omitempty"`
	Target string `json:"target,omitempty"`
	Repo   string `json:"repo,omitempty"` // what the repository asks for
	Kind   string `json:"kind"`
	Why    string `json:"why,omitempty"`
	Cure   string `json:"cure,omitempty"`
}

// Groups, in the order in which they are compared and shown.
const (
	system      = "system"
	cloudConfig = "cloud-config"
	app         = "app"
	packages    = "packages"
	files       = "files"
	units       = "units"
	sysctls     = "sysctls"
	users       = "users"
	sudoers     = "sudoers"
	sshd        = "sshd"
	ports       = "ports"
)

// Repo is what the repository says a host should be.
type Repo struct {
	App         string
	CloudConfig string // name of the file
	Hash        string // its SHA-256, hex
	Version     int    // of the way in which it is applied

	Packages []string
	Files    map[string][]byte   // path -> content; nil where only a host knows it
	Users    map[string][]string // user -> fingerprints of keys
	Timezone string              // "" is not said

	Units   map[string]string // files of image.tree -> SHA-256; the build may make more
	Profile string
}

// Host is one of those that are compared.
type Host struct {
	Name  string
	Facts *facts.Facts
	Env   map[string]map[string]string // what devbox.yaml declares for it

	Admin     string   // who sets it up, and may become root
	Keys      []string // fingerprints of keys that devbox made for it
	Packages  []string // that it was made with
	Provision string   // the command that applies the cloud-config
	Deploy    string   // the command that makes a release run
}

// Compare finds the differences between a dev machine, a target and the
// repository. Either host may be nil. What nothing in the repository asks for
// is compared between the hosts; with one host alone it is told of where only a
// person can have made it.
func Compare(repo Repo, dev, target *Host) []Difference {
	c := &comparison{repo: repo, dev: dev, target: target}
	c.system()
	c.cloudConfig()
	c.app()
	c.packages()
	c.files()
	c.units()
	c.sysctls()
	c.users()
	c.sudoers()
	c.sshd()
	c.ports()
	return c.found
}

// Count is the number of differences that nothing explains.
func Count(all []Difference) int {
	n := 0
	for _, d := range all {
		if d.Kind != Expected {
			n++
		}
	}
	return n
}

type comparison struct {
	repo        Repo
	dev, target *Host
	found       []Difference
}

// hosts are those that there are.
func (c *comparison) hosts() []*Host {
	var all []*Host
	for _, h := range []*Host{c.dev, c.target} {
		if h != nil {
			all = append(all, h)
		}
	}
	return all
}

func (c *comparison) both() bool { return c.dev != nil && c.target != nil }

// only is the host that alone has something, nil if both have it.
func (c *comparison) only(dev, target string) *Host {
	switch {
	case target == "":
		return c.dev
	case dev == "":
		return c.target
	}
	return nil
}

// other is the host that h is compared with.
func (c *comparison) other(h *Host) *Host {
	if h == c.dev {
		return c.target
	}
	return c.dev
}

// read tells whether all hosts could read a part of the facts, and reports
// those that could not.
func (c *comparison) read(group, part string) bool {
	ok := true
	for _, h := range c.hosts() {
		for _, u := range h.Facts.Unknown {
			if u.Part == part {
				ok = false
				c.found = append(c.found, Difference{Group: group, What: "all of it", Kind: Unknown, Why: "not read on " + h.Name + ": " + u.Why})
			}
		}
	}
	return ok
}

// row is something that hosts have a value of.
type row struct {
	group, what string
	dev, target string
	repo        string // "" is not said
	// made says that only a person makes such a thing: one host that has it,
	// with no other to compare, is a difference from the repository.
	made   bool
	expect string // why a difference is right, if it is
	cure   string
}

// differs says whether r is a difference at all.
func (c *comparison) differs(r row) bool {
	switch {
	case r.repo != "":
		return c.dev != nil && r.dev != r.repo || c.target != nil && r.target != r.repo
	case c.both():
		return r.dev != r.target
	}
	return r.made && r.expect == "" && r.dev+r.target != ""
}

func (c *comparison) add(r row) {
	if !c.differs(r) {
		return
	}
	d := Difference{Group: r.group, What: r.what, Dev: r.dev, Target: r.target, Repo: r.repo, Kind: Drift, Cure: r.cure}
	if r.expect != "" {
		d.Kind, d.Why, d.Cure = Expected, r.expect, ""
	}
	c.found = append(c.found, d)
}

// wrong are the hosts whose value is not the repository's.
func (c *comparison) wrong(r row) []*Host {
	var all []*Host
	for _, h := range c.hosts() {
		if h == c.dev && r.dev != r.repo || h == c.target && r.target != r.repo {
			all = append(all, h)
		}
	}
	return all
}

// provision is the cure of a host that is not what the repository says.
func (c *comparison) provision(r row) string {
	return commands(c.wrong(r), func(h *Host) string { return h.Provision })
}

func (c *comparison) deploy(r row) string {
	return commands(c.wrong(r), func(h *Host) string { return h.Deploy })
}

func commands(hosts []*Host, command func(*Host) string) string {
	var all []string
	for _, h := range hosts {
		all = append(all, "`"+command(h)+"`")
	}
	return strings.Join(all, " and ")
}

// value is f of a host's facts, "" if the host was not asked.
func value(h *Host, f func(*facts.Facts) string) string {
	if h == nil {
		return ""
	}
	return f(h.Facts)
}

// keys are those of a map of both hosts' facts, and more, sorted.
func keys[V any](c *comparison, of func(*facts.Facts) map[string]V, more ...string) []string {
	all := slices.Clone(more)
	for _, h := range c.hosts() {
		all = slices.AppendSeq(all, maps.Keys(of(h.Facts)))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// contained tells whether a host runs on a kernel that is not its own.
func contained(h *Host) bool {
	return h != nil && slices.Contains([]string{"systemd-nspawn", "lxc", "lxc-libvirt", "docker", "podman", "openvz", "container-other"}, h.Facts.System.Virt)
}
