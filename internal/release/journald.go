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
	"unicode"
)

// Log implements [System]. It also has what systemd says about the invocation,
// which is all there is if the program was never started.
func (s *Systemd) Log(ctx context.Context, unit string, st UnitState, lines int) ([]string, error) {
	if st.Invocation == "" {
		return nil, nil
	}
	// A process that has just died may have lines on their way to journald.
	_ = exec.CommandContext(ctx, "journalctl", "--sync").Run()
	args := []string{"--quiet", "--no-pager", "--output=json", "--output-fields=MESSAGE,_SYSTEMD_INVOCATION_ID,INVOCATION_ID",
		"--lines=" + strconv.Itoa(lines), "_SYSTEMD_INVOCATION_ID=" + st.Invocation, "+", "INVOCATION_ID=" + st.Invocation}
	if !st.Started.IsZero() {
		// Of a process that has died before journald looked at it, the journal
		// knows the unit alone.
		args = append(args, "+", "_SYSTEMD_UNIT="+unit, fmt.Sprintf("--since=@%d.%06d", st.Started.Unix(), st.Started.Nanosecond()/1000))
	}
	out, err := exec.CommandContext(ctx, "journalctl", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("read the journal of %s: %w", unit, err)
	}
	return messages(out, st.Invocation), nil
}

// messages takes the text out of journalctl's JSON lines, printable and bounded.
// Lines that are known to be of another invocation are left out.
func messages(out []byte, invocation string) []string {
	var all []string
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
		// What systemd says of a unit has PID 1's own invocation, or none.
		if entry.Unit != invocation && entry.Invocation != "" && entry.Invocation != invocation {
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
