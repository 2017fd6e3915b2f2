package drift

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"devbox/internal/facts"
)

// flavour is what distinguishes Debian's kernels of one version.
var flavour = regexp.MustCompile(`-(cloud-|rt-|generic-)?(amd64|arm64)$`)

const update = "bring both up to date: apt-get update && apt-get upgrade"

func (c *comparison) system() {
	if !c.read(system, "system") {
		return
	}
	add := func(what string, of func(*facts.System) string, r row) {
		r.group, r.what = system, what
		get := func(f *facts.Facts) string { return of(&f.System) }
		r.dev, r.target = value(c.dev, get), value(c.target, get)
		c.add(r)
	}
	add("distribution", func(s *facts.System) string { return s.OS }, row{cure: "make the older one anew from the newer release"})
	add("point release", func(s *facts.System) string { return s.Point }, row{cure: update})
	add("systemd", func(s *facts.System) string { return s.Systemd }, row{cure: update})
	kernel := row{cure: update + ", then reboot"}
	switch {
	case contained(c.dev) || contained(c.target):
		kernel.expect = "a container has the kernel of the computer that it runs on"
	case c.both() && flavour.ReplaceAllString(c.dev.Facts.System.Kernel, "") == flavour.ReplaceAllString(c.target.Facts.System.Kernel, ""):
		kernel.expect = "the same version, built for another kind of machine"
	}
	add("kernel", func(s *facts.System) string { return s.Kernel }, kernel)
	add("architecture", func(s *facts.System) string { return s.Arch }, row{expect: "the image is built for each architecture, from the same tree"})
	add("virtualisation", func(s *facts.System) string { return s.Virt }, row{expect: "each machine is where it is"})
	add("host name", func(s *facts.System) string { return s.Host }, row{expect: "each host has its own name"})
	add("time zone", func(s *facts.System) string { return s.Timezone },
		row{repo: c.repo.Timezone, cure: "say it in " + c.repo.CloudConfig + ": `timezone: Etc/UTC`"})
}

func (c *comparison) cloudConfig() {
	if !c.read(cloudConfig, "provision") {
		return
	}
	applied := func(f *facts.Facts) string {
		switch p := f.Provision; {
		case p == nil:
			return "not applied"
		case p.Version != c.repo.Version:
			return short(p.Hash) + ", as an older devbox applies it"
		default:
			return short(p.Hash)
		}
	}
	r := row{group: cloudConfig, what: c.repo.CloudConfig, dev: value(c.dev, applied), target: value(c.target, applied), repo: short(c.repo.Hash)}
	r.cure = c.provision(r)
	c.add(r)
}

// short is enough of a digest to tell it from others. What is said instead of
// one stays whole.
func short(digest string) string {
	if len(digest) == hex.EncodedLen(sha256.Size) {
		return digest[:12]
	}
	return digest
}

func (c *comparison) app() {
	image := func(f *facts.Facts) string {
		if f.Running == nil {
			return "nothing runs"
		}
		return short(f.Running.Digest)
	}
	r := row{group: app, what: "image", dev: value(c.dev, image), target: value(c.target, image)}
	if c.both() {
		r.cure = "`" + c.target.Deploy + "`"
		switch {
		case r.dev == "nothing runs":
			r.cure = "`" + c.dev.Deploy + "`"
		case r.target != "nothing runs" && c.dev.Facts.System.Arch != c.target.Facts.System.Arch:
			r.expect = "the image is built for each architecture"
		}
	} else if r.dev+r.target == "nothing runs" {
		r.made, r.cure = true, "`"+c.hosts()[0].Deploy+"`"
	}
	c.add(r)

	if c.repo.Profile != "" {
		profile := func(f *facts.Facts) string {
			switch {
			case f.Running == nil:
				return c.repo.Profile // that nothing runs is told already
			case f.Running.Settings.Profile == "":
				return "default"
			}
			return f.Running.Settings.Profile
		}
		r := row{group: app, what: "profile", dev: value(c.dev, profile), target: value(c.target, profile), repo: c.repo.Profile}
		r.cure = c.deploy(r)
		c.add(r)
	}
	c.env()
	if !c.read(app, "units") {
		return
	}
	for _, name := range keys(c, func(f *facts.Facts) map[string]string { return f.Units }, slices.Collect(maps.Keys(c.repo.Units))...) {
		hash := func(f *facts.Facts) string { return short(f.Units[name]) }
		r := row{group: app, what: name, dev: value(c.dev, hash), target: value(c.target, hash), repo: short(c.repo.Units[name])}
		if r.repo != "" {
			r.cure = c.deploy(r)
		} else if c.both() {
			r.cure = "`" + c.target.Deploy + "`"
		}
		c.add(r)
	}
}

