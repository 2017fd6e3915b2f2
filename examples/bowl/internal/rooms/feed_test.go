package rooms

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"bowl/internal/game"
)

// received is an event of a stream.
type received struct {
	id, event string
	data      struct {
		Seq  int64
		Kind string
		Now  game.Now
	}
}

func parse(t *testing.T, text []byte) received {
	t.Helper()
	var e received
	for line := range strings.Lines(strings.TrimSuffix(string(text), "\n")) {
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "id":
			e.id = value
		case "event":
			e.event = value
		case "data":
			if err := json.Unmarshal([]byte(value), &e.data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !strings.HasPrefix(e.id, fmt.Sprint(e.data.Seq, "-")) {
		t.Errorf("event %d has the id %s", e.data.Seq, e.id)
	}
	return e
}

// next are the kinds of events, or the name of what is not an event, of one Next.
func next(t *testing.T, r *Reader) (kinds []string) {
	t.Helper()
	texts, _, err := r.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range texts {
		e := parse(t, text)
		if e.event == "event" {
			e.event = e.data.Kind
		}
		kinds = append(kinds, e.event)
	}
	return kinds
}

// all reads until there is nothing new and gives the ids.
func all(t *testing.T, r *Reader) (ids []string, events []string) {
	t.Helper()
	for {
		texts, _, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(texts) == 0 {
			return ids, events
		}
		for _, text := range texts {
			e := parse(t, text)
			ids, events = append(ids, e.id), append(events, e.event)
		}
	}
}

// rounds makes n events.
func (f *fixture) rounds(t *testing.T, n int) {
	t.Helper()
	for range n {
		f.do(t, game.Rearm{Round: f.use(t).State().Now.Round})
	}
}

func TestResume(t *testing.T) {
	f := newFixture(t)
	f.do(t, game.Open{Question: 1})
	f.rounds(t, remembered+page+10)
	every, _ := all(t, f.use(t).Read("1"))
	newest := int64(len(every) + 1)
	for _, how := range []string{"running", "restarted"} {
		if how == "restarted" {
			f.reopen(t)
		}
		for _, after := range []int64{1, 2, newest - remembered - 1, newest - remembered, newest - 1, newest} {
			id := "1"
			if after > 1 {
				id = every[after-2]
			}
			ids, events := all(t, f.use(t).Read(id))
			if !slices.Equal(ids, every[after-1:]) || slices.ContainsFunc(events, func(e string) bool { return e != "event" }) {
				t.Errorf("%s, after %s: %d events, want %d", how, id, len(ids), newest-after)
			}
		}
		for _, id := range []string{
			fmt.Sprint(newest + 1), "0", "-1", "x", "99999999999999999999", // no place of this room
			"3-00000000", fmt.Sprint(newest, "-00000000"), // another event at this place, as after a restore
		} {
			ids, events := all(t, f.use(t).Read(id))
			if len(events) != 1 || events[0] != "reset" || ids[0] != every[len(every)-1] {
				t.Errorf("%s, after %s: %v %v, want a reset", how, id, events, ids)
			}
		}
		if ids, events := all(t, f.use(t).Read("")); len(events) != 1 || events[0] != "state" || ids[0] != every[len(every)-1] {
			t.Errorf("%s, from now on: %v %v, want a state", how, events, ids)
		}
	}
}

// A database that was restored to an earlier moment and has gone on from there: who comes back from the lost history gets
// the whole state, though there is an event with the number of the last one that was seen.
func TestRestored(t *testing.T) {
	f := newFixture(t)
	f.do(t, game.Open{Question: 1})
	f.rounds(t, 3)
	before, _ := all(t, f.use(t).Read("1"))
	if err := f.db.Close(); err != nil {
		t.Fatal(err)
	}
	replica, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	f.reopen(t)
	f.rounds(t, 2)
	lost, _ := all(t, f.use(t).Read("1"))
	if err := f.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path, replica, 0o600); err != nil {
		t.Fatal(err)
	}
	f.reopen(t)
	if _, events := all(t, f.use(t).Read(lost[len(lost)-1])); !slices.Equal(events, []string{"reset"}) {
		t.Errorf("from after the end: %v", events)
	}
	f.rounds(t, 4)
	if _, events := all(t, f.use(t).Read(lost[len(lost)-1])); !slices.Equal(events, []string{"reset"}) {
		t.Errorf("from a lost event: %v", events)
	}
	if ids, events := all(t, f.use(t).Read(before[len(before)-1])); len(ids) != 4 || events[0] != "event" {
		t.Errorf("from an event before the restore: %v %v", ids, events)
	}
}

func TestSlowReaderIsDropped(t *testing.T) {
	f := newFixture(t)
	f.do(t, game.Open{Question: 1})
	slow, quick := f.use(t).Read(""), f.use(t).Read("")
	next(t, slow)
	next(t, slow) // nothing: it is live
	next(t, quick)
	for range 3 {
		f.rounds(t, remembered/2)
		next(t, quick)
	}
	if _, _, err := slow.Next(t.Context()); !errors.Is(err, ErrBehind) {
		t.Errorf("a reader that is %d events behind: %v", 3*remembered/2, err)
	}
	if len(f.use(t).feed.Load().frames) != remembered {
		t.Errorf("%d events are in memory", len(f.use(t).feed.Load().frames))
	}
}

// Those who watch see each event once and in order, whatever happens at the same time.
func TestReadersSeeTheOrder(t *testing.T) {
	f := newFixture(t)
	ids := f.join(t, 40)
	f.do(t, game.Open{Question: 1})
	first := f.use(t).State().Seq
	last := first + int64(len(ids))
	var wg sync.WaitGroup
	for range 5 {
		reader := f.use(t).Read(fmt.Sprint(first))
		wg.Go(func() {
			for seen := first; seen < last; {
				texts, more, err := reader.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				for _, text := range texts {
					if e := parse(t, text); e.data.Seq != seen+1 {
						t.Errorf("event %d came after %d", e.data.Seq, seen)
					}
					seen++
				}
				if len(texts) > 0 {
					continue
				}
				select {
				case <-more:
				case <-t.Context().Done():
					return
				}
			}
		})
	}
	for _, id := range ids {
		wg.Go(func() {
			if _, err := f.Do(t.Context(), f.code, game.Press{Player: id, Round: 1}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestStreamsOfARoomAreBounded(t *testing.T) {
	r := newFixture(t)
	room := r.use(t)
	for range MaxStreams {
		if !room.Enter() {
			t.Fatal("refused too early")
		}
	}
	if room.Enter() {
		t.Error("one too many")
	}
	room.Leave()
	if !room.Enter() {
		t.Error("a place was not given back")
	}
}

func FuzzRead(f *testing.F) {
	for _, id := range []string{"", "1", "1-00000000", "-", "9999999999999999999999", "2-\x00", "+2"} {
		f.Add(id)
	}
	fix := newFixture(f)
	f.Fuzz(func(t *testing.T, id string) {
		r, err := fix.Use(t.Context(), fix.code)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		if texts, _, err := r.Read(id).Next(t.Context()); err != nil || len(texts) > 1 {
			t.Errorf("after %q: %d events, %v", id, len(texts), err)
		}
	})
}
