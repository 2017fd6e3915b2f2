package watch

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// A script drives a pace: each step at a time in milliseconds, with what the
// pace has to answer.
func TestPace(t *testing.T) {
	const none = -1
	type step struct {
		at   int
		do   string // "change PATHS", "touch", "next" (the consumer is ready)
		want int    // of "change": 1 if it supersedes; of "next": when to deliver; of "settle": when
	}
	tests := map[string][]step{
		"delivered at the first change, settled when quiet": {
			{0, "next", none},
			{100, "change a", 0},
			{100, "deliver a", 100},
			{100, "settle", 150},
			{120, "touch", 0},
			{120, "settle", 170},
		},
		"newer content supersedes once": {
			{0, "change a", 0},
			{0, "deliver a", 0},
			{10, "change a", 1},
			{20, "change b", 0},
			{30, "next", 30},
		},
		"the next batch waits for the consumer": {
			{0, "change a", 0},
			{0, "deliver a", 0},
			{60, "change b", 1},
			{70, "deliver b", none},
			{400, "next", 400},
		},
		"ceaseless changes settle at the limit and supersede no more": {
			{0, "change a", 0},
			{0, "deliver a", 0},
			{30, "change a", 1},
			{40, "next", 40},
			{40, "deliver a", 40},
			{70, "touch... 1950", 0},
			{1990, "change b", 1},
			{1995, "next", 1995},
			{1995, "deliver b", 1995},
			{1999, "touch", 0},
			{1999, "settle", 2000},
			{2001, "change c", 0},
			{2500, "next", 2500},
		},
		"a save after quiet supersedes, however long the build takes": {
			{0, "change a", 0},
			{0, "deliver a", 0},
			{0, "settle", 50},
			{3000, "change a", 1},
			{3010, "next", 3010},
			{3010, "deliver a", 3010},
			{9000, "change a", 1},
		},
		"after a batch that was not superseded the limit starts anew": {
			{0, "change a", 0},
			{0, "deliver a", 0},
			{1000, "next", none},
			{5000, "change a", 0},
			{5000, "deliver a", 5000},
			{5010, "change a", 1},
		},
		"a file that changes during each build is held back": {
			{0, "change main", 0},
			{0, "deliver main", 0},
			{10, "change gen1", 1},
			{20, "next", 20},
			{20, "deliver gen1", 20},
			{30, "change gen2", 1},
			{40, "next", 40},
			{40, "deliver gen2", 40},
			{50, "change gen3", 1},
			{60, "next gen3", 1060},
			{70, "loop gen3 main", 1},
			{80, "next gen3 main", 80}, // another change does not wait
			{1060, "deliver gen3", 1060},
			{1070, "change gen4", 0}, // and the build comes to its end
			{2000, "next gen4", 4000},
		},
		"a file that a person saves between builds is no loop": {
			{0, "change a", 0},
			{0, "deliver a", 0},
			{10, "change a", 1},
			{20, "next", 20},
			{20, "deliver a", 20},
			{30, "change a", 1},
			{40, "next", 40},
			{40, "deliver a", 40},
			{200, "next", none},
			{300, "change a", 0},
			{300, "deliver a", 300},
			{310, "change a", 1},
			{320, "next a", 320},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			epoch := time.Unix(1_700_000_000, 0)
			p := pace{quiet: 50 * time.Millisecond, limit: 2 * time.Second}
			for _, s := range steps {
				now := epoch.Add(time.Duration(s.at) * time.Millisecond)
				words := strings.Fields(s.do)
				paths := words[1:]
				due := func(at time.Time, ok bool) int {
					if !ok {
						return none
					}
					return int(at.Sub(epoch).Milliseconds())
				}
				got := 0
				switch words[0] {
				case "change":
					if p.change(now, paths) {
						got = 1
					}
				case "touch":
					p.touch(now)
				case "touch...": // every 40 ms, until
					until, err := strconv.Atoi(paths[0])
					if err != nil {
						t.Fatal(err)
					}
					for at := s.at; at <= until; at += 40 {
						p.touch(epoch.Add(time.Duration(at) * time.Millisecond))
					}
				case "next":
					p.finish(now)
					got = due(p.deliverAt(now, paths))
				case "deliver":
					at, ok := p.deliverAt(now, paths)
					if got = due(at, ok); ok {
						p.deliver()
					}
				case "settle":
					got = due(p.settleAt(), true)
				case "loop":
					got = len(p.looping(paths))
				}
				if got != s.want {
					t.Fatalf("at %d ms, %s: %d, want %d", s.at, s.do, got, s.want)
				}
			}
		})
	}
}
