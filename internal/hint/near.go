package hint

import (
	"slices"
	"strings"
)

// Nearest is the candidate that word was most probably meant to be, or "".
func Nearest(word string, candidates []string) string {
	plain := strings.NewReplacer("_", "", "-", "")
	norm := func(s string) string { return plain.Replace(strings.ToLower(s)) }
	best, bestAway := "", 1+max(1, min(3, len(word)/3))
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		away := distance(norm(word), norm(c))
		if away < bestAway {
			best, bestAway = c, away
		}
	}
	return best
}

// distance counts the edits between two words: insert, delete, replace, and
// swap of neighbours (optimal string alignment).
func distance(a, b string) int {
	s, t := []rune(a), []rune(b)
	if len(s) > 64 || len(t) > 64 {
		return 64
	}
	rows := make([][]int, len(s)+1)
	for i := range rows {
		rows[i] = make([]int, len(t)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(s); i++ {
		for j := 1; j <= len(t); j++ {
			cost := 1
			if s[i-1] == t[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(s)][len(t)]
}
