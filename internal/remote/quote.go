package remote

import (
	"slices"
	"strings"
)

// reserved are the words that a POSIX shell treats as syntax where a command
// name is expected (POSIX.1-2024, XCU 2.4), and those of bash and zsh.
var reserved = []string{
	"!", "{", "}", "case", "do", "done", "elif", "else", "esac", "fi", "for", "if", "in", "then", "until", "while",
	"[[", "]]", "function", "select", "time", "coproc", "repeat", "foreach", "end", "nocorrect", "noglob",
}

// Quote joins args to one line that a shell splits into exactly these words.
// It is the only place where devbox quotes.
func Quote(args ...string) string {
	var b strings.Builder
	for i, arg := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		if plain(arg) {
			b.WriteString(arg)
			continue
		}
		b.WriteByte('\'')
		b.WriteString(strings.ReplaceAll(arg, `'`, `'\''`))
		b.WriteByte('\'')
	}
	return b.String()
}

// plain reports whether a shell takes arg as it stands. "=" is not plain: it
// makes an assignment of the first word, and zsh expands =cmd.
func plain(arg string) bool {
	if arg == "" || slices.Contains(reserved, arg) {
		return false
	}
	for i := range len(arg) {
		switch c := arg[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '/', c == '.', c == '-', c == '_', c == ':', c == ',', c == '@', c == '+':
		default:
			return false
		}
	}
	return true
}
