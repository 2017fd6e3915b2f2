package drift

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"devbox/internal/facts"
)

func (c *comparison) sysctls() {
	if !c.read(sysctls, "sysctls") {
		return
	}
	want := map[string]facts.Sysctl{}
	for _, name := range slices.Sorted(maps.Keys(c.repo.Files)) {
		if path.Dir(name) == "/etc/sysctl.d" {
			maps.Copy(want, facts.Sysctls(c.repo.Files[name]))
		}
	}
	for _, name := range keys(c, func(f *facts.Facts) map[string]string { return f.Sysctls }, slices.Collect(maps.Keys(want))...) {
		live := func(f *facts.Facts) string { return f.Sysctls[name] }
		r := row{group: sysctls, what: name, dev: value(c.dev, live), target: value(c.target, live), repo: want[name].Value}
		if r.repo != "" {
			r.expect = "a container may not set it"
			for _, h := range c.wrong(r) {
				if own := strings.HasPrefix(name, "net.") && live(h.Facts) != ""; own || !contained(h) {
					r.expect, r.cure = "", "on "+h.Name+": systemctl restart systemd-sysctl.service"
				}
			}
		} else {
			r.cure = "set it in a file of /etc/sysctl.d, by " + c.repo.CloudConfig
			if (contained(c.dev) || contained(c.target)) && (!strings.HasPrefix(name, "net.") || c.only(r.dev, r.target) != nil) {
				r.expect = "a container has the kernel of the computer that it runs on"
			}
		}
		c.add(r)
	}
}

func (c *comparison) users() {
	if !c.read(users, "users") {
		return
	}
	declared := slices.Collect(maps.Keys(c.repo.Users))
	for _, name := range keys(c, func(f *facts.Facts) map[string]facts.User { return f.Users }, declared...) {
		if c.user(name) {
			c.userKeys(name)
		}
	}
}

// user tells whether the keys of the user matter: not where it is missing.
func (c *comparison) user(name string) (everywhere bool) {
	everywhere = true
	account := func(f *facts.Facts) string {
		u, ok := f.Users[name]
		if !ok {
			return ""
		}
		text := u.Shell
		if len(u.Groups) > 0 {
			text += " in " + strings.Join(u.Groups, ", ")
		}
		if u.Password {
			text += ", with a password"
		}
		return text
	}
	r := row{group: users, what: name, dev: value(c.dev, account), target: value(c.target, account)}
	_, declared := c.repo.Users[name]
	only := c.only(r.dev, r.target)
	switch {
	case declared:
		for _, h := range c.hosts() {
			if account(h.Facts) == "" {
				everywhere = false
				r.repo, r.cure = "declared", commands([]*Host{h}, func(h *Host) string { return h.Provision })
			}
		}
		if r.repo == "" {
			r.cure = "make it the same by hand: cloud-init changes no user that is there"
		}
	case only != nil:
		r.made = name != "root"
		r.cure = fmt.Sprintf("add it to `users` of %s, or on %s: userdel %s", c.repo.CloudConfig, only.Name, name)
		if name == only.Admin {
			r.expect = "devbox sets " + only.Name + " up as this user"
		}
	default:
		r.cure = "make it the same by hand, or add it to `users` of " + c.repo.CloudConfig
	}
	c.add(r)
	return everywhere
}

// userKeys are who may log in as a user.
func (c *comparison) userKeys(name string) {
	for _, key := range keys(c, func(f *facts.Facts) map[string]bool {
		set := map[string]bool{}
		for _, k := range f.Users[name].Keys {
			set[k] = true
		}
		return set
	}, c.repo.Users[name]...) {
		has := func(f *facts.Facts) string {
			if slices.Contains(f.Users[name].Keys, key) {
				return "may log in"
			}
			return ""
		}
		r := row{group: users, what: "key " + key + " of " + name, dev: value(c.dev, has), target: value(c.target, has), made: true}
		if slices.Contains(c.repo.Users[name], key) {
			r.repo = "may log in"
			r.cure = c.provision(r)
		} else if only := c.only(r.dev, r.target); only != nil {
			r.cure = fmt.Sprintf("add it under `users` of %s, or take its line out of ~%s/.ssh/authorized_keys on %s", c.repo.CloudConfig, name, only.Name)
			switch {
			case slices.Contains(only.Keys, key):
				r.expect = "devbox made this key for " + only.Name
			case name == only.Admin && c.declaredKey(key):
				r.expect = "devbox sets " + only.Name + " up as this user, and " + c.repo.CloudConfig + " has the key"
			}
		}
		c.add(r)
	}
}

// declaredKey tells whether the cloud-config lets a key in, as whomever.
func (c *comparison) declaredKey(key string) bool {
	for _, keys := range c.repo.Users {
		if slices.Contains(keys, key) {
			return true
		}
	}
	return false
}

