package ui

import (
	"strings"
	"text/tabwriter"
)

// Table prints rows to stdout in aligned columns, the head in upper case.
func (u *UI) Table(head []string, rows [][]string) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(cells []string) {
		w.Write([]byte(strings.Join(cells, "\t") + "\n"))
	}
	if len(head) > 0 {
		upper := make([]string, len(head))
		for i, h := range head {
			upper[i] = strings.ToUpper(h)
		}
		line(upper)
	}
	for _, r := range rows {
		line(r)
	}
	w.Flush()
	for l := range strings.Lines(b.String()) {
		u.Result("%s", strings.TrimRight(l, " \n"))
	}
}
