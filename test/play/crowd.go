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
	mu      sync.Mutex
}

// Gather makes rooms with players, and has screens of each follow it.
func Gather(ctx context.Context, base string, rooms, players, screens int) (*Crowd, error) {
	c := &Crowd{screens: make([][]*Watched, rooms)}
	streams := Client()
	watching, end := context.WithCancel(ctx)
	c.end = end
	for i := range rooms {
		r, err := NewRoom(ctx, Client(), base, players)
		if err != nil {
			c.Leave()
			return nil, err
		}
		c.Rooms = append(c.Rooms, r)
		for range screens {
			c.wait.Go(func() {
				w := r.Watch(watching, streams)
				c.mu.Lock()
				c.screens[i] = append(c.screens[i], w)
				c.mu.Unlock()
			})
		}
	}
	return c, nil
}

// Play has each room ask one question a second for a time, and all its players
// press in it.
func (c *Crowd) Play(ctx context.Context, questions int, every time.Duration) error {
	failed := make(chan error, len(c.Rooms))
	for n, r := range c.Rooms {
		go func() {
			time.Sleep(every * time.Duration(n) / time.Duration(len(c.Rooms))) // not all in step
			failed <- r.play(ctx, questions, every)
		}()
	}
	var all []error
	for range c.Rooms {
		all = append(all, <-failed)
	}
	return errors.Join(all...)
}

func (r *Room) play(ctx context.Context, questions int, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range questions {
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

// Latencies are those of all rooms since they were asked for last.
func (c *Crowd) Latencies() Latencies {
	var all Latencies
	for _, r := range c.Rooms {
		all = append(all, r.Seen()...)
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

// Check leaves, and says what screens were not shown, or twice, of what was
// acknowledged.
func (c *Crowd) Check() (back int, problems []string) {
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
