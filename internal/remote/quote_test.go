package remote

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestQuote(t *testing.T) {
	for want, args := range map[string][]string{
		``:                       nil,
		`''`:                     {""},
		`ls -l /tmp/a.b,c:d@e+f`: {"ls", "-l", "/tmp/a.b,c:d@e+f"},
		`'it'\''s' 'a b'`:        {"it's", "a b"},
		`'A=b' '~' '*'`:          {"A=b", "~", "*"},
		`'if' 'time' iffy`:       {"if", "time", "iffy"},
	} {
		if got := Quote(args...); got != want {
			t.Errorf("Quote(%q) = %s, want %s", args, got, want)
		}
	}
}

// TestQuoteAgainstShells lets real shells split what Quote joined.
func TestQuoteAgainstShells(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	alphabet := []string{"a", "Z", "0", " ", "\t", "\n", "\r", "'", `"`, `\`, "$", "`", "!", "*", "?", "[", "]", "{", "}", "~", "#", "&", ";",
		"|", "<", ">", "(", ")", "=", "%", "^", "-", "--", "é", "\x01", "\x7f", "\xff", "$(id)", "''", "\\'", "$'x'"}
	args := slices.Clone(reserved)
	for range 2000 {
		var b strings.Builder
		for range r.IntN(7) {
			b.WriteString(alphabet[r.IntN(len(alphabet))])
		}
		args = append(args, b.String())
	}
	tried := 0
	for _, shell := range []string{"sh", "bash", "dash", "zsh", "ksh", "busybox"} {
		bin, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		tried++
		argv := []string{"-s"}
		if shell == "busybox" {
			argv = []string{"sh", "-s"}
		}
		cmd := exec.Command(bin, argv...)
		cmd.Stdin = strings.NewReader("export LC_ALL=C\n" + Quote(append([]string{"printf", `%s\0`}, args...)...) + "\n")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", shell, err)
		}
		got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		for i := range min(len(got), len(args)) {
			if got[i] != args[i] {
				t.Fatalf("%s: argument %d is %q, want %q", shell, i, got[i], args[i])
			}
		}
		if len(got) != len(args) {
			t.Fatalf("%s: %d arguments, want %d", shell, len(got), len(args))
		}
		// As the first word, each reserved word must be a command, not syntax.
		for _, word := range reserved {
			cmd := exec.Command(bin, append(argv[:len(argv)-1], "-c", Quote(word, "x"))...)
			cmd.Env = []string{"PATH=/nonexistent"} // There may be a program called time.
			var said bytes.Buffer
			cmd.Stderr = &said
			if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 127 {
				t.Errorf("%s: %s ran as %v: %s", shell, Quote(word), err, &said)
			}
		}
	}
	if tried == 0 {
		t.Fatal("no shell was tried")
	}
}
