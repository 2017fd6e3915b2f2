// Package board is the live list of presses: it gives each press its place and tells everybody who watches.
package board

import (
	"context"
	"sync"
	"time"

	"bowl/internal/store"
)

// Shown is how many presses the board remembers and a page shows.
const Shown = 20

// Board holds the newest presses. Its methods may be called at once from many goroutines.
type Board struct {
	store *store.Store
	now   func() time.Time

	mu      sync.Mutex
	latest  []store.Press // oldest first, at most Shown
	changed chan struct{} // closed at the next press
}

// New makes a board of what the store holds.
func New(ctx context.Context, s *store.Store) (*Board, error) {
	latest, err := s.Latest(ctx, Shown)
	if err != nil {
		return nil, err
	}
	return &Board{store: s, now: time.Now, latest: latest, changed: make(chan struct{})}, nil
}

// Press stores a press by name and announces it.
func (b *Board) Press(ctx context.Context, name string) (store.Press, error) {
	return b.store.Press(ctx, name, b.now(), b.announce)
}

// announce is called in the order of the places.
func (b *Board) announce(p store.Press) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.latest = append(b.latest[max(0, len(b.latest)+1-Shown):len(b.latest):len(b.latest)], p) // copies: After hands out the old one
	close(b.changed)
	b.changed = make(chan struct{})
}

// Newest is the place of the newest press, 0 before the first.
func (b *Board) Newest() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return newest(b.latest)
}

// After gives the remembered presses with a place above id, oldest first, and a channel that is closed when there are
// more. An id above the newest place comes from another database (one restored to an earlier moment): reset is then
// true and the presses are all that the board has.
func (b *Board) After(id int64) (presses []store.Press, more <-chan struct{}, reset bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if id > newest(b.latest) {
		return b.latest, b.changed, true
	}
	i := len(b.latest)
	for i > 0 && b.latest[i-1].ID > id {
		i--
	}
	return b.latest[i:], b.changed, false
}

func newest(latest []store.Press) int64 {
	if len(latest) == 0 {
		return 0
	}
	return latest[len(latest)-1].ID
}
