package watch

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// rules are the patterns of one .gitignore, and those that they refine. The
// last pattern that matches decides; gitignore(5) has the details.
type rules struct {
	outer    *rules
	dir      string // absolute; patterns are relative to it
	patterns []pattern
}

// pattern is one line of a .gitignore.
type pattern struct {
	glob     string
	negate   bool // a match is not ignored
	dirOnly  bool
	anchored bool   // matches the whole path, else the name alone
	literal  bool   // glob has no special characters
	suffix   string // of a glob that is "*" and this
}

// editorFiles come and go while a person edits. They are ignored unless a
// .gitignore says otherwise.
const editorFiles = `
*~
.*.sw?
.sw?
.#*
\#*#
4913
*___jb_tmp___
*___jb_old___
.goutputstream-*
.DS_Store
`

// refine returns rules that add the patterns in text to outer.
func refine(outer *rules, dir string, text []byte) *rules {
	r := &rules{outer: outer, dir: dir}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	for line := range strings.Lines(string(text)) {
		if p, ok := parsePattern(line); ok {
			r.patterns = append(r.patterns, p)
		}
	}
	if len(r.patterns) == 0 {
		return outer
	}
	return r
}

func parsePattern(line string) (pattern, bool) {
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	if strings.HasPrefix(line, "#") {
		return pattern{}, false
	}
	line = trimSpaces(line)
	var p pattern
	line, p.negate = strings.CutPrefix(line, "!")
	line, p.dirOnly = strings.CutSuffix(line, "/")
	p.anchored = strings.Contains(line, "/")
	line = strings.TrimPrefix(line, "/")
	if line == "" {
		return pattern{}, false
	}
	p.glob = line
	p.literal = !strings.ContainsAny(line, `*?[\`)
	if rest, ok := strings.CutPrefix(line, "*"); ok && !strings.ContainsAny(rest, `*?[\/`) {
		p.suffix = rest
	}
	return p, true
}

// trimSpaces removes trailing spaces that no backslash quotes.
func trimSpaces(s string) string {
	end := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case ' ':
			continue
		case '\\':
			i++
		}
		end = min(i+1, len(s))
	}
	return s[:end]
}

// decide says whether an absolute path is ignored, and whether any pattern
// speaks of it. Its parents must not be ignored.
func (r *rules) decide(path string, isDir bool) (ignored, decided bool) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	for ; r != nil; r = r.outer {
		rel, below := strings.CutPrefix(path, strings.TrimSuffix(r.dir, "/"))
		if !below || rel == "" || rel[0] != '/' {
			continue
		}
		rel = rel[1:]
		for i := len(r.patterns) - 1; i >= 0; i-- {
			if p := &r.patterns[i]; (isDir || !p.dirOnly) && p.match(rel, name) {
				return !p.negate, true
			}
		}
	}
	return false, false
}

func (p *pattern) match(rel, name string) bool {
	s := name
	if p.anchored {
		s = rel
	}
	switch {
	case p.literal:
		return s == p.glob
	case p.suffix != "" && !p.anchored:
		return strings.HasSuffix(s, p.suffix)
	}
	return glob(p.glob, s, true)
}

// glob is git's wildmatch with WM_PATHNAME: no wildcard but ** matches a
// slash. start says that pattern is at the start of a path element.
func glob(pattern, s string, start bool) bool {
	for len(pattern) > 0 {
		switch c := pattern[0]; c {
		case '*':
			stars := len(pattern) - len(strings.TrimLeft(pattern, "*"))
			rest := pattern[stars:]
			if stars == 2 && start && (rest == "" || rest[0] == '/') {
				if rest == "" {
					return true
				}
				for {
					if glob(rest[1:], s, true) {
						return true
					}
					i := strings.IndexByte(s, '/')
					if i < 0 {
						return false
					}
					s = s[i+1:]
				}
			}
			for i := 0; ; i++ {
				if glob(rest, s[i:], false) {
					return true
				}
				if i == len(s) || s[i] == '/' {
					return false
				}
			}
		case '?':
			if s == "" || s[0] == '/' {
				return false
			}
			pattern, s = pattern[1:], s[1:]
		case '[':
			if s == "" || s[0] == '/' {
				return false
			}
			ok, rest := class(pattern[1:], s[0])
			if !ok {
				return false
			}
			pattern, s = rest, s[1:]
		default:
			if c == '\\' {
				if pattern = pattern[1:]; pattern == "" {
					return false
				}
				c = pattern[0]
			}
			if s == "" || s[0] != c {
				return false
			}
			pattern, s = pattern[1:], s[1:]
			start = c == '/'
			continue
		}
		start = false
	}
	return s == ""
}

// class matches c against a bracket expression and returns what follows it.
// One that does not end matches nothing.
func class(pattern string, c byte) (bool, string) {
	negate := false
	if pattern != "" && (pattern[0] == '!' || pattern[0] == '^') {
		negate, pattern = true, pattern[1:]
	}
	match := false
	for first := true; ; first = false {
		if pattern == "" {
			return false, ""
		}
		if pattern[0] == ']' && !first {
			return match != negate, pattern[1:]
		}
		if named, rest, ok := namedClass(pattern, c); ok {
			match, pattern = match || named, rest
			continue
		}
		var lo byte
		if lo, pattern = literalByte(pattern); pattern == "" {
			return false, ""
		}
		hi := lo
		if len(pattern) > 1 && pattern[0] == '-' && pattern[1] != ']' {
			hi, pattern = literalByte(pattern[1:])
		}
		match = match || lo <= c && c <= hi
	}
}

func literalByte(pattern string) (byte, string) {
	if pattern[0] == '\\' && len(pattern) > 1 {
		pattern = pattern[1:]
	}
	return pattern[0], pattern[1:]
}

// namedClass reads one such as [:alpha:].
func namedClass(pattern string, c byte) (match bool, rest string, ok bool) {
	body, isNamed := strings.CutPrefix(pattern, "[:")
	if !isNamed {
		return false, "", false
	}
	name, rest, ended := strings.Cut(body, ":]")
	if !ended {
		return false, "", false
	}
	lower, upper, digit := 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9'
	graph := '!' <= c && c <= '~'
	switch name {
	case "alpha":
		match = lower || upper
	case "digit":
		match = digit
	case "alnum":
		match = lower || upper || digit
	case "lower":
		match = lower
	case "upper":
		match = upper
	case "space":
		match = c == ' ' || '\t' <= c && c <= '\r'
	case "blank":
		match = c == ' ' || c == '\t'
	case "punct":
		match = graph && !lower && !upper && !digit
	case "graph":
		match = graph
	case "print":
		match = graph || c == ' '
	case "cntrl":
		match = c < ' ' || c == 127
	case "xdigit":
		match = digit || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
	}
	return match, rest, true
}

// maxRules bounds a file of patterns, in bytes.
const maxRules = 1 << 20

// readRules refines outer by the .gitignore in dir and, if dir is the top of
// a repository, by its info/exclude, which ranks below.
func readRules(outer *rules, dir string) *rules {
	if git, ok := gitDir(dir); ok {
		outer = refine(outer, dir, readSmall(filepath.Join(git, "info", "exclude")))
	}
	return refine(outer, dir, readSmall(filepath.Join(dir, ".gitignore")))
}

// outerRules are those that the folders above dir set, up to the top of the
// repository that dir is in.
func outerRules(outer *rules, dir string) *rules {
	var above []string
	for d := dir; ; d = filepath.Dir(d) {
		if d != dir {
			above = append(above, d)
		}
		if _, ok := gitDir(d); ok {
			break
		}
		if filepath.Dir(d) == d {
			return outer // no repository
		}
	}
	for i := len(above) - 1; i >= 0; i-- {
		outer = readRules(outer, above[i])
	}
	return outer
}

// gitDir finds the common .git folder of a repository whose top is dir; in a
// linked worktree or a submodule, .git is a file that names it.
func gitDir(dir string) (string, bool) {
	git := filepath.Join(dir, ".git")
	info, err := os.Lstat(git)
	if err != nil {
		return "", false
	}
	if info.IsDir() {
		return git, true
	}
	target, ok := strings.CutPrefix(string(readSmall(git)), "gitdir:")
	if !ok {
		return "", false
	}
	git = within(dir, strings.TrimSpace(target))
	if common := readSmall(filepath.Join(git, "commondir")); common != nil {
		git = within(git, strings.TrimSpace(string(common)))
	}
	return git, true
}

func within(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// readSmall returns nil for a file that cannot be read.
func readSmall(name string) []byte {
	if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(bufio.NewReader(io.LimitReader(f, maxRules)))
	if err != nil {
		return nil
	}
	return b
}
