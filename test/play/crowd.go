package play

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Client is one for many streams and players at once.
func Client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, MaxIdleConnsPerHost: 512, DisableCompression: true,
	}}
}

// Crowd is many rooms, each with players and screens.
type Crowd struct {
	Rooms   []*Room
	screens [][]*Watched
	end     context.CancelFunc
	wait    sync.WaitGroup
}

// seatTime is how long all screens of a crowd may take to begin.
const seatTime = time.Minute

// Gather makes rooms with players, and has screens of each follow it: all are
// there when it returns, so that they see all presses.
func Gather(ctx context.Context, base string, rooms, players, screens int) (*Crowd, error) {
	c := &Crowd{screens: make([][]*Watched, rooms)}
	streams := Client()
	watching, end := context.WithCancel(ctx)
	c.end = end
	var seating sync.WaitGroup
	for i := range rooms {
		r, err := NewRoom(ctx, Client(), base, players)
		if err != nil {
			c.Leave()
			return nil, err
		}
		c.Rooms = append(c.Rooms, r)
		for range screens {
			w := &Watched{}
			c.screens[i] = append(c.screens[i], w)
			seating.Add(1)
			c.wait.Go(func() {
				seated := sync.OnceFunc(seating.Done)
				defer seated() // also if it never was
				r.Watch(watching, streams, w, seated)
			})
		}
	}
	all := make(chan struct{})
	go func() { seating.Wait(); close(all) }()
	select {
	case <-all:
		return c, nil
	case <-time.After(seatTime):
		c.Leave()
		return nil, fmt.Errorf("not all of %d screens were told of their room within %s", rooms*screens, seatTime)
	case <-ctx.Done():
		c.Leave()
		return nil, context.Cause(ctx)
	}
}

// Play has each room ask a number of questions, one after the other every so
// often, and all its players press in each, spread over the first half of its
// time.
func (c *Crowd) Play(ctx context.Context, questions int, every time.Duration) error {
	return c.PlayWhile(ctx, every, func(asked int) bool { return asked < questions })
}

// PlayWhile is Play as long as more, which all rooms call at once, says so of
// the number of questions that a room has asked.
func (c *Crowd) PlayWhile(ctx context.Context, every time.Duration, more func(asked int) bool) error {
	failed := make(chan error, len(c.Rooms))
	for n, r := range c.Rooms {
		go func() {
			time.Sleep(every * time.Duration(n) / time.Duration(len(c.Rooms))) // not all in step
			failed <- r.play(ctx, every, more)
		}()
	}
	var all []error
	for range c.Rooms {
		all = append(all, <-failed)
	}
	return errors.Join(all...)
}

func (r *Room) play(ctx context.Context, every time.Duration, more func(asked int) bool) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for asked := 0; more(asked); asked++ {
		if err := r.Open(ctx); err != nil {
			return err
		}
		if err := r.everybody(ctx, every/2); err != nil {
			return err
		}
		if err := r.Right(ctx); err != nil {
			return err
		}
		<-tick.C
	}
	return nil
}

// everybody presses, spread over a time.
func (r *Room) everybody(ctx context.Context, over time.Duration) error {
	pressed := make(chan error, len(r.Players))
	for i := range r.Players {
		go func() {
			time.Sleep(over * time.Duration(i) / time.Duration(len(r.Players)))
			pressed <- r.Press(ctx, i)
		}()
	}
	var all []error
	for range r.Players {
		all = append(all, <-pressed)
	}
	return errors.Join(all...)
}

// Leave ends all screens.
func (c *Crowd) Leave() {
	c.end()
	c.wait.Wait()
}

// Latencies are those of all presses so far, on all screens.
func (c *Crowd) Latencies() Latencies { return c.Between(time.Time{}, time.Now()) }

// Between are the latencies of the presses that were made between two times.
func (c *Crowd) Between(from, to time.Time) Latencies {
	var all Latencies
	for _, r := range c.Rooms {
		all = append(all, r.between(from, to)...)
	}
	slices.Sort(all)
	return all
}

// At is the latency below which the part p (0 to 1) of all lies. l is sorted.
func (l Latencies) At(p float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	return l[min(int(p*float64(len(l))), len(l)-1)]
}

// settle waits until all screens are where their moderators are, as long as a
// screen may take that has to come back.
func (c *Crowd) settle() {
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(10 * time.Millisecond) {
		behind := false
		for i, r := range c.Rooms {
			for _, w := range c.screens[i] {
				behind = behind || w.seq.Load() < r.now.Seq
			}
		}
		if !behind {
			return
		}
	}
}

// Check waits for the last events, leaves, and says what screens were not shown,
// or twice, of what was acknowledged.
func (c *Crowd) Check() (back int, problems []string) {
	c.settle()
	c.Leave()
	for i, r := range c.Rooms {
		for n, w := range c.screens[i] {
			back += w.Back
			name := fmt.Sprintf("room %s, screen %d", r.Code, n)
			for _, bad := range w.Bad {
				problems = append(problems, name+": "+bad)
			}
			if len(w.Buzzes) != r.Acknowledged() {
				problems = append(problems, fmt.Sprintf("%s: %d presses were shown, and %d answered", name, len(w.Buzzes), r.Acknowledged()))
			}
			for b, times := range w.Buzzes {
				if times != 1 {
					problems = append(problems, fmt.Sprintf("%s: the press %+v was shown %d times", name, b, times))
				}
			}
			if w.Score != r.Score() {
				problems = append(problems, fmt.Sprintf("%s: the score is %d, and the moderator's %d", name, w.Score, r.Score()))
			}
		}
	}
	return back, problems
}
