package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"bowl/internal/store"
)

const (
	heartbeat    = 15 * time.Second
	writeWithin  = 10 * time.Second
	retryAfterMS = 250 // how soon a browser comes back when the app restarts
)

// events streams presses (https://html.spec.whatwg.org/multipage/server-sent-events.html). An event's id is the press's
// place: a browser that comes back sends the last one it saw and misses nothing that the board remembers.
func (h *Handler) events(w http.ResponseWriter, r *http.Request) {
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many watch already", http.StatusServiceUnavailable)
		return
	}
	last, ok := resumeFrom(r)
	if !ok {
		http.Error(w, "after must be the place of a press", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // the server's read limit would end the stream

	var buf bytes.Buffer
	fmt.Fprintf(&buf, "retry: %d\n", retryAfterMS)
	event(&buf, "hello", map[string]string{"version": h.Version})
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
			_ = out.SetWriteDeadline(time.Now().Add(writeWithin))
			if _, err := w.Write(buf.Bytes()); err != nil {
				return
			}
			if err := out.Flush(); err != nil {
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

// resumeFrom is the place of the last press that the visitor has seen: by the header that a returning browser sends, else
// by the address that the page made.
func resumeFrom(r *http.Request) (int64, bool) {
	s := r.Header.Get("Last-Event-ID")
	if s == "" {
		s = r.URL.Query().Get("after")
	}
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