func (c *comparison) sudoers() {
	if !c.read(sudoers, "sudoers") {
		return
	}
	want := map[string]string{} // line -> file
	for name, content := range c.repo.Files {
		if facts.SudoersFile(name) {
			for _, line := range facts.SudoersLines(name, content) {
				want[line] = name
			}
		}
	}
	lines := func(f *facts.Facts) map[string]string {
		all := map[string]string{}
		for name, lines := range f.Sudoers {
			for _, line := range lines {
				all[line] = name
			}
		}
		return all
	}
	for _, line := range keys(c, lines, slices.Collect(maps.Keys(want))...) {
		where := func(f *facts.Facts) string { return lines(f)[line] }
		r := row{group: sudoers, what: line, dev: value(c.dev, where), target: value(c.target, where), repo: want[line], made: true}
		if r.repo != "" {
			r.cure = c.provision(r)
		} else if only := c.only(r.dev, r.target); only != nil {
			r.cure = fmt.Sprintf("bring it into %s, or take it out of %s on %s", c.repo.CloudConfig, where(only.Facts), only.Name)
			if who, _, _ := strings.Cut(line, " "); who == only.Admin {
				r.expect = "devbox sets " + only.Name + " up as this user"
			}
		}
		c.add(r)
	}
}

func (c *comparison) sshd() {
	if !c.read(sshd, "sshd") {
		return
	}
	want := c.wantedSSHD()
	for _, name := range keys(c, func(f *facts.Facts) map[string]string { return f.SSHD }, slices.Collect(maps.Keys(want))...) {
		setting := func(f *facts.Facts) string { return f.SSHD[name] }
		r := row{group: sshd, what: name, dev: value(c.dev, setting), target: value(c.target, setting), repo: want[name]}
		if r.repo != "" {
			r.cure = "a file of /etc/ssh/sshd_config.d that is read before says otherwise, or " + c.provision(r)
		} else {
			r.cure = "say it in a file of /etc/ssh/sshd_config.d, by " + c.repo.CloudConfig
		}
		c.add(r)
	}
}

// wantedSSHD is what files of the cloud-config set for everyone, by the names
// and words of `sshd -T`. sshd takes the first value that it reads.
func (c *comparison) wantedSSHD() map[string]string {
	want := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.repo.Files)) {
		if path.Dir(name) != "/etc/ssh/sshd_config.d" || path.Ext(name) != ".conf" {
			continue
		}
		for line := range strings.Lines(string(c.repo.Files[name])) {
			words := strings.Fields(line)
			if len(words) > 0 && strings.EqualFold(words[0], "match") {
				break // the rest is for some only
			}
			if len(words) != 2 || words[0][0] == '#' || strings.ContainsAny(words[1], `"'`) {
				continue // sshd may say lists in other words
			}
			key, value := strings.ToLower(words[0]), words[1]
			if value == "prohibit-password" {
				value = "without-password" // the older name, which sshd -T says
			}
			if _, before := want[key]; !before && single[key] {
				want[key] = value
			}
		}
	}
	return want
}

// single are settings whose one word sshd -T says as it was written.
var single = map[string]bool{
	"passwordauthentication": true, "kbdinteractiveauthentication": true, "pubkeyauthentication": true, "permitrootlogin": true,
	"permitemptypasswords": true, "clientaliveinterval": true, "clientalivecountmax": true, "maxauthtries": true, "usepam": true, "usedns": true,
	"allowtcpforwarding": true, "allowagentforwarding": true, "gatewayports": true, "x11forwarding": true, "permittunnel": true, "port": true,
}

func (c *comparison) ports() {
	if !c.both() || !c.read(ports, "ports") {
		return
	}
	for _, key := range keys(c, func(f *facts.Facts) map[string]facts.Port { return f.Ports }) {
		open := func(f *facts.Facts) string {
			p, ok := f.Ports[key]
			if !ok {
				return ""
			}
			if p.Address == "*" {
				return p.By
			}
			return p.By + " on " + p.Address
		}
		r := row{group: ports, what: key, dev: value(c.dev, open), target: value(c.target, open)}
		r.cure = "look with `ss -tulpn` there; what listens should be in the repository"
		if only := c.only(r.dev, r.target); only != nil {
			r.expect = c.explainPort(key, only)
		}
		c.add(r)
	}
}

func (c *comparison) explainPort(key string, h *Host) string {
	by := h.Facts.Ports[key].By
	for _, other := range h.Facts.Apps {
		if other != c.repo.App && ofApp(by, other) {
			return "of the app " + other + ", which devbox runs there"
		}
	}
	if key == "udp 68" || key == "udp 546" {
		return "how the machine gets its address"
	}
	return ""
}
