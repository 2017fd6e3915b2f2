package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"devbox/internal/hint"
)

// Unit is what devbox needs to know of one unit file.
type Unit struct {
	Name   string     // "bowl.service"
	Type   string     // "service", "socket", "timer", "path" or "target"
	Path   string     // in the image, without a leading slash; "" if parsed from elsewhere
	Hash   string     // SHA-256 of the file, hex
	Execs  []string   // programs it runs: absolute paths in the image
	Reads  []string   // absolute paths that it mentions or that [X-Devbox] Reads= lists
	Listen []string   // of a socket: the values of its Listen*= lines
	Dirs   []StateDir // folders it wants of the host
	// ReadsDeclared says that Reads is complete: the unit has a Reads= line,
	// even an empty one.
	ReadsDeclared bool
	// Service is the unit that a socket, timer or path starts: from Service= or
	// Unit=, else the service of the same name. "" for others.
	Service string

	options []option
}

// StateDir is one folder of StateDirectory= and its kin.
type StateDir struct {
	Field string // "StateDirectory"
	Path  string // where it is mounted: "/var/lib/bowl"
}

// maxUnit bounds a unit file in bytes; systemd itself refuses larger ones.
const maxUnit = 1 << 20

// option is one assignment of a unit file.
type option struct {
	section, name, value string
	line                 int
}

// parseOptions reads a unit file as systemd.syntax(7) says. It is our own
// because go-systemd's reader refuses lines of 2048 bytes, which systemd takes,
// and has no line numbers to show to a person.
func parseOptions(name string, data []byte) ([]option, error) {
	if len(data) > maxUnit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxUnit)
	}
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return nil, hint.Errorf("save it as UTF-8 text", "%s is not text", name)
	}
	var all []option
	section := ""
	lines := strings.Split(string(data), "\n")
	for i := 0; i < len(lines); i++ {
		at := i + 1
		line := strings.TrimSpace(lines[i])
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		for strings.HasSuffix(line, `\`) {
			line = strings.TrimSuffix(line, `\`) + " "
			i++
			// A comment inside a continued line is skipped, not joined.
			for i < len(lines) && isComment(lines[i]) {
				i++
			}
			if i >= len(lines) {
				break
			}
			line += strings.TrimSpace(lines[i])
		}
		if line[0] == '[' {
			if !strings.HasSuffix(line, "]") {
				return nil, fmt.Errorf("%s:%d: section header %q has no closing bracket", name, at, line)
			}
			section = line[1 : len(line)-1]
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("%s:%d: %q is not of the form Name=value", name, at, line)
		}
		if section == "" {
			return nil, fmt.Errorf("%s:%d: %q stands before any section", name, at, line)
		}
		all = append(all, option{section, strings.TrimSpace(key), strings.TrimSpace(value), at})
	}
	return all, nil
}

// Assignment is one line of a file that is written as unit files are.
type Assignment struct {
	Section, Name, Value string
	Line                 int
}

// ParseAssignments reads a file that is written as unit files are, and is none.
func ParseAssignments(name string, data []byte) ([]Assignment, error) {
	opts, err := parseOptions(name, data)
	all := make([]Assignment, len(opts))
	for i, o := range opts {
		all[i] = Assignment{o.section, o.name, o.value, o.line}
	}
	return all, err
}

func isComment(line string) bool {
	line = strings.TrimSpace(line)
	return line != "" && (line[0] == '#' || line[0] == ';')
}

// ParseUnit reads a unit file. name is its file name and decides the type.
func ParseUnit(name string, data []byte) (Unit, error) {
	opts, err := parseOptions(name, data)
	if err != nil {
		return Unit{}, err
	}
	sum := sha256.Sum256(data)
	u := Unit{
		Name:    name,
		Type:    strings.TrimPrefix(path.Ext(name), "."),
		Hash:    hex.EncodeToString(sum[:]),
		options: opts,
	}
	u.collect()
	return u, nil
}

// values are those of a list setting: an empty assignment clears what stands
// above it.
func (u *Unit) values(section string, match func(name string) bool) []option {
	var all []option
	for _, o := range u.options {
		if o.section != section || !match(o.name) {
			continue
		}
		if o.value == "" {
			all = slices.DeleteFunc(all, func(b option) bool { return b.name == o.name })
			continue
		}
		all = append(all, o)
	}
	return all
}

func (u *Unit) setting(section, name string) []option {
	return u.values(section, func(n string) bool { return n == name })
}

// Last is the value of a setting that keeps only its last assignment, "" if
// there is none.
func (u *Unit) Last(section, name string) string {
	if all := u.setting(section, name); len(all) > 0 {
		return all[len(all)-1].value
	}
	return ""
}

// Yes says whether a setting is switched on.
func (u *Unit) Yes(section, name string) bool { return isYes(u.Last(section, name)) }

// Words are all words of a list setting, such as the units of After=.
func (u *Unit) Words(section, name string) []string {
	var words []string
	for _, o := range u.setting(section, name) {
		for _, w := range strings.Fields(o.value) {
			words = append(words, u.expand(w))
		}
	}
	return words
}

// Section is what one section says, an assignment a line: equal for two files
// that differ only in comments and the like.
func (u *Unit) Section(name string) string {
	var b strings.Builder
	for _, o := range u.options {
		if o.section == name {
			b.WriteString(o.name + "=" + o.value + "\n")
		}
	}
	return b.String()
}
