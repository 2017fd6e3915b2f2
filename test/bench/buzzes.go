package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"devbox/test/play"
)

// crowd is who plays for one line of the table. Each room asks a question every
// so often, and its players press in it one after the other.
type crowd struct {
	Name                    string
	Rooms, Players, Screens int // players and screens are those of each room
	every                   time.Duration
	questions               int // 0: as many as it takes until all releases are done
}

// Idle, presses are 50 ms apart: one is on the screen before the next. The load
// is that of the test of a crowd (test/e2e).
var crowds = []crowd{
	{Name: "idle", Rooms: 1, Players: 4, Screens: 1, every: 400 * time.Millisecond, questions: 50},
	{Name: "under load", Rooms: 20, Players: 10, Screens: 50, every: time.Second, questions: 30},
	{Name: "across a deploy", Rooms: 5, Players: 10, Screens: 10, every: time.Second},
}

// releases is how many there are while the last crowd plays.
const releases = 3

// calmTime is before each release and after it, and the presses of the latter
// count. It is also what the last presses get to reach screens that come back.
const calmTime = 2 * time.Second

// span is the time in which presses count, for a release also when that ended.
type span struct{ from, released, to time.Time }

// buzzed is what became of the presses of a crowd.
type buzzed struct {
	crowd
	Seen     play.Latencies // of presses that count, on each screen of their room
	Rate     float64        // of all presses, a second
	Back     int            // how often screens came back
	Releases samples
}

// presses are those that count: Check has seen to it that each is on each
// screen of its room once.
func (z *buzzed) presses() int { return len(z.Seen) / z.Screens }

// measureBuzzes plays matches on the machine and takes the time from each press
// to each screen. A press that is lost, or shown twice, is a failure.
func (b *bench) measureBuzzes(ctx context.Context, r *report) error {
	for _, c := range crowds {
		say("  %s", c.Name)
		z, err := b.measureCrowd(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		r.Buzzes = append(r.Buzzes, z)
	}
	return nil
}

func (b *bench) measureCrowd(ctx context.Context, who crowd) (*buzzed, error) {
	c, err := play.Gather(ctx, b.guest(8080, ""), who.Rooms, who.Players, who.Screens)
	if err != nil {
		return nil, err
	}
	defer c.Leave()
	z := &buzzed{crowd: who}
	var spans []span
	begin := time.Now()
	if who.questions > 0 {
		err = c.Play(ctx, who.questions, who.every)
		spans = []span{{from: begin, to: time.Now()}}
	} else {
		spans, err = b.releaseAmid(ctx, c, who.every)
		for _, s := range spans {
			z.Releases.add(s.released.Sub(s.from))
		}
	}
	if err != nil {
		return nil, err
	}
	took := time.Since(begin).Seconds()
	for _, room := range c.Rooms {
		z.Rate += float64(room.Acknowledged()) / took
	}
	if err := wait(ctx, calmTime); err != nil {
		return nil, err
	}
	for _, s := range spans {
		z.Seen = append(z.Seen, c.Between(s.from, s.to)...)
	}
	slices.Sort(z.Seen)
	var problems []string
	if z.Back, problems = c.Check(); len(problems) > 0 {
		return nil, fmt.Errorf("%d problems:\n%s", len(problems), strings.Join(problems[:min(len(problems), 10)], "\n"))
	}
	return z, nil
}

// releaseAmid has the crowd play until all releases are done.
func (b *bench) releaseAmid(ctx context.Context, c *play.Crowd, every time.Duration) ([]span, error) {
	var over atomic.Bool
	played := make(chan error, 1)
	go func() { played <- c.PlayWhile(ctx, every, func(int) bool { return !over.Load() }) }()
	spans, err := b.release(ctx)
	over.Store(true)
	return spans, errors.Join(err, <-played)
}

// release brings edits of the code onto the machine.
func (b *bench) release(ctx context.Context) ([]span, error) {
	s, err := kinds[1].in(b.project)
	if err != nil {
		return nil, err
	}
	var all []span
	for n := range releases {
		if err := wait(ctx, calmTime); err != nil {
			return nil, err
		}
		from, err := s.save(n + 1)
		if err != nil {
			return nil, err
		}
		if err := b.do(ctx, b.project, b.devbox, "up"); err != nil {
			return nil, err
		}
		released := time.Now()
		if _, b.version, err = b.untilVersion(ctx, b.version); err != nil {
			return nil, err
		}
		if err := wait(ctx, calmTime); err != nil {
			return nil, err
		}
		all = append(all, span{from, released, released.Add(calmTime)})
	}
	return all, nil
}

func (r *report) buzzes(p func(string, ...any)) {
	if len(r.Buzzes) == 0 {
		return
	}
	p("## From press to screen\n")
	p("Matches of the app over HTTP at the machine's own address. The clock, one for both ends, runs from before a press is sent until")
	p("its event has come to a screen, on each screen of its room; a press that had to be sent again counts from the first time. Every")
	p("press was shown on every screen of its room once, or there would be no line of it. Players and screens run on the same %d cores as", runtime.NumCPU())
	p("the app.\n")
	p("| | presses | screens | p50 | p99 | most |\n|---|---|---|---|---|---|")
	for _, z := range r.Buzzes {
		rooms := fmt.Sprintf("%d rooms", z.Rooms)
		if z.Rooms == 1 {
			rooms = "one room"
		}
		p("| %s: %s with %d players, %.0f presses/s | %d | %d | %s | %s | %s |", z.Name, rooms, z.Players, z.Rate,
			z.presses(), z.Rooms*z.Screens, seconds(z.Seen.At(0.5)), seconds(z.Seen.At(0.99)), seconds(z.Seen.At(1)))
	}
	p("")
	for _, z := range r.Buzzes {
		if len(z.Releases) > 0 {
			p("Across a deploy, the presses are those from the save of a code edit until %s after the end of the `devbox up` that releases it,", calmTime)
			p("which takes %s; %d releases, the build included. The screens came back %d times.\n", seconds(z.Releases.median()), len(z.Releases), z.Back)
		}
	}
}