// env compares each host with what devbox.yaml declares for it. That the two
// differ where it declares so is right.
func (c *comparison) env() {
	set := map[string]bool{}
	each := func(env map[string]map[string]string) {
		for unit, vars := range env {
			for name := range vars {
				set[unit+" "+name] = true
			}
		}
	}
	for _, h := range c.hosts() {
		each(h.Env)
		if h.Facts.Running != nil {
			each(h.Facts.Running.Settings.Env)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		unit, name, _ := strings.Cut(key, " ")
		d := Difference{Group: app, What: "env " + key, Kind: Expected, Why: "devbox.yaml says so"}
		var wrong []*Host
		var wants []string
		for _, h := range c.hosts() {
			want := show(h.Env[unit], name)
			have := want
			if h.Facts.Running != nil {
				have = show(h.Facts.Running.Settings.Env[unit], name)
			}
			if have != want {
				wrong = append(wrong, h)
			}
			wants = append(wants, want)
			if h == c.dev {
				d.Dev = have
			} else {
				d.Target = have
			}
		}
		if d.Repo = wants[0]; len(wants) == 2 && wants[0] != wants[1] {
			d.Repo = fmt.Sprintf("%s: %s, %s: %s", c.dev.Name, orNone(wants[0]), c.target.Name, orNone(wants[1]))
		}
		if len(wrong) > 0 {
			d.Kind, d.Why, d.Cure = Drift, "", commands(wrong, func(h *Host) string { return h.Deploy })
		} else if !c.both() || d.Dev == d.Target {
			continue
		}
		c.found = append(c.found, d)
	}
}

// show is a variable as it would be written, "" if it is not set.
func show(vars map[string]string, name string) string {
	if v, ok := vars[name]; ok {
		return fmt.Sprintf("%q", v)
	}
	return ""
}

func orNone(s string) string {
	if s == "" {
		return "not set"
	}
	return s
}

// machinery are packages that depend on what kind of machine a host is.
var machinery = regexp.MustCompile(`^(linux-(image|headers|base|kbuild|sysctl)|grub|shim-|efi|mokutil|initramfs-tools|dracut|klibc|libklibc|firmware-|` +
	`intel-microcode|amd64-microcode|iucode-tool|qemu-guest-agent|open-vm-tools|hyperv-daemons|cloud-(guest-utils|image-utils|initramfs)|` +
	`hc-utils|google-|waagent|walinuxagent|amazon-|ec2-|lima|systemd-boot|parted|gdisk|fdisk|os-prober|ifupdown|netplan|isc-dhcp-client|dhcpcd|pciutils|usbutils)`)

func (c *comparison) packages() {
	if !c.read(packages, "packages") {
		return
	}
	for _, name := range keys(c, func(f *facts.Facts) map[string]facts.Package { return f.Packages }, c.repo.Packages...) {
		version := func(f *facts.Facts) string { return f.Packages[name].Version }
		r := row{group: packages, what: name, dev: value(c.dev, version), target: value(c.target, version)}
		declared := slices.Contains(c.repo.Packages, name)
		for _, h := range c.hosts() {
			if declared && version(h.Facts) == "" {
				r.repo = "installed"
			}
		}
		switch only := c.only(r.dev, r.target); {
		case r.repo != "":
			r.cure = commands(slices.DeleteFunc(c.hosts(), func(h *Host) bool { return version(h.Facts) != "" }), func(h *Host) string { return h.Provision })
		case machinery.MatchString(name):
			r.expect = "it depends on what kind of machine a host is"
		case only != nil:
			r.made = !declared
			r.expect = extra(only, name)
			r.cure = fmt.Sprintf("add it to `packages` of %s, or on %s: apt-get purge %s", c.repo.CloudConfig, only.Name, name)
		default:
			r.cure = update
		}
		c.add(r)
	}
}

// extra explains a package that one host has and nothing asks for, "" if a
// person installed it.
func extra(h *Host, name string) string {
	switch p := h.Facts.Packages[name]; {
	case p.Base:
		return "part of every Debian by its priority; " + h.Name + " was installed with it"
	case p.Auto:
		return "another package of " + h.Name + " needs it"
	case slices.Contains(h.Packages, name):
		return h.Name + " was made with it"
	}
	return ""
}

// Files that the provider or the driver of the machine made for it.
var madeWithMachine = regexp.MustCompile(`^/etc/(netplan/|network/|systemd/network/|cloud/|hosts$|fstab$|crypttab$|default/(grub|networking|keyboard|console-setup)|` +
	`locale\.|default/locale$|vconsole\.conf$|motd$|issue|initramfs-tools/|kernel/|modprobe\.d/|modules|grub\.d/|mdadm/|lvm/|` +
	`apt/sources\.list$|apt/sources\.list\.d/debian\.sources$|apt/mirrors/|apt/apt\.conf\.d/[^/]*(proxy|mmdebstrap)|dpkg/dpkg\.cfg\.d/|environment$|` +
	`ssh/sshd_config\.d/50-cloud-init\.conf$|dhcp|resolvconf/|udev/rules\.d/|lima)`)

// byPerson are folders in which only a person, or what a person runs, puts a
// file that no package has.
var byPerson = regexp.MustCompile(`^(/etc/(sysctl\.d|ssh/sshd_config\.d|cron\.[a-z]+|apt/(sources\.list|preferences|apt\.conf)\.d|systemd|profile\.d|ld\.so\.conf\.d|security/limits\.d|nftables\.conf$)(/|$)|/usr/local/(s?bin|lib)/)`)

func (c *comparison) files() {
	if !c.read(files, "files") {
		return
	}
	for _, name := range keys(c, func(f *facts.Facts) map[string]string { return f.Files }, slices.Collect(maps.Keys(c.repo.Files))...) {
		if facts.SudoersFile(name) || !(strings.HasPrefix(name, "/etc/") || strings.HasPrefix(name, "/usr/local/")) {
			continue // has its own group, or is not read
		}
		what := func(f *facts.Facts) string { return short(f.Files[name]) }
		r := row{group: files, what: name, dev: value(c.dev, what), target: value(c.target, what), made: byPerson.MatchString(name)}
		if content, ok := c.repo.Files[name]; ok {
			c.wantFile(&r, content)
		} else {
			r.expect = c.explainFile(name, r)
			if only := c.only(r.dev, r.target); only != nil {
				r.cure = fmt.Sprintf("bring it into %s, or remove it from %s", c.repo.CloudConfig, only.Name)
			} else {
				r.cure = fmt.Sprintf("bring it into %s, or make it the same by hand", c.repo.CloudConfig)
			}
		}
		c.add(r)
	}
}

// wantFile is for a file that the cloud-config writes. Of one whose content is
// not known, only that it is there can be compared.
func (c *comparison) wantFile(r *row, content []byte) {
	r.repo = short(facts.Digest(content))
	for _, have := range []*string{&r.dev, &r.target} {
		if *have != "" && (content == nil || *have == facts.Private) {
			*have = r.repo
		}
	}
	r.cure = c.provision(*r)
	if r.cure != "" {
		r.cure = "bring the change into " + c.repo.CloudConfig + ", or apply the file again: " + r.cure
	}
}

func (c *comparison) explainFile(name string, r row) string {
	if madeWithMachine.MatchString(name) {
		return "made with the machine, by its provider or by devbox"
	}
	if name == "/etc/systemd/system/devbox-recover.service" {
		return "installed by devbox, with devbox-host"
	}
	if rest, ok := strings.CutPrefix(name, "/etc/systemd/system/"); ok {
		if unit, ok := strings.CutSuffix(rest, ".d/50-devbox.conf"); ok {
			return "made by devbox, of the environment of " + unit
		}
	}
	if strings.HasPrefix(name, "/etc/pam.d/common-") && c.both() && !slices.Equal(named(c.dev, "libpam-"), named(c.target, "libpam-")) {
		return "made of the PAM modules that are installed, which are not the same"
	}
	if name == "/etc/nsswitch.conf" && c.both() && !slices.Equal(named(c.dev, "libnss-"), named(c.target, "libnss-")) {
		return "made of the NSS modules that are installed, which are not the same"
	}
	only := c.only(r.dev, r.target)
	if only == nil {
		return ""
	}
	if slices.Contains(only.Facts.Scripted, name) {
		return "made by a package of " + only.Name
	}
	if only == c.dev && (strings.Contains(path.Base(name), "devbox") || strings.Contains(name, "lima")) {
		return "made by devbox for a dev machine"
	}
	return ""
}

// named are a host's packages whose names begin so.
func named(h *Host, prefix string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(h.Facts.Packages)), func(name string) bool { return !strings.HasPrefix(name, prefix) })
}

