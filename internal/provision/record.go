package provision

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxRecord bounds one line of the host in bytes: two texts of 64 KiB, base64.
const maxRecord = 256 << 10

// record is one line of apply.sh.
type record struct {
	kind   string // same, waiting, busy, missing, begin, end, skip, undone, done
	name   string
	code   int    // of end: exit code of the step
	log    string // of end: what cloud-init logged, without debugging
	output string // of end: what the step printed
}

func readLine(in *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > maxRecord {
			return "", errors.New("the host answers with more than a record may hold")
		}
		line = append(line, part...)
		if err == bufio.ErrBufferFull {
			continue
		}
		if err == io.EOF && len(line) > 0 {
			return "", io.ErrUnexpectedEOF
		}
		return strings.TrimSuffix(string(line), "\n"), err
	}
}

// parseRecord trusts nothing: the host may print whatever it likes.
func parseRecord(line string) (record, error) {
	f := strings.Split(line, " ")
	bad := fmt.Errorf("the host answers with %.80q, which is no record", line)
	rec := record{kind: f[0]}
	want, ok := map[string]int{"same": 1, "waiting": 1, "busy": 1, "undone": 1, "done": 1, "missing": 2, "begin": 2, "skip": 2, "end": 5}[rec.kind]
	if !ok || len(f) != want {
		return record{}, bad
	}
	if want > 1 {
		rec.name = f[1]
	}
	if rec.kind != "end" {
		return rec, nil
	}
	var errs [3]error
	rec.code, errs[0] = strconv.Atoi(f[2])
	rec.log, errs[1] = decode64(f[3])
	rec.output, errs[2] = decode64(f[4])
	if errors.Join(errs[:]...) != nil {
		return record{}, bad
	}
	return rec, nil
}

func decode64(s string) (string, error) {
	if s == "-" {
		return "", nil
	}
	b, err := base64.StdEncoding.DecodeString(s)
	return strings.ToValidUTF8(string(b), "\uFFFD"), err
}

var (
	// "2026-01-02 15:04:05,678 - cc_x.py[WARNING]: text", as cloud-init logs.
	logLine = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ - \S+\[(\w+)\]: (.*)$`)
	// "OSError: text" or "cloudinit.x.SomeError: text", a traceback's last line.
	exception = regexp.MustCompile(`^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Failure|Warning|Exit): (.*)$`)
	// "E: Unable to locate package x", as apt says it. That a list could not be
	// read is a warning to apt.
	aptError = regexp.MustCompile(`^(?:E: |dpkg: error|W: Failed to fetch ).*`)
)

// message is why a step failed, in the words of what failed: the exception
// that ended cloud-init's module, with what apt said; for runcmd the command
// that the script stopped at, and its output.
func message(rec record) string {
	if rec.name == "runcmd" {
		if m := runcmdMessage(rec); m != "" {
			return m
		}
	}
	var why []string
	lines := strings.Split(rec.log, "\n")
	for i := len(lines) - 1; i >= 0 && why == nil; i-- {
		if m := exception.FindStringSubmatch(lines[i]); m != nil {
			why = append(why, m[1])
			// An exception may go on over lines, up to the next log entry.
			for _, more := range lines[i+1:] {
				if more == "" || logLine.MatchString(more) {
					break
				}
				why = append(why, strings.TrimSpace(more))
			}
		}
	}
	for _, l := range strings.Split(rec.output, "\n") {
		if aptError.MatchString(l) && !slices.Contains(why, l) {
			why = append(why, l)
		}
	}
	if why == nil {
		why = warnings(rec.log)
	}
	if why == nil {
		why = lastLines(rec.output, 3)
	}
	for i := range why {
		why[i] = strings.TrimRight(strings.TrimSpace(why[i]), ".;:")
	}
	why = slices.DeleteFunc(why, func(line string) bool { return line == "" }) // an exception may be without words
	if len(why) == 0 {
		return fmt.Sprintf("exit code %d", rec.code)
	}
	return strings.Join(why, "; ")
}

// runcmdMessage reads the trace of sh -x: "+ command", then what it said.
// Where the script itself gave up, as in `check || { tidy; exit 1; }`, the
// last command that said something is the one that matters.
func runcmdMessage(rec record) string {
	var command, telling string
	var said, told []string
	gaveUp := false
	for l := range strings.SplitSeq(strings.TrimSpace(rec.output), "\n") {
		trace, isTrace := strings.CutPrefix(l, "+ ")
		switch {
		case isTrace && strings.HasPrefix(trace, "exit "):
			gaveUp = true
		case isTrace:
			command, said = trace, nil
		default:
			said = append(said, l)
			telling, told = command, said
		}
	}
	if command == "" {
		return ""
	}
	if gaveUp && telling != "" {
		command, said = telling, told
	}
	m := fmt.Sprintf("stopped with exit code %d at `%s`", rec.code, command)
	if said = lastLines(strings.Join(said, "\n"), 5); len(said) > 0 {
		m += ": " + strings.Join(said, "; ")
	}
	return m
}

// warnings are what cloud-init was not content with, though it went on.
func warnings(log string) []string {
	var out []string
	for _, l := range strings.Split(log, "\n") {
		m := logLine.FindStringSubmatch(l)
		if m == nil || m[1] != "WARNING" && m[1] != "ERROR" && m[1] != "CRITICAL" {
			continue
		}
		// Said of every host without a data source, where --force is right.
		if strings.HasPrefix(m[2], "Failed to fetch your datasource") {
			continue
		}
		out = append(out, m[2])
	}
	return out
}

func lastLines(text string, n int) []string {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	return lines[max(0, len(lines)-n):]
}

var (
	annotated   = regexp.MustCompile(`\t\t# ((?:[ED]\d+,?)+)$`)
	explanation = regexp.MustCompile(`^# (E\d+): (.*)$`)
	format      = regexp.MustCompile(`format-l(\d+)\.c(\d+): (?:File \S+ is not valid YAML\. )?(.*)`)
)

// schemaProblems reads what `cloud-init schema --annotate` prints: the file
// with marks at the ends of lines, then what each mark means.
func schemaProblems(output string) Problems {
	if m := format.FindStringSubmatch(output); m != nil {
		line, _ := strconv.Atoi(m[1])
		column, _ := strconv.Atoi(m[2])
		return Problems{{Line: max(1, line), Column: max(1, column), Problem: "not YAML: " + m[3], Cure: "check the indentation and quotes here"}}
	}
	start := strings.Index(output, "#cloud-config")
	if start < 0 {
		return nil
	}
	at, source := map[string]int{}, map[string]string{}
	var out Problems
	explaining := false
	for i, l := range strings.Split(output[start:], "\n") {
		if strings.HasPrefix(l, "# Errors: ---") {
			explaining = true
		}
		if m := annotated.FindStringSubmatch(l); m != nil && !explaining {
			for mark := range strings.SplitSeq(m[1], ",") {
				at[mark], source[mark] = i+1, strings.TrimSpace(strings.TrimSuffix(l, m[0]))
			}
		}
		if m := explanation.FindStringSubmatch(l); m != nil && explaining {
			out = append(out, Problem{Line: max(1, at[m[1]]), Column: 1, Problem: m[2], Cure: "see `" + source[m[1]] + "`"})
		}
	}
	return out
}
