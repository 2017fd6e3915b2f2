package watch

import (
	"regexp"
	"slices"
	"time"
)

// pace decides when a batch is handed out, when it is superseded and when it
// is settled. It only computes: time is given to it, and the watcher does what
// it answers.
type pace struct {
	quiet time.Duration // without activity, before a batch is settled
	limit time.Duration // after which ceaseless activity is no longer waited for

	last  time.Time // of the latest activity
	chain time.Time // of the first activity in a row without quiet between
	ready bool      // there is something to hand out

	out        bool // a batch is with the consumer
	superseded bool // and newer content was seen

	during map[string]bool // what changed while the batch is out
	streak map[string]int  // number of batches in a row during which it changed
	held   time.Time       // a loop's next batch is not handed out before this
}

// What makes a loop: the same file changing during this many builds in a row.
// From then on its changes no longer interrupt, and a batch of nothing else
// waits, twice as long each time.
const (
	loopStreak  = 3
	loopWait    = time.Second
	loopWaitMax = 30 * time.Second
)

// touch notes activity, whether or not it changed content. After quiet it is a
// new chain: only what never ends is limited.
func (p *pace) touch(now time.Time) {
	if p.chain.IsZero() || now.Sub(p.last) >= p.quiet {
		p.chain = now
	}
	p.last = now
}

// change notes that the content of paths changed. It reports whether that
// supersedes the batch that is out.
func (p *pace) change(now time.Time, paths []string) bool {
	p.touch(now)
	p.ready = true
	looping := true
	for _, path := range paths {
		k := loopKey(path)
		if p.out {
			if p.during == nil {
				p.during = make(map[string]bool)
			}
			p.during[k] = true
		} else {
			delete(p.streak, k)
		}
		looping = looping && p.streak[k] >= loopStreak
	}
	if !p.out || p.superseded || looping || p.expired(now) {
		return false
	}
	p.superseded = true
	return true
}

// expired reports whether activity has gone on for so long that the batch
// that is out must come to its end.
func (p *pace) expired(now time.Time) bool { return now.Sub(p.chain) >= p.limit }

// settleAt is when the batch that is out is settled, if nothing happens.
func (p *pace) settleAt() time.Time {
	at, latest := p.last.Add(p.quiet), p.chain.Add(p.limit)
	if latest.Before(at) {
		return latest
	}
	return at
}

// finish notes that the consumer is done with its batch, if it has one.
func (p *pace) finish(now time.Time) {
	if !p.out {
		return
	}
	p.out = false
	if !p.superseded {
		p.chain = time.Time{}
		if p.ready {
			p.chain = p.last
		}
	}
	streak := make(map[string]int, len(p.during))
	longest := 0
	for k := range p.during {
		streak[k] = p.streak[k] + 1
		longest = max(longest, streak[k])
	}
	p.streak, p.during = streak, nil
	p.held = time.Time{}
	if longest >= loopStreak {
		p.held = now.Add(min(loopWait<<min(longest-loopStreak, 10), loopWaitMax))
	}
}

// deliverAt is when a batch of paths can be handed out; false if there is
// none. now means at once.
func (p *pace) deliverAt(now time.Time, paths []string) (time.Time, bool) {
	if !p.ready || p.out {
		return time.Time{}, false
	}
	if len(paths) > 0 && len(p.looping(paths)) == len(paths) && p.held.After(now) {
		return p.held, true
	}
	return now, true
}

// deliver notes that the batch is handed out.
func (p *pace) deliver() {
	p.out, p.superseded, p.ready = true, false, false
}

// looping are those of paths that changed during each of the last builds.
func (p *pace) looping(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		return p.streak[loopKey(path)] < loopStreak
	})
}

var digits = regexp.MustCompile(`[0-9]+`)

// loopKey makes build-17.tmp and build-18.tmp the same file.
func loopKey(path string) string { return digits.ReplaceAllString(path, "0") }
