package ui

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Span is one named part of a whole.
type Span struct {
	Name string
	Took time.Duration
}

// Waterfall draws spans that followed each other as one line, each bar as wide
// as its share of width cells: "build ▆▆▆ 310ms · pack ▆ 40ms". Spans under a
// millisecond are left out.
func Waterfall(spans []Span, width int) string {
	var total time.Duration
	for _, s := range spans {
		total += s.Took
	}
	if total <= 0 {
		return ""
	}
	var parts []string
	for _, s := range spans {
		if s.Took < time.Millisecond {
			continue
		}
		cells := max(1, int((int64(width)*int64(s.Took)+int64(total)/2)/int64(total)))
		parts = append(parts, fmt.Sprintf("%s %s %s", s.Name, strings.Repeat("▆", cells), Seconds(s.Took)))
	}
	return strings.Join(parts, " · ")
}

// Percentile returns the smallest sample that at least p (0 to 1) of all
// samples do not exceed; 0 without samples.
func Percentile(samples []time.Duration, p float64) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Clone(samples)
	slices.Sort(s)
	i := int(p*float64(len(s))+0.9999999) - 1
	return s[min(max(i, 0), len(s)-1)]
}
