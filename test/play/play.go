// Package play plays matches of the example over HTTP as its pages do:
// moderators, players who press until they are answered, and watchers who come
// back when their stream ends. What was acknowledged and who saw it when is
// kept, so that nothing can get lost unnoticed.
package play

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Event is what a room tells of one change.
type Event struct {
	Seq  int64  `json:"seq"`
	Kind string `json:"kind"`
	Now  struct {
		Phase    string `json:"phase"`
		Question int    `json:"question"`
		Round    int    `json:"round"`
		Scores   struct{ A, B int }
	} `json:"now"`
	Buzz *Buzz `json:"buzz"`
}

// Buzz is a press and its place.
type Buzz struct {
	Player string `json:"player"`
	Round  int    `json:"round"`
	Place  int    `json:"place"`
}

// Room is a room with its moderator and players.
type Room struct {
	Code    string
	Players []string // their public names, by which events tell of them

	base    string
	client  *http.Client
	cookies []string // of the players
	chair   string   // cookie of the moderator
	now     Event    // what the moderator knows

	mu       sync.Mutex
	made     map[Buzz]time.Time // presses, and when
	answered map[Buzz]time.Time // those of them that were acknowledged, and when
	seen     []sight
}

// sight is a press that a screen was shown.
type sight struct {
	pressed time.Time
	took    time.Duration
}

// Latencies are times from a press to its event on a screen.
type Latencies []time.Duration

// NewRoom makes a room with players, half of them in each team.
func NewRoom(ctx context.Context, client *http.Client, base string, players int) (*Room, error) {
	r := &Room{base: base, client: client, made: map[Buzz]time.Time{}, answered: map[Buzz]time.Time{}}
	var made struct{ Room string }
	cookie, err := r.send(ctx, http.MethodPost, "", "/rooms", url.Values{}, &made)
	if err != nil {
		return nil, err
	}
	r.Code, r.chair = made.Room, cookie
	for i := range players {
		var p struct{ ID string }
		form := url.Values{"name": {fmt.Sprintf("Player %d", i)}, "team": {string("ab"[i%2])}, "ticket": {fmt.Sprintf("%s-%d", r.Code, i)}}
		cookie, err := r.send(ctx, http.MethodPost, "", "/rooms/"+r.Code+"/players", form, &p)
		if err != nil {
			return nil, err
		}
		r.Players, r.cookies = append(r.Players, p.ID), append(r.cookies, cookie)
	}
	return r, nil
}

// refused is an answer that says no: it is final.
type refused struct {
	status int
	text   string
	again  bool // to what had been sent before, without an answer
}

// movedOn says whether the room is past what was asked.
func (e *refused) movedOn() bool {
	return e.status == http.StatusConflict && strings.Contains(e.text, `"moved-on"`)
}

func (e *refused) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.text) }

// send sends a form until there is an answer, as the pages do (share/static/live.js),
// and returns the cookie that came with it.
func (r *Room) send(ctx context.Context, method, cookie, path string, form url.Values, into any) (string, error) {
	again := false
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		got, err := r.try(ctx, method, cookie, path, form, into)
		if err == nil {
			return got, nil
		}
		if no, ok := errors.AsType[*refused](err); ok && no.status < 500 {
			no.again = again
			return "", fmt.Errorf("%s %s: %w", method, path, err)
		}
		again = true
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s %s: %w, last %w", method, path, ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

func (r *Room) try(ctx context.Context, method, cookie, path string, form url.Values, into any) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode >= 400 {
		return "", &refused{status: resp.StatusCode, text: strings.TrimSpace(string(body))}
	}
	if set := resp.Cookies(); len(set) > 0 {
		cookie = set[0].Name + "=" + set[0].Value
	}
	return cookie, json.Unmarshal(body, into)
}

// moderate does what only the moderator does. A room that has moved on when it is
// asked again did so at the first time, of which the answer was lost.
func (r *Room) moderate(ctx context.Context, form url.Values) error {
	var now Event
	path := "/rooms/" + r.Code
	_, err := r.send(ctx, http.MethodPost, r.chair, path+"/moderate", form, &now)
	if no, ok := errors.AsType[*refused](err); ok && no.again && no.movedOn() {
		_, err = r.send(ctx, http.MethodGet, r.chair, path, nil, &now)
	}
	if err == nil {
		r.now = now
	}
	return err
}

// Open opens the next question.
func (r *Room) Open(ctx context.Context) error {
	return r.moderate(ctx, url.Values{"do": {"open"}, "question": {strconv.Itoa(r.now.Now.Question + 1)}})
}

// Right judges the answer of whoever has the floor.
func (r *Room) Right(ctx context.Context) error {
	return r.moderate(ctx, url.Values{"do": {"right"}, "round": {strconv.Itoa(r.now.Now.Round)}})
}

// Score is the sum of both teams' as the moderator was told it last.
func (r *Room) Score() int { return r.now.Now.Scores.A + r.now.Now.Scores.B }

