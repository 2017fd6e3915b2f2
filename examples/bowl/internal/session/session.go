// Package session remembers in a browser's cookie what it is in which room. The cookie is signed: a visitor can read it,
// and can neither change it nor make one.
package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	lasts    = 30 * 24 * time.Hour
	maxSeats = 8    // the newest; a cookie may have 4096 bytes
	maxValue = 4096 // of a cookie that is looked at
)

// Seat is what a browser is in one room: a player, or the moderator, who shows so by the moderator code.
type Seat struct {
	Room      string `json:"room"`
	Player    string `json:"player,omitempty"`
	Moderator string `json:"moderator,omitempty"`
}

type session struct {
	Seats   []Seat `json:"seats"` // newest first, one for each room
	Expires int64  `json:"expires"`
}

// Keeper signs cookies and checks them.
type Keeper struct {
	key []byte
	now func() time.Time
}

// New makes a keeper with a secret key.
func New(key []byte) *Keeper { return &Keeper{key: key, now: time.Now} }

// Seat is what the browser that sent r is in a room, nothing but Room if it is nothing there.
func (k *Keeper) Seat(r *http.Request, room string) Seat {
	for _, s := range k.seats(r) {
		if s.Room == room {
			return s
		}
	}
	return Seat{Room: room}
}

// Take gives the browser a seat beside those that it has in other rooms.
func (k *Keeper) Take(w http.ResponseWriter, r *http.Request, seat Seat) {
	others := slices.DeleteFunc(k.seats(r), func(s Seat) bool { return s.Room == seat.Room })
	seats := append([]Seat{seat}, others[:min(len(others), maxSeats-1)]...)
	http.SetCookie(w, &http.Cookie{
		Name: name(r), Value: k.sign(session{seats, k.now().Add(lasts).Unix()}), Path: "/", MaxAge: int(lasts.Seconds()),
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode,
	})
}

// name is that of the cookie. Browsers take one called __Host- from nobody but this very host, over TLS.
func name(r *http.Request) string {
	if r.TLS != nil {
		return "__Host-bowl"
	}
	return "bowl"
}

func (k *Keeper) seats(r *http.Request) []Seat {
	for _, c := range r.CookiesNamed(name(r)) {
		if s, ok := k.verify(c.Value); ok {
			return s.Seats
		}
	}
	return nil
}

func (k *Keeper) sign(s session) string {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // only our own plain types come here
	}
	payload := base64.RawURLEncoding.EncodeToString(data)
	return payload + "." + k.signature(payload)
}

func (k *Keeper) verify(value string) (session, bool) {
	payload, signature, ok := strings.Cut(value, ".")
	if !ok || len(value) > maxValue {
		return session{}, false
	}
	if !hmac.Equal([]byte(signature), []byte(k.signature(payload))) { // takes the same time wherever they differ
		return session{}, false
	}
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return session{}, false
	}
	var s session
	if err := json.Unmarshal(data, &s); err != nil || s.Expires <= k.now().Unix() {
		return session{}, false
	}
	return s, true
}

// signature signs for this purpose alone: one made with the key for another purpose is none here.
func (k *Keeper) signature(payload string) string {
	m := hmac.New(sha256.New, k.key)
	m.Write([]byte("bowl session v1\x00" + payload))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}
