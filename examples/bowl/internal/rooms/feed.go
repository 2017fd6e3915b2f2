package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"sync"

	"bowl/internal/game"
	"bowl/internal/store"
)

// remembered is how many events of a room are in memory. A stream that is further behind reads them from the database
// when it begins, and is ended when it falls so far behind later.
const remembered = 512

// page is how many events are read from the database at a time.
const page = 256

// frame is an event as a stream sends it, encoded once for all who watch.
type frame struct {
	seq  int64
	tag  string
	text []byte
}

// newFrame encodes an event. Its id is its place and a tag of its content: where a database was restored to an earlier moment
// and went on from there, the same place holds another event, and a browser that comes back from the lost one is noticed.
func newFrame(e store.Event) frame {
	tag := tagOf(e.Data)
	return frame{e.Seq, tag, fmt.Appendf(nil, "id: %d-%s\nevent: event\ndata: %s\n\n", e.Seq, tag, e.Data)}
}

func tagOf(data []byte) string {
	h := fnv.New32a()
	_, _ = h.Write(data)
	return fmt.Sprintf("%08x", h.Sum32())
}

// feed is what those who watch a room see at one moment. It never changes; the next event makes a new one.
type feed struct {
	state    game.State
	frames   []frame       // the newest, without a gap; never empty
	more     chan struct{} // closed when there is a newer feed
	snapshot func() []byte // the state in JSON, made when first asked for
}

func newFeed(s game.State, frames []frame) *feed {
	return &feed{state: s, frames: frames, more: make(chan struct{}), snapshot: sync.OnceValue(func() []byte {
		data, err := json.Marshal(s)
		if err != nil {
			panic(err) // only our own plain types come here
		}
		return data
	})}
}

// with is the feed after one more event.
func (f *feed) with(s game.State, e frame) *feed {
	n := len(f.frames)
	frames := make([]frame, 0, min(n+1, remembered))
	frames = append(frames, f.frames[max(0, n+1-remembered):]...)
	return newFeed(s, append(frames, e))
}

// after are the frames that come after a place, and whether none of them is missing.
func (f *feed) after(seq int64) ([]frame, bool) {
	first := f.frames[0].seq
	if seq < first-1 {
		return nil, false
	}
	return f.frames[seq-(first-1):], true
}

// ErrBehind says that a stream was too slow for its room.
var ErrBehind = errors.New("too far behind")

// Reader follows a room for one stream.
type Reader struct {
	room *Room
	last string // the id that the browser had, until the first Next
	seq  int64
	live bool // has been at the newest event
}

// Read follows the room from after the event with an id, or from now on where there is none. Each stream has its own.
func (r *Room) Read(lastID string) *Reader { return &Reader{room: r, last: lastID} }

// Next gives what a stream is to send after what the last Next gave; where that is nothing, more is closed when there is
// more. A stream begins with a "state" of the room if it follows from now on, and with a "reset", which is a state, too, if
// what it had is not of this history.
func (r *Reader) Next(ctx context.Context) (events [][]byte, more <-chan struct{}, err error) {
	f := r.room.feed.Load()
	if r.seq == 0 {
		if state, err := r.begin(ctx, f); err != nil || state != nil {
			return [][]byte{state}, nil, err
		}
	}
	frames, whole := f.after(r.seq)
	switch {
	case whole:
		r.live = true
	case r.live:
		return nil, nil, ErrBehind
	default:
		if frames, err = r.room.stored(ctx, r.seq, page); err != nil {
			return nil, nil, err
		}
	}
	for _, frame := range frames {
		events = append(events, frame.text)
		r.seq = frame.seq
	}
	return events, f.more, nil
}

// begin finds out where to go on. It gives a state where that is the newest event.
func (r *Reader) begin(ctx context.Context, f *feed) ([]byte, error) {
	kind := "state"
	if r.last != "" {
		known, err := r.resume(ctx, f)
		if err != nil || known {
			return nil, err
		}
		kind = "reset"
	}
	newest := f.frames[len(f.frames)-1]
	r.seq, r.live = newest.seq, true
	return fmt.Appendf(nil, "id: %d-%s\nevent: %s\ndata: %s\n\n", newest.seq, newest.tag, kind, f.snapshot()), nil
}

// resume says whether the room's history has the event that the browser saw last.
func (r *Reader) resume(ctx context.Context, f *feed) (bool, error) {
	number, tag, _ := strings.Cut(r.last, "-")
	seq, err := strconv.ParseInt(number, 10, 64)
	if err != nil || seq < 1 || seq > f.state.Seq {
		return false, nil
	}
	// One before it, so that the event itself comes along.
	frames, whole := f.after(seq - 1)
	if !whole {
		if frames, err = r.room.stored(ctx, seq-1, 1); err != nil {
			return false, err
		}
	}
	if len(frames) == 0 || frames[0].seq != seq || tag != "" && frames[0].tag != tag {
		return false, nil
	}
	r.seq = seq
	return true, nil
}

// stored are at most n frames from the database.
func (r *Room) stored(ctx context.Context, after int64, n int) ([]frame, error) {
	events, err := r.hub.db.Events(ctx, r.Code, after, n)
	if err != nil {
		return nil, err
	}
	return newFrames(events), nil
}

func newFrames(events []store.Event) []frame {
	all := make([]frame, 0, len(events))
	for _, e := range events {
		all = append(all, newFrame(e))
	}
	return all
}
