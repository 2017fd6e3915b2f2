// Package web is what a visitor sees: the front page with a buzzer to try, the rooms, their live streams, and what a deploy
// tool asks.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"bowl/internal/board"
	"bowl/internal/rooms"
	"bowl/internal/session"
	"bowl/internal/store"
)

// Limits on what a visitor may send.
const (
	maxBody    = 4 << 10
	maxName    = 40 // in characters; the schema says the same
	maxStreams = 4096
)

const anonymous = "Somebody"

// Board is the list of presses.
type Board interface {
	Press(ctx context.Context, name string) (store.Press, error)
	After(id int64) (presses []store.Press, more <-chan struct{}, reset bool)
	Newest() int64
}

// Options are what a Handler needs.
type Options struct {
	Board    Board
	Rooms    *rooms.Hub
	Sessions *session.Keeper
	Check    func(context.Context) error // says whether the database works
	Assets   *Assets
	Version  string
	Greeting string
	Log      *slog.Logger
	// Ending is closed when the app is about to stop: streams end at once, so that the next process may start.
	Ending <-chan struct{}
}

// Handler answers all requests.
type Handler struct {
	Options
	mux         http.Handler
	streams     chan struct{} // one slot for each open stream
	writeWithin time.Duration
}

// New makes the handler.
func New(o Options) *Handler {
	h := &Handler{Options: o, streams: make(chan struct{}, maxStreams), writeWithin: writeWithin}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.page)
	mux.HandleFunc("POST /press", h.press)
	mux.HandleFunc("GET /events", h.events)
	mux.HandleFunc("POST /rooms", h.createRoom)
	mux.HandleFunc("GET /join", h.findRoom)
	mux.HandleFunc("GET /rooms/{code}", h.inRoom(h.roomPage))
	mux.HandleFunc("GET /rooms/{code}/events", h.inRoom(h.roomEvents))
	mux.HandleFunc("POST /rooms/{code}/players", h.inRoom(h.join))
	mux.HandleFunc("POST /rooms/{code}/moderator", h.inRoom(h.becomeModerator))
	mux.HandleFunc("POST /rooms/{code}/press", h.inRoom(h.pressInRoom))
	mux.HandleFunc("POST /rooms/{code}/moderate", h.inRoom(h.moderate))
	mux.HandleFunc("GET /healthz", h.health)
	mux.HandleFunc("GET /version", h.version)
	mux.HandleFunc("GET /static/{name}", h.static)
	h.mux = http.NewCrossOriginProtection().Handler(mux)
	return h
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "+
		"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "no-referrer")
	h.mux.ServeHTTP(w, r)
}

func (h *Handler) page(w http.ResponseWriter, r *http.Request) {
	presses, _, _ := h.Board.After(0)
	newestFirst := make([]store.Press, 0, len(presses))
	for i := len(presses) - 1; i >= 0; i-- {
		newestFirst = append(newestFirst, presses[i])
	}
	h.render(w, r, http.StatusOK, "page.html", struct {
		Version, Greeting string
		MaxName           int
		Shown             int
		Newest            int64
		Presses           []store.Press
	}{h.Version, h.Greeting, maxName, board.Shown, newest(presses), newestFirst})
}

func (h *Handler) render(w http.ResponseWriter, r *http.Request, status int, name string, data any) {
	body, err := h.Assets.Render(name, data)
	if err != nil {
		h.fail(w, r, "render "+name, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func newest(presses []store.Press) int64 {
	if len(presses) == 0 {
		return 0
	}
	return presses[len(presses)-1].ID
}

// press takes a form, from the page's script or from a browser that runs none.
func (h *Handler) press(w http.ResponseWriter, r *http.Request) {
	if !readForm(w, r) {
		return
	}
	name, ok := cleanName(r.PostForm.Get("name"))
	if !ok {
		http.Error(w, "a name has at most 40 characters, all of them printable", http.StatusUnprocessableEntity)
		return
	}
	p, err := h.Board.Press(r.Context(), name)
	if err != nil {
		h.fail(w, r, "press", err)
		return
	}
	if !wantsJSON(r) {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	writeJSON(w, http.StatusCreated, p)
}

// readForm reads the form into r.PostForm, or answers that it cannot.
func readForm(w http.ResponseWriter, r *http.Request) bool {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		status := http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "the form cannot be read", status)
		return false
	}
	return true
}

// wantsJSON tells our scripts from a browser that sends the form by itself.
func wantsJSON(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "application/json")
}

// cleanName trims a name and gives the nameless one. It refuses what would not fit or not print.
func cleanName(s string) (string, bool) {
	if s, ok := cleanText(s, maxName); !ok || s != "" {
		return s, ok
	}
	return anonymous, true
}

// cleanText trims a line of text. It refuses what has more than most characters or would not print.
func cleanText(s string, most int) (string, bool) {
	if !utf8.ValidString(s) {
		return "", false
	}
	s = strings.Join(strings.Fields(s), " ")
	if utf8.RuneCountInString(s) > most {
		return "", false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return "", false
		}
	}
	return s, true
}

type healthAnswer struct {
	Status  string `json:"status"`
	Version string `json:"version"`
	Presses int64  `json:"presses"`
	Streams int    `json:"streams"` // open now
}

// health says ok only if the database answers.
func (h *Handler) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
	defer cancel()
	answer := healthAnswer{Status: "ok", Version: h.Version, Presses: h.Board.Newest(), Streams: len(h.streams)}
	status := http.StatusOK
	if err := h.Check(ctx); err != nil {
		h.Log.Error("health check", "err", err)
		answer.Status, status = "database unavailable", http.StatusServiceUnavailable
	}
	writeJSON(w, status, answer)
}

func (h *Handler) version(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, h.Version+"\n")
}

func (h *Handler) static(w http.ResponseWriter, r *http.Request) {
	h.Assets.ServeStatic(w, r, r.PathValue("name"))
}

// fail logs the cause and tells the visitor only that there is one.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, doing string, err error) {
	if r.Context().Err() != nil {
		return // the visitor has left
	}
	h.Log.Error(doing, "err", err)
	http.Error(w, "something went wrong here, please try again", http.StatusInternalServerError)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the visitor may have left
}
