// Package rooms holds the rooms that are in use: it brings commands through the store's one queue to the rules of the
// game, and what came of them, once it is on the disk, to everybody who watches.
package rooms

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"bowl/internal/game"
	"bowl/internal/store"
)

// Limits. The disk cannot be filled: as the limits of one room, 5000 times over, are none, there is one on what is stored of
// all together. Memory is not bounded here but by MemoryMax= of bowl.service, far above what matches need.
const (
	MaxRooms   = 5000
	MaxStreams = 2000                // in one room
	maxLoaded  = 1000                // rooms in memory
	maxBytes   = 2 << 30             // of the database
	Quiet      = 90 * 24 * time.Hour // a room without an event for so long is removed
	quietDay   = 24 * time.Hour      // and after so long where its place is needed,
	emptyFor   = 10 * time.Minute    // or after so long if nobody ever joined
	sweepEvery = time.Hour
)

// ErrBusy says that all places are taken, or all bytes.
var ErrBusy = errors.New("too many rooms are in use, please try again later")

// ErrNoRoom says that there is no such room.
var ErrNoRoom = store.ErrNoRoom

// Hub is all rooms. Its methods may be called at once from many goroutines.
type Hub struct {
	db  *store.Store
	log *slog.Logger
	now func() time.Time

	maxBytes int64

	mu    sync.Mutex
	rooms map[string]*Room
}

// New makes a hub of what is in the store.
func New(db *store.Store, log *slog.Logger) *Hub {
	return &Hub{db: db, log: log, now: time.Now, maxBytes: maxBytes, rooms: map[string]*Room{}}
}

// Room is a room in memory.
type Room struct {
	Code string

	hub       *Hub
	users     int           // how many hold it; Hub.mu guards it
	ready     chan struct{} // closed when it is loaded
	err       error         // why it could not be
	moderator []byte        // hash of the moderator code
	feed      atomic.Pointer[feed]
	streams   atomic.Int64

	// What follows belongs to the writer. Its head is ahead of the feed by what is not on the disk yet.
	head  *game.State
	stale bool // the head may not be what is on the disk
}

// Use gives a room and keeps it in memory until Release. It fails with ErrNoRoom and ErrBusy.
func (h *Hub) Use(ctx context.Context, code string) (*Room, error) {
	r, mine, err := h.hold(code)
	if err != nil {
		return nil, err
	}
	if mine {
		if r.err = r.load(context.WithoutCancel(ctx)); r.err != nil { // for the others, too, who wait for it
			h.forget(r)
		}
		close(r.ready)
	}
	<-r.ready
	if r.err != nil {
		return nil, r.err
	}
	return r, nil
}

// hold gives the room's place in memory and says whether it is for the caller to load it.
func (h *Hub) hold(code string) (r *Room, mine bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.rooms[code]; r != nil {
		r.users++
		return r, false, nil
	}
	if len(h.rooms) >= maxLoaded {
		for other, r := range h.rooms {
			if r.users == 0 {
				delete(h.rooms, other)
				break
			}
		}
		if len(h.rooms) >= maxLoaded {
			return nil, false, ErrBusy
		}
	}
	r = &Room{Code: code, hub: h, users: 1, ready: make(chan struct{})}
	h.rooms[code] = r
	return r, true, nil
}

// Release says that the caller no longer uses the room.
func (r *Room) Release() {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	r.users--
}

func (r *Room) load(ctx context.Context) error {
	moderator, err := r.hub.db.Room(ctx, r.Code)
	if err != nil {
		return err
	}
	state, newest, err := fold(func(after int64) ([]store.Event, error) { return r.hub.db.Events(ctx, r.Code, after, page) })
	if err != nil {
		return err
	}
	if state.Seq == 0 {
		return ErrNoRoom
	}
	r.moderator, r.head = moderator, &state
	r.feed.Store(newFeed(state, newest))
	return nil
}

// fold makes a state of events, and the newest frames.
func fold(read func(after int64) ([]store.Event, error)) (game.State, []frame, error) {
	var s game.State
	var newest []frame
	for {
		events, err := read(s.Seq)
		if err != nil || len(events) == 0 {
			return s, newest, err
		}
		for _, stored := range events {
			var e game.Event
			if err := json.Unmarshal(stored.Data, &e); err != nil {
				return s, nil, fmt.Errorf("event %d: %w", stored.Seq, err)
			}
			s = game.Apply(s, e)
		}
		newest = append(newest, newFrames(events)...)
		newest = newest[max(0, len(newest)-remembered):]
	}
}

// State is the room as it is on the disk.
func (r *Room) State() game.State { return r.feed.Load().state }

// Moderator says whether this is the room's moderator code, however it is written.
func (r *Room) Moderator(code string) bool {
	return subtle.ConstantTimeCompare(moderatorHash(r.Code, clean(code)), r.moderator) == 1
}

// Enter takes a place for a stream and says whether there was one. Leave gives it back.
func (r *Room) Enter() bool {
	if r.streams.Add(1) > MaxStreams {
		r.streams.Add(-1)
		return false
	}
	return true
}

// Leave gives a stream's place back.
func (r *Room) Leave() { r.streams.Add(-1) }

