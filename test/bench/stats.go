package main

import (
	"fmt"
	"slices"
	"time"
)

// samples are durations of the same thing.
type samples []time.Duration

func (s *samples) add(d time.Duration) { *s = append(*s, d) }

// at is the sample below which the part p (0 to 1) of all lies: the nearest rank.
func (s samples) at(p float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	rank := int(p*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// median of an even number of samples is the mean of the two in the middle.
func (s samples) median() time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func seconds(d time.Duration) string {
	switch {
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	case d < 10*time.Second:
		return fmt.Sprintf("%.3f s", d.Seconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}

// row is one line of a table of samples.
func (s samples) row() string {
	if len(s) == 0 {
		return "not measured | | | | 0"
	}
	return fmt.Sprintf("%s | %s | %s | %s | %d", seconds(s.median()), seconds(s.at(0.95)), seconds(s.at(0)), seconds(s.at(1)), len(s))
}
