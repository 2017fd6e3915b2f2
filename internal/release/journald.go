package release

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// logLimit is how long the log of a failed unit may take to read, on a slow
// machine, too.
const logLimit = 10 * time.Second

// Log implements [System]. It also has what systemd says about the invocation,
// which is all there is if the program was never started.
func (s *Systemd) Log(ctx context.Context, unit, invocation string, lines int) ([]string, error) {
	if invocation == "" {
		return nil, nil
	}
	// A journald that is stuck must not hold up going back.
	ctx, cancel := context.WithTimeout(ctx, logLimit)
	defer cancel()
	// A process that has just died may have lines on their way to journald.
	_ = exec.CommandContext(ctx, "journalctl", "--sync").Run()
	// Of a process that died before journald looked at it, the journal knows
	// the unit alone; hence more than the invocation's own, and more of it.
	out, err := exec.CommandContext(ctx, "journalctl", "--quiet", "--no-pager", "--output=json",
		"--output-fields=MESSAGE,_SYSTEMD_INVOCATION_ID,INVOCATION_ID", "--lines="+strconv.Itoa(10*lines),
		"_SYSTEMD_INVOCATION_ID="+invocation, "+", "INVOCATION_ID="+invocation, "+", "_SYSTEMD_UNIT="+unit).Output()
	if err != nil {
		return nil, fmt.Errorf("read the journal of %s: %w", unit, err)
	}
	all := messages(out, invocation)
	return all[max(0, len(all)-lines):], nil
}

// messages takes the text out of journalctl's JSON lines, printable and bounded.
// It takes those of the invocation, and after the first of them those of no
// known one.
func messages(out []byte, invocation string) []string {
	var all []string
	begun := false
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Buffer(nil, 8<<20)
	for sc.Scan() {
		var entry struct {
			Message    json.RawMessage `json:"MESSAGE"`
			Invocation string          `json:"_SYSTEMD_INVOCATION_ID"`
			Unit       string          `json:"INVOCATION_ID"`
		}
		if json.Unmarshal(sc.Bytes(), &entry) != nil {
			continue
		}
		switch { // what systemd says of a unit has the unit's in a field of its own
		case entry.Unit == invocation || entry.Invocation == invocation:
			begun = true
		case entry.Unit != "" || entry.Invocation != "" || !begun:
			continue
		}
		var text string
		if json.Unmarshal(entry.Message, &text) != nil {
			// A message that is not UTF-8 comes as an array of byte values.
			var values []byte
			var numbers []int
			if json.Unmarshal(entry.Message, &numbers) != nil {
				continue
			}
			for _, n := range numbers {
				values = append(values, byte(n))
			}
			text = strings.ToValidUTF8(string(values), "�")
		}
		for line := range strings.Lines(text) {
			all = append(all, printable(line))
		}
	}
	return all
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
