package image

import (
	"path"
	"slices"
	"strings"
)

// collect fills in what follows from the options.
func (u *Unit) collect() {
	u.collectExecs()
	u.collectReads()
	switch u.Type {
	case "service":
		u.collectDirs()
	case "socket":
		for _, o := range u.values("Socket", func(n string) bool { return strings.HasPrefix(n, "Listen") }) {
			u.Listen = append(u.Listen, o.value)
		}
		u.Service = u.Last("Socket", "Service")
	case "timer":
		u.Service = u.Last("Timer", "Unit")
	case "path":
		u.Service = u.Last("Path", "Unit")
	}
	if u.Service == "" && u.Type != "service" && u.Type != "target" {
		u.Service = strings.TrimSuffix(u.Name, "."+u.Type) + ".service"
	}
}

func isExec(name string) bool {
	return strings.HasPrefix(name, "Exec") && name != "ExecSearchPath" && name != "ExecPaths"
}

// execLine is one command of an Exec*= setting.
type execLine struct {
	option
	prefix string   // "-", "@", "+" and so on
	path   string   // of the program, "" if a specifier or a bare name hides it
	name   string   // as written
	args   []string // after the program
}

func (u *Unit) execLines() []execLine {
	var all []execLine
	for _, o := range u.values(u.section(), isExec) {
		words := splitWords(o.value)
		for len(words) > 0 {
			end := slices.Index(words, ";")
			cmd := words
			if end >= 0 {
				cmd, words = words[:end], words[end+1:]
			} else {
				words = nil
			}
			if len(cmd) == 0 {
				continue
			}
			name := strings.TrimLeft(cmd[0], "@-:+!|")
			args := cmd[1:]
			prefix := cmd[0][:len(cmd[0])-len(name)]
			if strings.Contains(prefix, "@") && len(args) > 0 {
				args = args[1:] // argv[0], not an argument
			}
			e := execLine{option: o, prefix: prefix, name: name, args: args}
			if p := u.expand(name); path.IsAbs(p) && !strings.Contains(p, "%") {
				e.path = path.Clean(p)
			}
			all = append(all, e)
		}
	}
	return all
}

// section is the one that holds a unit type's own settings.
func (u *Unit) section() string {
	if u.Type == "" {
		return ""
	}
	return strings.ToUpper(u.Type[:1]) + u.Type[1:]
}

func (u *Unit) collectExecs() {
	for _, e := range u.execLines() {
		if e.path != "" && !slices.Contains(u.Execs, e.path) {
			u.Execs = append(u.Execs, e.path)
		}
	}
}

// expand replaces the specifiers of systemd.unit(5) that follow from the unit's
// name or are the same on every host. Others stay as they are.
func (u *Unit) expand(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	base := strings.TrimSuffix(u.Name, path.Ext(u.Name))
	prefix, _, _ := strings.Cut(base, "@")
	last := prefix[strings.LastIndexByte(prefix, '-')+1:]
	return strings.NewReplacer(
		"%%", "%", "%n", u.Name, "%N", base, "%p", prefix, "%P", prefix, "%j", last,
		"%S", "/var/lib", "%C", "/var/cache", "%L", "/var/log", "%t", "/run", "%E", "/etc",
		"%T", "/tmp", "%V", "/var/tmp",
	).Replace(s)
}

// collectReads gathers the absolute paths that the service's process is given:
// in its command lines, its environment and its working directory. Settings
// about sandboxing and about the host's own files do not say what it reads.
func (u *Unit) collectReads() {
	add := func(p string) {
		if p = path.Clean(p); p != "/" && !slices.Contains(u.Reads, p) {
			u.Reads = append(u.Reads, p)
		}
	}
	for _, e := range u.execLines() {
		for _, arg := range e.args {
			for _, p := range pathsIn(u.expand(arg)) {
				add(p)
			}
		}
	}
	for _, o := range u.setting(u.section(), "Environment") {
		for _, word := range splitWords(o.value) {
			if name, value, _ := strings.Cut(word, "="); name != "PATH" {
				for _, p := range pathsIn(u.expand(value)) {
					add(p)
				}
			}
		}
	}
	for _, name := range []string{"EnvironmentFile", "WorkingDirectory"} {
		for _, o := range u.setting(u.section(), name) {
			for _, p := range pathsIn(u.expand(strings.TrimLeft(o.value, "-"))) {
				add(p)
			}
		}
	}
	for _, o := range u.options {
		if o.section != "X-Devbox" || o.name != "Reads" {
			continue
		}
		u.ReadsDeclared = true
		for _, word := range splitWords(o.value) {
			if p := u.expand(word); path.IsAbs(p) && !slices.Contains(u.Reads, path.Clean(p)) {
				u.Reads = append(u.Reads, path.Clean(p))
			}
		}
	}
	slices.Sort(u.Reads)
}

// pathsIn finds the absolute paths in a word such as /a, -config=/a, or
// file:/a:/b. White space may be part of a path, or divide two: both are taken.
func pathsIn(word string) []string {
	var all []string
	add := func(p string) {
		// "//" begins the rest of a URL, "/" alone says nothing.
		if strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "//") && len(p) > 1 {
			all = append(all, p)
		}
	}
	for _, part := range strings.FieldsFunc(word, func(r rune) bool { return strings.ContainsRune("=:,;\"'", r) }) {
		add(part)
		if fields := strings.Fields(part); len(fields) > 1 {
			for _, f := range fields {
				add(f)
			}
		}
	}
	return all
}

// stateRoots are where systemd.exec(5) mounts the folders of a system service.
var stateRoots = []StateDir{
	{"StateDirectory", "/var/lib"},
	{"CacheDirectory", "/var/cache"},
	{"LogsDirectory", "/var/log"},
	{"RuntimeDirectory", "/run"},
	{"ConfigurationDirectory", "/etc"},
}

func (u *Unit) collectDirs() {
	for _, root := range stateRoots {
		for _, o := range u.setting("Service", root.Field) {
			for _, word := range splitWords(o.value) {
				dir, _, _ := strings.Cut(u.expand(word), ":") // dir:symlink, dir::ro
				clean := path.Clean("/" + dir)
				if dir == "" || clean == "/" || strings.Contains(dir, "..") {
					continue
				}
				u.Dirs = append(u.Dirs, StateDir{root.Field, root.Path + clean})
			}
		}
	}
}

// splitWords splits a value as systemd.service(5) splits command lines: by
// white space, with quotes and backslashes.
func splitWords(s string) []string {
	var words []string
	var word strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s):
			i++
			in = true
			word.WriteString(unescape(s[i]))
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				word.WriteByte(c)
			}
		case c == '"' || c == '\'':
			quote, in = c, true
		case c == ' ' || c == '\t':
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		default:
			in = true
			word.WriteByte(c)
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words
}

func unescape(c byte) string {
	switch c {
	case 'n':
		return "\n"
	case 't':
		return "\t"
	case 's':
		return " "
	}
	return string(rune(c))
}
