package board

import (
	"path/filepath"
	"sync"
	"testing"

	"bowl/internal/store"
)

func newBoard(t *testing.T) (*Board, *store.Store) {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "bowl.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	b, err := New(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return b, s
}

func press(t *testing.T, b *Board, n int) {
	t.Helper()
	for range n {
		if _, err := b.Press(t.Context(), "Ann"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAfter(t *testing.T) {
	b, s := newBoard(t)
	press(t, b, Shown+5)
	again, err := New(t.Context(), s) // as after a restart
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		after       int64
		first, last int64
		n           int
		reset       bool
	}{
		{"all that is remembered", 0, 6, Shown + 5, Shown, false},
		{"the gap is larger than the memory", 2, 6, Shown + 5, Shown, false},
		{"some", Shown + 3, Shown + 4, Shown + 5, 2, false},
		{"nothing new", Shown + 5, 0, 0, 0, false},
		{"from another database", Shown + 6, 6, Shown + 5, Shown, true},
	} {
		for which, b := range map[string]*Board{"running": b, "restarted": again} {
			got, _, reset := b.After(c.after)
			if len(got) != c.n || reset != c.reset || c.n > 0 && (got[0].ID != c.first || got[c.n-1].ID != c.last) {
				t.Errorf("%s, %s: After(%d) = %v, reset %v", c.name, which, c.after, got, reset)
			}
		}
	}
}

// Watchers see places in order and without a gap, but for those that they were too slow for.
func TestWatchersSeeTheOrder(t *testing.T) {
	b, _ := newBoard(t)
	const pressers, each, watchers = 8, 50, 3
	var wg sync.WaitGroup
	for range watchers {
		wg.Go(func() {
			var last int64
			for last < pressers*each {
				presses, more, _ := b.After(last)
				if n := len(presses); n > 0 && n < Shown && presses[0].ID != last+1 {
					t.Errorf("after place %d came %v", last, presses)
					return
				}
				for i, p := range presses {
					if p.ID != presses[0].ID+int64(i) || p.ID <= last {
						t.Errorf("after place %d came %v", last, presses)
						return
					}
				}
				if n := len(presses); n > 0 {
					last = presses[n-1].ID
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
	for range pressers {
		wg.Go(func() {
			for range each {
				if _, err := b.Press(t.Context(), "Ann"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
