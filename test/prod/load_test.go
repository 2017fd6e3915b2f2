package prod

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"devbox/test/visit"
)

// What visitors of a busy app make of it: each of them asks once in pause.
const (
	visitors = 80
	pause    = 100 * time.Millisecond
	streams  = 200
)

// crowd are visitors of the app, from this computer over the network.
type crowd struct {
	begin   time.Time
	stop    context.CancelFunc
	pages   chan visit.Report
	streams chan visit.Streams
}

func (s *site) crowd(t *testing.T) *crowd {
	ctx, cancel := context.WithCancel(t.Context())
	c := &crowd{time.Now(), cancel, make(chan visit.Report, 1), make(chan visit.Streams, 1)}
	url := "http://" + s.address + ":8080"
	go func() { c.pages <- visit.Hammer(ctx, url+"/", visitors, pause) }()
	go func() { c.streams <- visit.Listen(ctx, url+"/events", streams) }()
	time.Sleep(time.Second) // until all of them have come
	return c
}

// leave ends the visits and checks that none was turned away, and that all saw
// what was delivered, in its order. It returns the longest that one had to wait.
func (c *crowd) leave(t *testing.T, what string, delivered []string) time.Duration {
	t.Helper()
	time.Sleep(time.Second) // until the streams have come back
	took := time.Since(c.begin)
	c.stop()
	pages, events := <-c.pages, <-c.streams
	rate := float64(pages.Requests) / took.Seconds()
	t.Logf("%s: %d requests in %s, %.0f a second, longest %s, %d bad; %d streams came back %d times, longest without one %s, %d bad", what,
		pages.Requests, took.Round(time.Second), rate, pages.Longest.Round(time.Millisecond), len(pages.Bad),
		len(events.Seen), events.Back, events.Longest.Round(time.Millisecond), len(events.Bad))
	for _, wrong := range [][]string{pages.Wrong(delivered), events.Bad} {
		for _, x := range wrong[:min(len(wrong), 10)] {
			t.Error(x)
		}
	}
	if rate < 500 {
		t.Errorf("that were only %.0f requests a second", rate)
	}
	last := delivered[len(delivered)-1]
	for i, seen := range events.Seen {
		if len(seen) == 0 || seen[len(seen)-1] != last {
			t.Errorf("stream %d did not come back to %s: it saw %q", i, last, seen[max(0, len(seen)-3):])
		}
	}
	return pages.Longest
}

// testLoad deploys again and again while visitors come. DEVBOX_TEST_DEPLOYS says
// how often.
func testLoad(t *testing.T, s *site) {
	n := 100
	if text := os.Getenv("DEVBOX_TEST_DEPLOYS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	defer s.Undo(t, page, "devbox.yaml")()
	s.Edit(t, "devbox.yaml", "trial: 300ms", "trial: 100ms")
	versions := []string{s.answers(t)}
	was := s.Read(t, page)
	c := s.crowd(t)
	var took []time.Duration
	for i := range n {
		s.Write(t, page, was+fmt.Sprintf("<i>load %d</i>", i))
		r := s.deploy(t)
		versions = append(versions, kept(t, r).Version)
		took = append(took, r.Took)
	}
	deploys := c.leave(t, fmt.Sprintf("%d deploys", n), versions)
	slices.Sort(took)
	t.Logf("a deploy took %s in the median, %s at most", took[n/2].Round(time.Millisecond), took[n-1].Round(time.Millisecond))

	c = s.crowd(t)
	for range 10 {
		s.sh(t, "systemctl restart bowl.service")
		time.Sleep(500 * time.Millisecond)
	}
	restarts := c.leave(t, "10 bare restarts", versions[n:])
	t.Logf("the longest stall of a visitor: %s by deploys, %s by bare restarts", deploys.Round(time.Millisecond), restarts.Round(time.Millisecond))
}
