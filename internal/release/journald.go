package release

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// logLimit is how long the log of a failed unit may take to read, on a slow
// machine, too.
const logLimit = 10 * time.Second

// Log implements [System].
func (s *Systemd) Log(ctx context.Context, unit, invocation string, lines int) ([]string, error) {
	if invocation == "" {
		return nil, nil
	}
	// Of a process that died before journald looked at it, the journal knows
	// the unit alone; hence more than the invocation's own, and more of it.
	out, err := journalctl(ctx, "--lines="+strconv.Itoa(10*lines),
		"_SYSTEMD_INVOCATION_ID="+invocation, "+", "INVOCATION_ID="+invocation, "+", "_SYSTEMD_UNIT="+unit)
	if err != nil {
		return nil, fmt.Errorf("read the journal of %s: %w", unit, err)
	}
	all := messages(out, invocation)
	return all[max(0, len(all)-lines):], nil
}

// Errors implements [System].
func (s *Systemd) Errors(ctx context.Context, invocations []string, since time.Duration) (map[string]string, error) {
	found := map[string]string{}
	for _, id := range invocations { // one at a time: who logs much hides no other
		out, err := journalctl(ctx, fmt.Sprintf("--since=-%ds", int(since.Seconds())), "--lines=1000", "_SYSTEMD_INVOCATION_ID="+id)
		if err != nil {
			return nil, fmt.Errorf("read the journal: %w", err)
		}
		maps.Copy(found, newestErrors(out))
	}
	return found, nil
}

// journalctl is its answer, a JSON object a line.
func journalctl(ctx context.Context, args ...string) ([]byte, error) {
	// A journald that is stuck must not hold up going back.
	ctx, cancel := context.WithTimeout(ctx, logLimit)
	defer cancel()
	// A process that has just died may have lines on their way to journald.
	_ = exec.CommandContext(ctx, "journalctl", "--sync").Run()
	return exec.CommandContext(ctx, "journalctl", append([]string{"--quiet", "--no-pager", "--output=json",
		"--output-fields=MESSAGE,PRIORITY,_SYSTEMD_INVOCATION_ID,INVOCATION_ID"}, args...)...).Output()
}

// entry is one of the journal; see systemd.journal-fields(7).
type entry struct {
	Message    json.RawMessage `json:"MESSAGE"`
	Priority   string          `json:"PRIORITY"`               // of syslog(3): "3" is an error, less is worse
	Invocation string          `json:"_SYSTEMD_INVOCATION_ID"` // whose process wrote it
	Of         string          `json:"INVOCATION_ID"`          // what systemd itself says of an invocation
}

// each calls do for the entries of journalctl's answer.
func each(out []byte, do func(entry)) {
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Buffer(nil, 8<<20)
	for sc.Scan() {
		var e entry
		if json.Unmarshal(sc.Bytes(), &e) == nil {
			do(e)
		}
	}
}

// lines are those of the message, printable and bounded.
func (e entry) lines() (all []string) {
	var text string
	if json.Unmarshal(e.Message, &text) != nil {
		// A message that is not UTF-8 comes as an array of byte values.
		var values []byte
		var numbers []int
		if json.Unmarshal(e.Message, &numbers) != nil {
			return nil
		}
		for _, n := range numbers {
			values = append(values, byte(n))
		}
		text = strings.ToValidUTF8(string(values), "\uFFFD")
	}
	for line := range strings.Lines(text) {
		all = append(all, printable(line))
	}
	return all
}

// messages takes out what the invocation has logged, and after the first of
// that what came from no known one. What systemd says of it is told where the
// program said nothing, perhaps because it was never started.
func messages(out []byte, invocation string) []string {
	var own, said []string
	begun := false
	each(out, func(e entry) {
		switch {
		case e.Of == invocation:
			begun = true
			said = append(said, e.lines()...)
		case e.Invocation == invocation, begun && e.Of == "" && e.Invocation == "":
			begun = true
			own = append(own, e.lines()...)
		}
	})
	if len(own) > 0 {
		return own
	}
	return said
}

// anError is how log/slog, logrus, zap and their like mark a line that is one.
var anError = regexp.MustCompile(`(?i)\b"?level"?[=:] ?"?(error|fatal|panic)\b`)

// newestErrors takes out the newest line of each invocation that is an error.
func newestErrors(out []byte) map[string]string {
	newest := map[string]string{}
	each(out, func(e entry) {
		for _, line := range e.lines() {
			if e.Invocation != "" && (len(e.Priority) == 1 && e.Priority <= "3" || anError.MatchString(line)) {
				newest[e.Invocation] = line
			}
		}
	})
	return newest
}

// maxLogLine bounds one line of a log in runes.
const maxLogLine = 500

// printable drops what could steer a terminal.
func printable(line string) string {
	runes := []rune(strings.TrimRight(line, "\r\n"))
	if len(runes) > maxLogLine {
		runes = append(runes[:maxLogLine], '…')
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, string(runes))
}
