package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kevinburke/ssh_config"

	"devbox/internal/hint"
)

const (
	maxIncludeDepth = 8
	maxConfigBytes  = 1 << 20

	// Include and Match are taken from the library's hands under these names:
	// it looks the home folder up by itself, and reads the criteria of a Match
	// that it does not know as host patterns.
	includeKey  = "X-Devbox-Include"
	matchPrefix = "x-devbox-match-"
)

// sshConfig gathers what SSH config files say about one host. As in OpenSSH
// the first value of a keyword wins, but IdentityFile accumulates.
type sshConfig struct {
	alias     string // as the user wrote the host
	localUser string
	home      string
	values    map[string][]string // lower-case keyword -> values
}

// first is the value of a keyword that takes one word.
func (c *sshConfig) first(key string) string { return strings.Trim(c.raw(key), `"`) }

// raw is the value with its quotes.
func (c *sshConfig) raw(key string) string {
	if v := c.values[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// set gives a keyword the value that no file may override.
func (c *sshConfig) set(key, value string) { c.values[key] = []string{value} }

// read takes in one file; a file that is not there says nothing.
func (c *sshConfig) read(path string, depth int) error {
	if depth > maxIncludeDepth {
		return fmt.Errorf("read ssh config %s: files include each other more than %d deep", path, maxIncludeDepth)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read ssh config: %w", err)
	}
	if info.Size() > maxConfigBytes {
		return fmt.Errorf("read ssh config %s: larger than %d bytes", path, maxConfigBytes)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read ssh config: %w", err)
	}
	if err := c.parse(path, string(text), depth); err != nil {
		return hint.Wrap(fmt.Errorf("read ssh config %s: %w", path, err), "correct "+path)
	}
	return nil
}

func (c *sshConfig) parse(path, text string, depth int) error {
	text, matches := prepare(text)
	file, err := ssh_config.DecodeBytes([]byte(text))
	if err != nil {
		return err
	}
	for _, block := range file.Hosts {
		applies, err := c.applies(block, matches)
		if err != nil {
			return err
		}
		if !applies {
			continue
		}
		for _, node := range block.Nodes {
			kv, ok := node.(*ssh_config.KV)
			if !ok {
				continue
			}
			if strings.EqualFold(kv.Key, includeKey) {
				if err := c.include(path, kv.Value, depth); err != nil {
					return err
				}
				continue
			}
			key := strings.ToLower(kv.Key)
			if _, have := c.values[key]; !have || key == "identityfile" && kv.Value != "" {
				c.values[key] = append(c.values[key], kv.Value)
			}
		}
	}
	return nil
}

func (c *sshConfig) include(from, value string, depth int) error {
	patterns, err := splitWords(value)
	if err != nil {
		return fmt.Errorf("include %s: %w", value, err)
	}
	for _, pattern := range patterns {
		pattern = untilde(pattern, c.home)
		if !filepath.IsAbs(pattern) {
			base := filepath.Join(c.home, ".ssh")
			if strings.HasPrefix(filepath.Clean(from), "/etc/ssh/") {
				base = "/etc/ssh"
			}
			pattern = filepath.Join(base, pattern)
		}
		found, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("include %s: %w", pattern, err)
		}
		for _, path := range found {
			if err := c.read(path, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *sshConfig) applies(block *ssh_config.Host, matches []match) (bool, error) {
	if len(block.Patterns) == 1 {
		var n int
		if _, err := fmt.Sscanf(block.Patterns[0].String(), matchPrefix+"%d", &n); err == nil && n >= 0 && n < len(matches) {
			return c.matches(matches[n])
		}
	}
	return block.Matches(c.alias), nil
}

// match is one Match line.
type match struct {
	line     int
	criteria string
}

// matches evaluates the criteria that need nothing but names. A block whose
// other criteria hold and that asks for something else is an error: leaving it
// out silently would connect in another way than ssh does.
func (c *sshConfig) matches(m match) (bool, error) {
	words, err := splitWords(m.criteria)
	if err != nil || len(words) == 0 {
		return false, fmt.Errorf("line %d: Match needs criteria", m.line)
	}
	unknown := ""
	for i := 0; i < len(words); i++ {
		name, negated := strings.CutPrefix(strings.ToLower(words[i]), "!")
		var subject string
		switch name {
		case "all":
			continue
		case "canonical", "final":
			// Only set on a second pass, which devbox does not make.
			if !negated {
				return false, nil
			}
			continue
		case "host":
			if subject = c.first("hostname"); subject == "" {
				subject = c.alias
			}
			subject = strings.ReplaceAll(subject, "%h", c.alias)
		case "originalhost":
			subject = c.alias
		case "user":
			if subject = c.first("user"); subject == "" {
				subject = c.localUser
			}
		case "localuser":
			subject = c.localUser
		default:
			unknown = words[i]
		}
		i++
		if i == len(words) {
			return false, fmt.Errorf("line %d: Match %s needs a value", m.line, name)
		}
		if unknown != "" {
			continue
		}
		if matchList(words[i], subject) == negated {
			return false, nil
		}
	}
	if unknown != "" {
		return false, hint.Errorf("write host, user, port and key of this host explicitly, or use a Host block",
			"line %d: `Match %s` may apply to %s, and devbox does not evaluate %s", m.line, m.criteria, c.alias, unknown)
	}
	return true, nil
}

// matchList matches a pattern list as ssh_config(5) has it: separated by
// commas, with * and ?, where a negated pattern that matches decides.
func matchList(list, subject string) bool {
	found := false
	for pattern := range strings.SplitSeq(list, ",") {
		pattern, negated := strings.CutPrefix(pattern, "!")
		if pattern == "" || !wildcard(pattern, subject) {
			continue
		}
		if negated {
			return false
		}
		found = true
	}
	return found
}

func wildcard(pattern, s string) bool {
	// Remember the last star, and let it eat one byte more on each failure.
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// prepare renames Include and Match, and makes single spaces of the blanks
// between host patterns, which the library splits at single spaces only. The
// number of lines stays, for positions in errors.
func prepare(text string) (string, []match) {
	var matches []match
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for n, line := range lines {
		line = strings.TrimSpace(strings.ToValidUTF8(line, "?"))
		end := strings.IndexAny(line, " \t=\"")
		if end <= 0 || line[0] == '#' {
			if end < 0 && line != "" && line[0] != '#' {
				line = "" // A keyword without a value says nothing.
			}
			lines[n] = line
			continue
		}
		key := line[:end]
		value := strings.TrimSpace(line[end:])
		value = strings.TrimSpace(strings.TrimPrefix(value, "="))
		switch strings.ToLower(key) {
		case "include":
			line = includeKey + " " + value
		case "match":
			line = fmt.Sprintf("Host %s%d", matchPrefix, len(matches))
			value, _, _ = strings.Cut(value, " #")
			matches = append(matches, match{n + 1, value})
		case "host":
			line = "Host " + strings.Join(strings.Fields(strings.ReplaceAll(value, `"`, "")), " ")
		default:
			// The library takes off what it thinks are the quotes of the whole
			// value, as it does with `"a" "b"`.
			value, _, _ = strings.Cut(value, "#")
			if value = strings.TrimSpace(value); strings.HasPrefix(value, `"`) && strings.HasSuffix(value, `"`) {
				value = `"` + value + `"`
			}
			line = key + " " + value
		}
		lines[n] = line
	}
	return strings.Join(lines, "\n") + "\n", matches
}

// splitWords splits a value at blanks, outside double quotes.
func splitWords(value string) ([]string, error) {
	var words []string
	var word strings.Builder
	quoted, open := false, false
	for _, r := range value {
		switch {
		case r == '"':
			quoted, open = !quoted, true
		case (r == ' ' || r == '\t') && !quoted:
			if open {
				words = append(words, word.String())
				word.Reset()
				open = false
			}
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if quoted {
		return nil, errors.New("a quote is not closed")
	}
	if open {
		words = append(words, word.String())
	}
	return words, nil
}

func untilde(path, home string) string {
	if path == "~" {
		return home
	}
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return filepath.Join(home, rest)
	}
	return path
}