// idle are units that have nothing to do in a container.
var idle = regexp.MustCompile(`^((console-|container-)?getty[@.]|console-getty\.|dev-|fstrim\.|sshd-keygen\.|sys-|systemd-(modules-load|pstore|udev|random-seed))`)

func (c *comparison) units() {
	if !c.read(units, "enabled units") {
		return
	}
	for _, name := range keys(c, func(f *facts.Facts) map[string]facts.Unit { return f.Enabled }) {
		state := func(f *facts.Facts) string { return f.Enabled[name].State }
		r := row{group: units, what: name, dev: value(c.dev, state), target: value(c.target, state)}
		if !c.both() {
			continue // packages enable units too
		}
		r.cure = "the same on both: systemctl enable, disable, mask or unmask " + name
		r.expect = c.explainUnit(name, r)
		c.add(r)
	}
}

func (c *comparison) explainUnit(name string, r row) string {
	for _, h := range c.hosts() {
		for _, other := range h.Facts.Apps {
			if other != c.repo.App && ofApp(name, other) {
				return "of the app " + other + ", which devbox runs there"
			}
		}
		if contained(h) && idle.MatchString(name) && (h == c.dev && r.dev == "masked" || h == c.target && r.target == "masked") {
			return "masked in a container, where it has nothing to do"
		}
	}
	if only := c.only(r.dev, r.target); only != nil {
		owner := only.Facts.Enabled[name].Package
		if p, ok := c.other(only).Facts.Packages[owner]; owner != "" && (!ok || p.Version == "") {
			return "of the package " + owner + ", which only " + only.Name + " has"
		}
	}
	return ""
}

func ofApp(unit, app string) bool {
	rest, ok := strings.CutPrefix(unit, app)
	return ok && rest != "" && strings.ContainsRune("-.@", rune(rest[0]))
}