// Create makes a room. The moderator code is in no other place than the answer: the store has a hash of it.
func (h *Hub) Create(ctx context.Context, teams game.PerTeam[string]) (code, moderatorCode string, err error) {
	moderatorCode = random(moderatorLen)
	var made string // a variable of its own: where ctx ends, the writer may still be at it
	err = h.db.Write(ctx, func(tx *store.Tx) error {
		now := h.now()
		if err := h.makePlace(tx, MaxRooms-1, ""); err != nil {
			return err
		}
		for created := false; !created; {
			made = random(codeLen)
			if created, err = tx.CreateRoom(made, moderatorHash(made, moderatorCode)); err != nil {
				return err
			}
		}
		e, _, err := game.Decide(game.State{}, game.Create{Teams: teams}, now)
		if err != nil {
			return err
		}
		return tx.AppendEvent(made, encode(e))
	}, nil)
	if err != nil {
		return "", "", fmt.Errorf("create a room: %w", err)
	}
	return made, moderatorCode, nil
}

// makePlace removes a room that is not in use where there are more than so many, or too many bytes. One room stays: that
// which the place is for.
func (h *Hub) makePlace(tx *store.Tx, rooms int, stays string) error {
	full, err := tx.Full(rooms, h.maxBytes)
	if err != nil || !full {
		return err
	}
	now := h.now()
	evicted, err := tx.Evict(stays, now.Add(-emptyFor), now.Add(-quietDay))
	if err == nil && !evicted {
		return ErrBusy
	}
	return err
}

// Join makes a player of the ticket, or gives the one that it has made.
func (h *Hub) Join(ctx context.Context, code, ticket, name string, team game.Team) (game.Player, error) {
	e, err := h.Do(ctx, code, game.Join{ID: playerID(code, ticket), Name: name, Team: team})
	if err != nil {
		return game.Player{}, err
	}
	return *e.Player, nil
}

// Do does a command. When it returns, what came of it is on the disk. A *game.Refusal says that the rules do not allow it.
// The commands of all rooms take one queue: their order is that of their arrival.
func (h *Hub) Do(ctx context.Context, code string, c game.Command) (game.Event, error) {
	at := h.now() // before the queue, so that a wait there does not show in the times between presses
	var e game.Event
	var state game.State
	var stored store.Event
	var room *Room
	err := h.db.Write(ctx, func(tx *store.Tx) (err error) {
		if room, err = h.Use(context.Background(), code); err != nil {
			return err
		}
		if err := room.refresh(tx); err != nil {
			return err
		}
		if e, state, err = game.Decide(*room.head, c, at); err != nil || e.Seq == 0 {
			return err
		}
		if err := h.makePlace(tx, MaxRooms, code); err != nil {
			return err
		}
		stored = encode(e)
		if err := tx.AppendEvent(code, stored); err != nil {
			return err
		}
		room.head = &state
		return nil
	}, func(err error) {
		if room == nil {
			return
		}
		defer room.Release()
		switch {
		case err == nil && stored.Seq > 0:
			room.publish(state, stored)
		case err != nil && stored.Seq > 0: // the transaction failed, or another process has written to the room
			room.stale = true
		}
	})
	if err != nil {
		return game.Event{}, err
	}
	return e, nil
}

// refresh brings the head back to what is on the disk after something failed. A transaction begins with it, so there is
// nothing of the room in tx that is not on the disk.
func (r *Room) refresh(tx *store.Tx) error {
	if !r.stale {
		return nil
	}
	state, newest, err := fold(func(after int64) ([]store.Event, error) { return tx.Events(r.Code, after, page) })
	if err != nil {
		return err
	}
	if state.Seq == 0 { // removed: it had been quiet for long, and its place was needed
		r.hub.forget(r)
		return ErrNoRoom
	}
	r.head, r.stale = &state, false
	if shown := r.feed.Load(); state.Seq != shown.state.Seq { // it was stored after all, or by another process
		r.feed.Store(newFeed(state, newest))
		close(shown.more)
	}
	return nil
}

func (r *Room) publish(s game.State, e store.Event) {
	shown := r.feed.Load()
	r.feed.Store(shown.with(s, newFrame(e)))
	close(shown.more)
}

func encode(e game.Event) store.Event {
	data, err := json.Marshal(e)
	if err != nil {
		panic(err) // only our own plain types come here
	}
	return store.Event{Seq: e.Seq, Kind: string(e.Kind), Data: data, At: e.At}
}

// Sweep removes rooms that were quiet for long, now and then, until ctx ends.
func (h *Hub) Sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if n, err := h.sweep(ctx); err != nil && ctx.Err() == nil {
			h.log.Error("remove old rooms", "err", err)
		} else if n > 0 {
			h.log.Info("removed old rooms", "rooms", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweep removes each in a transaction of its own, so that nobody waits long for the writer.
func (h *Hub) sweep(ctx context.Context) (int, error) {
	since := h.now().Add(-Quiet)
	codes, err := h.db.QuietRooms(ctx, since)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, code := range codes {
		removed, err := h.remove(ctx, code, since)
		if err != nil {
			return n, err
		}
		if removed {
			n++
		}
	}
	return n, nil
}

// remove removes a room, unless something has happened there since a moment.
func (h *Hub) remove(ctx context.Context, code string, since time.Time) (removed bool, err error) {
	var done bool
	err = h.db.Write(ctx, func(tx *store.Tx) (err error) {
		done, err = tx.RemoveRoom(code, since)
		return err
	}, func(err error) {
		if err != nil || !done {
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.rooms, code)
	})
	if err != nil {
		return false, err
	}
	return done, nil
}

// forget takes a room out of memory that is not there, or no more. Who is still in it sees nothing new.
func (h *Hub) forget(r *Room) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rooms[r.Code] == r {
		delete(h.rooms, r.Code)
	}
}
