package drift

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// few is how many differences of a group are shown unless all are asked for.
const few = 8

// Names are what the sides are called; a side without a name was not asked.
type Names struct {
	Dev    string `json:"dev,omitempty"`
	Target string `json:"target,omitempty"`
}

// Text is the differences for a person, a line each, in groups. Without all, of
// those that are expected only their number is told, and of long groups the
// first ones are shown.
func Text(found []Difference, n Names, all bool) []string {
	var lines []string
	for len(found) > 0 {
		group := found
		for i, d := range found {
			if d.Group != found[0].Group {
				group = found[:i]
				break
			}
		}
		found = found[len(group):]
		lines = append(lines, textOf(group, n, all)...)
	}
	return lines
}

func textOf(group []Difference, n Names, all bool) []string {
	var shown []Difference
	for _, d := range group {
		if all || d.Kind != Expected {
			shown = append(shown, d)
		}
	}
	if len(shown) == 0 {
		return nil
	}
	hidden := 0
	if !all && len(shown) > few {
		hidden, shown = len(shown)-few, shown[:few]
	}
	width := 0
	for _, d := range shown {
		width = max(width, min(utf8.RuneCountInString(d.What), 40))
	}
	lines := []string{group[0].Group}
	for i, d := range shown {
		lines = append(lines, strings.TrimRight(fmt.Sprintf("  %s  %s", pad(d.What, width), sides(d, n)), " "))
		note := d.Cure
		if note != "" {
			note = "hint: " + note
		}
		if d.Kind != Drift {
			note = d.Kind + ": " + d.Why
		}
		// What follows each other with the same cure has it once.
		if next := i + 1; note != "" && !(next < len(shown) && shown[next].Cure == d.Cure && shown[next].Kind == d.Kind && shown[next].Why == d.Why) {
			lines = append(lines, "      "+note)
		}
	}
	if hidden > 0 {
		lines = append(lines, fmt.Sprintf("  … and %d more, see --all", hidden))
	}
	return lines
}

func sides(d Difference, n Names) string {
	if d.Kind == Unknown {
		return ""
	}
	var parts []string
	add := func(name, v string, always bool) {
		if name == "" || v == "" && !always {
			return
		}
		if v == "" {
			v = "-"
		}
		parts = append(parts, name+": "+v)
	}
	add(n.Dev, d.Dev, true)
	add(n.Target, d.Target, true)
	add("repo", d.Repo, false)
	return strings.Join(parts, "  ")
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// Summary is one line about all differences.
func Summary(found []Difference) string {
	drifted := Count(found)
	text := fmt.Sprintf("%s, and %d more that are expected", counted(drifted, "difference"), len(found)-drifted)
	if drifted == 0 {
		text = fmt.Sprintf("no drift; %s expected", counted(len(found), "difference"))
	}
	return text
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
