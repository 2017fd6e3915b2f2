package main

import (
	"bytes"
	"fmt"
	"html"
	"time"
)

// bar is one line of the chart.
type bar struct {
	label string
	value time.Duration
	color string
	limit time.Duration // a mark to stay left of, 0 for none
}

const (
	blue  = "#2563eb"
	grey  = "#94a3b8"
	amber = "#d97706"
)

// chart draws two panels of bars, each with a scale of its own.
func (r *report) chart() []byte {
	var saves, ways []bar
	for _, s := range r.Saves {
		saves = append(saves,
			bar{s.Name + ": devbox, beyond the build", s.Beyond.median(), blue, s.Target},
			bar{s.Name + ": systemd by hand", s.Floor.median(), grey, 0})
	}
	if len(r.Saves) > 0 {
		ways = append(ways, bar{"devbox", r.Saves[0].Total.median(), blue, 0})
	}
	ways = append(ways,
		bar{"air, outside systemd", r.Air.median(), grey, 0},
		bar{"the article's flow", r.Article.Total.median(), amber, 0})
	panels := []struct {
		title string
		bars  []bar
	}{
		{"Save → new version answers, medians; the line is the target", saves},
		{"The same save of a template, the build included, in three ways", ways},
	}

	const width, left, line, head = 820, 260, 26, 44
	height := 16
	for _, p := range panels {
		height += head + line*len(p.bars) + 12
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="system-ui, sans-serif" font-size="13">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	y := 8
	for _, p := range panels {
		most := time.Duration(1)
		for _, x := range p.bars {
			most = max(most, x.value, x.limit)
		}
		scale := func(d time.Duration) float64 { return float64(d) / float64(most) * (width - left - 90) }
		fmt.Fprintf(&b, `<text x="12" y="%d" font-weight="600" fill="#0f172a">%s</text>`+"\n", y+24, html.EscapeString(p.title))
		y += head
		for _, x := range p.bars {
			end := left + scale(x.value)
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="#334155">%s</text>`+"\n", left-8, y+15, html.EscapeString(x.label))
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="18" fill="%s"/>`+"\n", left, y+1, max(scale(x.value), 1), x.color)
			if x.limit > 0 {
				at := left + scale(x.limit)
				fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#dc2626" stroke-width="2"/>`+"\n", at, at, y-2, y+22)
				if end < at && at < end+75 {
					end = at // the figure must not lie on the line
				}
			}
			fmt.Fprintf(&b, `<text x="%.1f" y="%d" fill="#0f172a">%s</text>`+"\n", end+6, y+15, seconds(x.value))
			y += line
		}
		y += 12
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