// Press presses for player i in the round that is open.
func (r *Room) Press(ctx context.Context, i int) error {
	key := Buzz{Player: r.Players[i], Round: r.now.Now.Round}
	r.mu.Lock()
	r.made[key] = time.Now() // before it is sent: its event may be here before the answer
	r.mu.Unlock()
	var e struct{ Buzz Buzz }
	_, err := r.send(ctx, http.MethodPost, r.cookies[i], "/rooms/"+r.Code+"/press", url.Values{"round": {strconv.Itoa(key.Round)}}, &e)
	if err == nil && (e.Buzz.Player != key.Player || e.Buzz.Round != key.Round) {
		err = fmt.Errorf("the press of %+v was answered by %+v", key, e.Buzz)
	}
	if err == nil {
		r.mu.Lock()
		r.answered[key] = time.Now()
		r.mu.Unlock()
	}
	return err
}

// Acknowledged is how many presses were answered.
func (r *Room) Acknowledged() int { return len(r.Answered()) }

// Answered are the presses that were answered, and when.
func (r *Room) Answered() map[Buzz]time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.answered)
}

// between are the times of the presses that were made between two times, on
// all screens.
func (r *Room) between(from, to time.Time) Latencies {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all Latencies
	for _, s := range r.seen {
		if !s.pressed.Before(from) && s.pressed.Before(to) {
			all = append(all, s.took)
		}
	}
	return all
}

// Watched is what one screen was shown, to be read when it has left.
type Watched struct {
	Buzzes map[Buzz]int
	Score  int
	Back   int      // how often it came back
	Bad    []string // what was missing, came twice, or was not understood

	seq atomic.Int64 // of the newest event, at any time
}

// Watch has a screen follow the room by client until ctx ends: from the event on
// that it is at, or with the room as it is. It calls seated when it has been told
// that, from where on it must be shown all.
func (r *Room) Watch(ctx context.Context, client *http.Client, w *Watched, seated func()) {
	w.Buzzes = map[Buzz]int{}
	last := ""
	if at := w.seq.Load(); at > 0 {
		last = strconv.FormatInt(at, 10)
	}
	for ctx.Err() == nil {
		if err := r.stream(ctx, client, w, &last, seated); err != nil && ctx.Err() == nil {
			w.Bad = append(w.Bad, err.Error())
		}
		if ctx.Err() != nil {
			break
		}
		w.Back++
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// Replay follows the room as a screen does that has been away since its first
// event: it is shown all of the room's history.
func (r *Room) Replay(ctx context.Context, client *http.Client) *Watched {
	w := &Watched{}
	w.seq.Store(1)
	r.Watch(ctx, client, w, func() {})
	return w
}

// stream follows one stream to its end. A connection that is lost is no error:
// what it did not bring, the next one has to.
func (r *Room) stream(ctx context.Context, client *http.Client, w *Watched, last *string, seated func()) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/rooms/"+r.Code+"/events", nil)
	if err != nil {
		return err
	}
	if *last != "" {
		req.Header.Set("Last-Event-ID", *last)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		if resp.StatusCode >= 500 {
			return nil // it comes back
		}
		return fmt.Errorf("the stream answers %s", resp.Status)
	}
	return each(resp.Body, func(id, kind string, data []byte) error {
		at := time.Now()
		switch kind {
		case "event":
			var e Event
			if err := json.Unmarshal(data, &e); err != nil {
				return err
			}
			if before := w.seq.Load(); e.Seq != before+1 {
				w.Bad = append(w.Bad, fmt.Sprintf("event %d came after %d", e.Seq, before))
			}
			w.Score = e.Now.Scores.A + e.Now.Scores.B
			w.seq.Store(e.Seq)
			if e.Buzz != nil {
				key := Buzz{Player: e.Buzz.Player, Round: e.Buzz.Round}
				w.Buzzes[key]++
				r.mu.Lock()
				if made, ok := r.made[key]; ok {
					r.seen = append(r.seen, sight{made, at.Sub(made)})
				}
				r.mu.Unlock()
			}
		case "state", "reset":
			var s Event
			if err := json.Unmarshal(data, &s); err != nil {
				return err
			}
			if kind == "reset" {
				w.Bad = append(w.Bad, fmt.Sprintf("the stream began anew at %d, after %d", s.Seq, w.seq.Load()))
			}
			w.Score = s.Now.Scores.A + s.Now.Scores.B
			w.seq.Store(s.Seq)
			seated()
		default:
			return nil
		}
		*last = id
		return nil
	})
}

// each reads Server-Sent Events until the stream ends.
func each(body io.Reader, event func(id, kind string, data []byte) error) error {
	var id, kind string
	var data []byte
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Bytes()
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "":
			if len(line) == 0 && data != nil {
				if err := event(id, kind, data); err != nil {
					return err
				}
				kind, data = "", nil
			}
		case "id":
			id = string(value)
		case "event":
			kind = string(value)
		case "data":
			data = bytes.Clone(value)
		}
	}
	return nil // whatever ended it
}
