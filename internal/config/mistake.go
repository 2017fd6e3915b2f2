package config

import (
	"fmt"
	"strings"
)

// Mistake is one thing that is wrong in devbox.yaml.
type Mistake struct {
	File    string `json:"file"`
	Line    int    `json:"line"`            // from 1
	Column  int    `json:"column"`          // from 1
	Field   string `json:"field,omitempty"` // "machine.ports[1]"; "" is the whole file
	Problem string `json:"problem"`
	Cure    string `json:"cure,omitempty"`
}

// Error gives the mistake on one line, its place first as compilers do.
func (m Mistake) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: ", m.File, m.Line, m.Column)
	if m.Field != "" {
		b.WriteString(m.Field + ": ")
	}
	b.WriteString(m.Problem)
	if m.Cure != "" {
		b.WriteString("; " + m.Cure)
	}
	return b.String()
}

// Mistakes is everything that is wrong in one devbox.yaml, in the file's order.
type Mistakes []Mistake

// Error lists all mistakes, one a line.
func (ms Mistakes) Error() string {
	lines := make([]string, len(ms))
	for i, m := range ms {
		lines[i] = m.Error()
	}
	return strings.Join(lines, "\n")
}
