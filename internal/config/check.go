package config

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

var (
	nameRE     = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$`)
	userRE     = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	profileRE  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
	variableRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	digestRE   = regexp.MustCompile(`^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$`)
	// unitRE is systemd's own rule for unit names (systemd.unit(5)), services only.
	unitRE = regexp.MustCompile(`^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.service$`)
)

const (
	// maxDeadline is the protocol's; a test of package deploy holds them together.
	maxDeadline = Duration(10 * time.Minute)

	maxKeep = 100 // the protocol's, too
	maxPort = 65535

	minMemory = Size(256 << 20)
	minDisk   = Size(2 << 30)
)

// check adds what is wrong about values that decoded well.
func check(c *Config, d *decoder) {
	checkName(c, d)
	if c.DeployUser != "" && !userRE.MatchString(c.DeployUser) {
		d.wrong("deploy_user", fmt.Sprintf("%q is not a user name", c.DeployUser), "write lower-case letters, digits, - and _, beginning with a letter")
	}
	if c.Image.Profile != "" && !profileRE.MatchString(c.Image.Profile) {
		d.wrong("image.profile", fmt.Sprintf("%q is not a profile", c.Image.Profile), "write default, nonetwork, strict, trusted, or the name of one that the host has")
	}
	checkPaths(c, d)
	checkMachine(c, d)
	checkEnv(c, d, "env", c.Env)
	checkHealth(d, "health", c.Health)
	checkState(d, c.State)
	checkDrill(c, d)
	checkTargets(c, d)
}

func checkDrill(c *Config, d *decoder) {
	for i, unit := range c.Drill.Without {
		if !unitRE.MatchString(unit) || !ownUnit(c.Name, unit) {
			d.wrong(fmt.Sprintf("drill.without[%d]", i), fmt.Sprintf("%q is not a service of this app", unit), fmt.Sprintf("write one such as %s-backup.service", c.Name))
		}
	}
	for i, port := range c.Drill.Ports {
		if port < 1 || port > maxPort {
			d.wrong(fmt.Sprintf("drill.ports[%d]", i), fmt.Sprintf("%d is not a port", port), "write one up to "+strconv.Itoa(maxPort))
		}
	}
}

func checkName(c *Config, d *decoder) {
	cure := "write lower-case letters, digits and dashes, beginning with a letter, not ending with a dash, 32 at most"
	if near := strings.ToLower(strings.ReplaceAll(c.Name, "_", "-")); nameRE.MatchString(near) {
		cure = "write " + near
	}
	switch {
	case strings.HasSuffix(c.Name, "-drill"):
		d.wrong("name", fmt.Sprintf("%q ends with -drill, as the machine of a rehearsal does, which is made and removed", c.Name), "choose another")
	case !d.written("name") || nameRE.MatchString(c.Name):
	case strings.Contains(c.Name, "_"):
		d.wrong("name", fmt.Sprintf("%q has a `_`, where systemd-portabled cuts the name of an image", c.Name), cure)
	default:
		d.wrong("name", fmt.Sprintf("%q is not a name", c.Name), cure)
	}
}

// checkPaths holds all paths to their folder. Where code lies is the user's
// business, so build.dir and watch.paths may point outside; what is copied
// into images and onto hosts must come from this repository.
func checkPaths(c *Config, d *decoder) {
	built := c.Build.Command != "" || d.unread["build"] || d.unread["build.command"]
	if !built && c.Image.Tree == "" && len(c.Image.Files) == 0 {
		d.wrong("image.tree", "nothing goes into the image", "set image.tree to the folder with the app's units, or build.command to what makes them")
	}
	if d.path("build.dir", c.Build.Dir, outside) {
		d.exists(c, "build.dir", c.Build.Dir, "folder")
	}
	if c.Image.Tree != "" || d.written("image.tree") {
		if d.path("image.tree", c.Image.Tree, inside) {
			d.exists(c, "image.tree", c.Image.Tree, "folder")
		}
	}
	to := map[string]int{}
	for i, f := range c.Image.Files {
		field := fmt.Sprintf("image.files[%d]", i)
		if d.written(field+".from") && d.path(field+".from", f.From, inside) && !built {
			d.exists(c, field+".from", f.From, "")
		}
		if !d.written(field + ".to") {
			continue
		}
		if !path.IsAbs(f.To) || path.Clean(f.To) != f.To || f.To == "/" {
			d.wrong(field+".to", fmt.Sprintf("%q is not a path in the image", f.To), "write the absolute path of the file, such as /usr/bin/"+base(f.From, "app"))
		} else if first, twice := to[f.To]; twice {
			d.wrong(field+".to", fmt.Sprintf("%s is written by image.files[%d] already", f.To, first), "remove one of them")
		}
		if _, twice := to[f.To]; !twice {
			to[f.To] = i
		}
	}
	for i, p := range c.Watch.Paths {
		field := fmt.Sprintf("watch.paths[%d]", i)
		if d.path(field, p, outside) {
			d.exists(c, field, p, "")
		}
	}
	for i, p := range c.Watch.Ignore {
		if strings.TrimSpace(p) == "" {
			d.wrong(fmt.Sprintf("watch.ignore[%d]", i), "an empty pattern", "remove it")
		}
	}
	if d.path("cloud_init", c.CloudInit, outside) {
		d.exists(c, "cloud_init", c.CloudInit, "file")
	}
}

// reach says how far a path may point.
type reach int

const (
	inside  reach = iota // of the file's folder, or below
	outside              // anywhere relative to it
)

func (d *decoder) path(field, p string, r reach) bool {
	switch {
	case p == "":
		d.wrong(field, "an empty path", "write a path relative to this file")
	case strings.ContainsRune(p, 0):
		d.wrong(field, "a path with a NUL byte", "write a path relative to this file")
	case path.IsAbs(p):
		d.wrong(field, fmt.Sprintf("%s is absolute and will not be there on another computer", p), "write a path relative to this file")
	case strings.HasPrefix(p, "~"):
		d.wrong(field, fmt.Sprintf("%s: `~` is not expanded here", p), "write a path relative to this file")
	case r == inside && (path.Clean(p) == ".." || strings.HasPrefix(path.Clean(p), "../")):
		d.wrong(field, fmt.Sprintf("%s is outside of the folder of %s", p, FileName), "move it inside, or let build.command copy it into DEVBOX_STAGE")
	default:
		return true
	}
	return false
}

// exists checks that the path is there; kind is "folder", "file" or "" for either.
func (d *decoder) exists(c *Config, field, p, kind string) {
	fi, err := os.Stat(c.Abs(p))
	switch {
	case os.IsNotExist(err) && d.written(field):
		d.wrong(field, p+" does not exist", "create it or correct the path")
	case os.IsNotExist(err):
		d.wrong(field, p+" (the default) does not exist", "create it with `devbox init`, or set "+field)
	case err != nil:
		d.wrong(field, fmt.Sprintf("%s cannot be read: %v", p, err), "")
	case kind == "folder" && !fi.IsDir():
		d.wrong(field, p+" is not a folder", "name the folder that holds it")
	case kind == "file" && !fi.Mode().IsRegular():
		d.wrong(field, p+" is not a file", "name a file")
	}
}

func base(p, fallback string) string {
	if b := path.Base(p); b != "." && b != "/" && b != ".." {
		return b
	}
	return fallback
}

func checkMachine(c *Config, d *decoder) {
	m := c.Machine
	if m.Memory < minMemory {
		d.wrong("machine.memory", fmt.Sprintf("%s is too little for Debian with systemd", m.Memory), "write at least "+minMemory.String())
	}
	if m.Disk < minDisk {
		d.wrong("machine.disk", fmt.Sprintf("%s is too little for Debian and two images", m.Disk), "write at least "+minDisk.String())
	}
	for arch, b := range m.Base {
		field := "machine.base." + arch
		if arch != "amd64" && arch != "arm64" {
			cure := "write amd64 or arm64"
			if meant, ok := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[arch]; ok {
				cure = fmt.Sprintf("did you mean %q?", meant)
			}
			d.wrongKey(field, fmt.Sprintf("%q is not an architecture", arch), cure)
		}
		if d.written(field + ".url") {
			d.address(c, field+".url", b.URL)
		}
		if d.written(field+".digest") && !digestRE.MatchString(b.Digest) {
			d.wrong(field+".digest", fmt.Sprintf("%q is not a digest", b.Digest), "write sha512: and 128 hex digits, or sha256: and 64, as published beside the image")
		}
	}
	clients := map[int]int{}
	for i, p := range m.Ports {
		if p.Client == 0 {
			continue
		}
		if first, twice := clients[p.Client]; twice {
			d.wrong(fmt.Sprintf("machine.ports[%d]", i), fmt.Sprintf("port %d of this computer is taken by machine.ports[%d]", p.Client, first),
				fmt.Sprintf("choose another, such as \"%d:%d\"", p.Client+1, p.Guest))
			continue
		}
		clients[p.Client] = i
	}
	for i, p := range m.Beside {
		field := fmt.Sprintf("machine.beside[%d]", i)
		if !d.path(field, p, outside) {
			continue
		}
		if path.Clean(p) == "." {
			d.wrong(field, "an app does not run beside itself", "name the folder of another app")
			continue
		}
		d.exists(c, field, p+"/"+FileName, "file")
	}
}

// address checks where a base image comes from.
func (d *decoder) address(c *Config, field, addr string) {
	u, err := url.Parse(addr)
	switch {
	case err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "":
	case err == nil && u.Scheme == "file" && path.IsAbs(u.Path):
	case strings.Contains(addr, "://") || err != nil:
		d.wrong(field, fmt.Sprintf("%q is not an address", addr), "write an https://, http:// or file:/// address, or a path relative to this file")
	case d.path(field, addr, outside):
		d.exists(c, field, addr, "file")
	}
}

func checkEnv(c *Config, d *decoder, at string, env map[string]map[string]string) {
	for unit, vars := range env {
		field := join(at, unit)
		switch {
		case !unitRE.MatchString(unit) && !strings.HasSuffix(unit, ".service"):
			d.wrongKey(field, fmt.Sprintf("%q is not a service", unit), fmt.Sprintf("write the whole unit name, such as %s.service", c.Name))
		case !unitRE.MatchString(unit):
			d.wrongKey(field, fmt.Sprintf("%q is not a unit name", unit), fmt.Sprintf("write one such as %s.service", c.Name))
		case nameRE.MatchString(c.Name) && !ownUnit(c.Name, unit):
			d.wrongKey(field, fmt.Sprintf("%s is not a unit of this app: systemd-portabled attaches only units that begin with %s", unit, c.Name),
				fmt.Sprintf("write %s.service or %s-NAME.service", c.Name, c.Name))
		}
		for name, value := range vars {
			f := join(field, name)
			switch {
			case !variableRE.MatchString(name):
				d.wrongKey(f, fmt.Sprintf("%q is not the name of a variable", name), "write letters, digits and _, not beginning with a digit")
			case strings.HasPrefix(name, "DEVBOX_"):
				d.wrongKey(f, "names that begin with DEVBOX_ are devbox's own", "choose another name")
			case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
				d.wrong(f, "a value with line breaks or control characters", "put it into a file of the image and name the file here")
			}
		}
	}
}

// ownUnit is portabled's rule: the prefix, then one of - . @ (portable.c,
// unit_match: "foo" matches foo.service, foo-bar.service and foo@.service).
func ownUnit(name, unit string) bool {
	rest, ok := strings.CutPrefix(unit, name)
	return ok && rest != "" && strings.ContainsRune("-.@", rune(rest[0]))
}

func checkHealth(d *decoder, at string, h Health) {
	if h.Deadline > maxDeadline {
		d.wrong(at+".deadline", fmt.Sprintf("%s is longer than a host waits", h.Deadline), "write at most "+maxDeadline.String())
	}
	if h.URL != "" && h.Command != "" {
		d.wrong(at+".command", "health has both a url and a command", "keep one of them")
	}
	if h.Expect != "" && h.URL == "" {
		d.wrong(at+".expect", "health expects a text, but has no url that it could be found at", "add "+at+".url, or remove it")
	}
	if h.URL == "" {
		return
	}
	u, err := url.Parse(h.URL)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		d.wrong(at+".url", fmt.Sprintf("%q is not an address", h.URL), "write one that the host itself can fetch, such as http://127.0.0.1:8080/healthz")
	}
}

func checkState(d *decoder, s State) {
	if d.written("state.check") && len(s.Check) == 0 && !d.unread["state.check"] {
		d.wrong("state.check", "an empty list", "name a program of the image and its arguments, or remove the line")
	}
	for i, arg := range s.Check {
		field := fmt.Sprintf("state.check[%d]", i)
		switch {
		case d.unread[field]:
		case i == 0 && (!path.IsAbs(arg) || path.Clean(arg) != arg || arg == "/"):
			d.wrong(field, fmt.Sprintf("%q is not the path of a program in the image", arg), "write its absolute path there, such as /usr/bin/"+base(arg, "app"))
		case strings.ContainsFunc(arg, unicode.IsControl):
			d.wrong(field, "an argument with line breaks or control characters", "have the program of the image know it")
		}
	}
}

// DevName is what output calls the dev machine beside targets.
const DevName = "dev"

// checkTargets also gives targets the health of the dev machine that have none
// of their own.
func checkTargets(c *Config, d *decoder) {
	for name, t := range c.Targets {
		field := join("targets", name)
		if !nameRE.MatchString(name) {
			d.wrongKey(field, fmt.Sprintf("%q is not a name", name), "write lower-case letters, digits and dashes, beginning with a letter, such as prod")
		}
		if name == DevName {
			d.wrongKey(field, fmt.Sprintf("%s is what devbox calls the dev machine", name), "give the server another name, such as prod")
		}
		if d.written(field + ".host") {
			checkHost(d, field, t)
		}
		if t.Port > maxPort {
			d.wrong(field+".port", fmt.Sprintf("%d is not a port", t.Port), "write one up to "+strconv.Itoa(maxPort))
		}
		if t.User != "" && !userRE.MatchString(t.User) {
			d.wrong(field+".user", fmt.Sprintf("%q is not a user name", t.User), "write root, or the user who may use sudo there")
		}
		checkEnv(c, d, field+".env", t.Env)
		if d.written(field + ".health") {
			checkHealth(d, field+".health", t.Health)
		} else {
			t.Health = c.Health
		}
		if t.Trial > maxDeadline {
			d.wrong(field+".trial", fmt.Sprintf("%s is longer than a host waits", t.Trial), "write at most "+maxDeadline.String())
		}
		if t.Keep > maxKeep {
			d.wrong(field+".keep", fmt.Sprintf("%d is more than a host keeps", t.Keep), "write at most "+strconv.Itoa(maxKeep))
		}
		c.Targets[name] = t
	}
}

func checkHost(d *decoder, field string, t Target) {
	user, host, at := strings.Cut(t.Host, "@")
	switch {
	case at && user != "" && host != "":
		d.wrong(field+".host", fmt.Sprintf("%q names a user", t.Host), fmt.Sprintf("write host: %s, and who `devbox provision` logs in as under user", host))
	case strings.Contains(t.Host, "://"):
		d.wrong(field+".host", fmt.Sprintf("%q is a web address", t.Host), "write the name or address of the server alone")
	case strings.Count(t.Host, ":") == 1:
		d.wrong(field+".host", fmt.Sprintf("%q has a port", t.Host), "write the port of the SSH server under port")
	case t.Host == "" || strings.HasPrefix(t.Host, "-") || strings.ContainsFunc(t.Host, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' || r == '@' }):
		d.wrong(field+".host", fmt.Sprintf("%q is not a host", t.Host), "write the server's name or address, or its name in ~/.ssh/config")
	}
}
