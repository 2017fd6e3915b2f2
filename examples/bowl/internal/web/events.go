package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"bowl/internal/rooms"
	"bowl/internal/store"
)

const (
	heartbeat    = 15 * time.Second
	writeWithin  = 10 * time.Second // else a stream is dropped
	retryAfterMS = 250              // how soon a browser comes back when the app restarts
)

// stream is an answer of Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html).
type stream struct {
	w      http.ResponseWriter
	out    *http.ResponseController
	within time.Duration
}

// enter takes a place for a stream, to be given back, or answers that there is none.
func (h *Handler) enter(w http.ResponseWriter) (leave func(), ok bool) {
	select {
	case h.streams <- struct{}{}:
		return func() { <-h.streams }, true
	default:
		tooMany(w)
		return nil, false
	}
}

func tooMany(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "5")
	http.Error(w, "too many watch already", http.StatusServiceUnavailable)
}

// begin makes a stream of the answer and greets the visitor with the version.
func (h *Handler) begin(w http.ResponseWriter) (*stream, error) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	s := &stream{w, http.NewResponseController(w), h.writeWithin}
	_ = s.out.SetReadDeadline(time.Time{}) // the server's read limit would end the stream
	var buf bytes.Buffer
	fmt.Fprintf(&buf, "retry: %d\n", retryAfterMS)
	event(&buf, "hello", map[string]string{"version": h.Version})
	return s, s.send(buf.Bytes())
}

// send fails where the visitor does not take what is sent in time: a slow one holds nobody but itself, and comes back.
func (s *stream) send(parts ...[]byte) error {
	_ = s.out.SetWriteDeadline(time.Now().Add(s.within))
	for _, p := range parts {
		if _, err := s.w.Write(p); err != nil {
			return err
		}
	}
	if err := s.out.Flush(); err != nil {
		return err
	}
	_ = s.out.SetWriteDeadline(time.Time{}) // over HTTP/2 it would end an idle stream
	return nil
}

// end bounds what the server itself writes at the end of the answer.
func (s *stream) end() { _ = s.out.SetWriteDeadline(time.Now().Add(s.within)) }

// events streams presses. An event's id is the press's place: a browser that comes back sends the last one it saw and
// misses nothing that the board remembers.
func (h *Handler) events(w http.ResponseWriter, r *http.Request) {
	leave, ok := h.enter(w)
	if !ok {
		return
	}
	defer leave()
	last, ok := resumeFrom(r)
	if !ok {
		http.Error(w, "after must be the place of a press", http.StatusBadRequest)
		return
	}
	s, err := h.begin(w)
	if err != nil {
		return
	}
	defer s.end()
	var buf bytes.Buffer
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		presses, more, reset := h.Board.After(last)
		if reset {
			event(&buf, "reset", struct{}{})
			last = 0
		}
		for _, p := range presses {
			pressed(&buf, p)
			last = p.ID
		}
		if buf.Len() > 0 {
			if err := s.send(buf.Bytes()); err != nil {
				return
			}
			buf.Reset()
		}
		select {
		case <-more:
		case <-beat.C:
			buf.WriteString(":\n\n")
		case <-h.Ending:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// roomEvents streams what happens in a room.
func (h *Handler) roomEvents(w http.ResponseWriter, r *http.Request, room *rooms.Room) {
	leave, ok := h.enter(w)
	if !ok {
		return
	}
	defer leave()
	if !room.Enter() {
		tooMany(w)
		return
	}
	defer room.Leave()
	reader := room.Read(lastSeen(r))
	s, err := h.begin(w)
	if err != nil {
		return
	}
	defer s.end()
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-h.Ending: // also where it is far behind: it goes on elsewhere
			return
		default:
		}
		events, more, err := reader.Next(r.Context())
		if err != nil {
			if !errors.Is(err, rooms.ErrBehind) && r.Context().Err() == nil {
				h.Log.Error("stream of a room", "room", room.Code, "err", err)
			}
			return
		}
		if len(events) > 0 {
			if err := s.send(events...); err != nil {
				return
			}
			continue
		}
		select {
		case <-more:
		case <-beat.C:
			if err := s.send([]byte(":\n\n")); err != nil {
				return
			}
		case <-h.Ending:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// lastSeen is the id of the last event that the visitor has seen: by the header that a returning browser sends, else by the
// address that the page made.
func lastSeen(r *http.Request) string {
	if s := r.Header.Get("Last-Event-ID"); s != "" {
		return s
	}
	return r.URL.Query().Get("after")
}

// resumeFrom is the place of the last press that the visitor has seen.
func resumeFrom(r *http.Request) (int64, bool) {
	s := lastSeen(r)
	if s == "" {
		return 0, true
	}
	id, err := strconv.ParseInt(s, 10, 64)
	return id, err == nil && id >= 0
}

func pressed(buf *bytes.Buffer, p store.Press) {
	fmt.Fprintf(buf, "id: %d\n", p.ID)
	event(buf, "press", p)
}

// event writes one event. JSON holds no line break, so one data line is enough.
func event(buf *bytes.Buffer, name string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // only our own plain types come here
	}
	fmt.Fprintf(buf, "event: %s\ndata: %s\n\n", name, data)
}
