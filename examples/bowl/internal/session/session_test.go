package session

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

var key = []byte("0123456789abcdef0123456789abcdef")

func keeper(now time.Time) *Keeper {
	k := New(key)
	k.now = func() time.Time { return now }
	return k
}

// take gives a browser with some cookies another seat and says what cookie it then has.
func take(k *Keeper, seat Seat, overTLS bool, cookies ...*http.Cookie) *http.Cookie {
	w := httptest.NewRecorder()
	k.Take(w, request(overTLS, cookies...), seat)
	return w.Result().Cookies()[0]
}

func request(overTLS bool, cookies ...*http.Cookie) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	if overTLS {
		r.TLS = &tls.ConnectionState{}
	}
	for _, c := range cookies {
		r.AddCookie(c)
	}
	return r
}

func TestSeats(t *testing.T) {
	k := keeper(time.Now())
	player, moderator := Seat{Room: "BBBBBB", Player: "P"}, Seat{Room: "CCCCCC", Moderator: "M"}
	c := take(k, player, false)
	c = take(k, moderator, false, c)
	for _, want := range []Seat{player, moderator, {Room: "DDDDDD"}} {
		if got := k.Seat(request(false, c), want.Room); got != want {
			t.Errorf("in %s it is %+v, want %+v", want.Room, got, want)
		}
	}
	other := Seat{Room: "BBBBBB", Player: "Q"}
	c = take(k, other, false, c)
	if got := k.Seat(request(false, c), "BBBBBB"); got != other {
		t.Errorf("a second seat in a room: %+v", got)
	}
	for i := range maxSeats {
		c = take(k, Seat{Room: strings.Repeat(string(rune('F'+i)), 6), Moderator: "MMMMMMMMMMMM"}, false, c)
	}
	if got := k.Seat(request(false, c), "FFFFFF"); got.Moderator == "" {
		t.Errorf("%d seats do not fit", maxSeats)
	}
	if got := k.Seat(request(false, c), "CCCCCC"); got.Moderator != "" || len(c.Value) > 2000 {
		t.Errorf("the oldest seat stays, or the cookie has %d bytes", len(c.Value))
	}
}

func TestCookie(t *testing.T) {
	k := keeper(time.Now())
	seat := Seat{Room: "BBBBBB", Player: "P"}
	plain, secure := take(k, seat, false), take(k, seat, true)
	for _, c := range []*http.Cookie{plain, secure} {
		if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("cookie %+v", c)
		}
	}
	if plain.Secure || !secure.Secure || secure.Name != "__Host-bowl" {
		t.Errorf("without TLS %+v, with it %+v", plain, secure)
	}
	if got := k.Seat(request(true, plain), "BBBBBB"); got.Player != "" {
		t.Error("over TLS, a cookie that any other host could have set was taken")
	}
}

func TestOthersAreRefused(t *testing.T) {
	now := time.Now()
	good := take(keeper(now), Seat{Room: "BBBBBB", Player: "P"}, false).Value
	payload, signature, _ := strings.Cut(good, ".")
	foreign := New([]byte("another key"))
	foreignValue := take(foreign, Seat{Room: "BBBBBB", Player: "P"}, false).Value
	_, foreignSignature, _ := strings.Cut(foreignValue, ".")
	for what, c := range map[string]struct {
		value string
		at    time.Time
	}{
		"another key":                {foreignValue, now},
		"another key's signature":    {payload + "." + foreignSignature, now},
		"no signature":               {payload + ".", now},
		"no point":                   {payload, now},
		"another payload":            {"eyJ9" + payload[4:] + "." + signature, now},
		"a signature of another one": {payload[:len(payload)-2] + "." + signature, now},
		"expired":                    {good, now.Add(lasts + time.Second)},
		"nothing":                    {"", now},
		"too long":                   {strings.Repeat("A", 5000) + "." + signature, now},
	} {
		if got := keeper(c.at).Seat(request(false, &http.Cookie{Name: "bowl", Value: c.value}), "BBBBBB"); got.Player != "" {
			t.Errorf("%s was taken", what)
		}
	}
	if got := keeper(now.Add(lasts-time.Second)).Seat(request(false, &http.Cookie{Name: "bowl", Value: good}), "BBBBBB"); got.Player != "P" {
		t.Error("the good one was refused")
	}
}

// No other value than one that was signed is taken.
func FuzzVerify(f *testing.F) {
	k := keeper(time.Unix(1_800_000_000, 0))
	good := k.sign(session{[]Seat{{Room: "BBBBBB", Player: "P"}}, 1_900_000_000})
	for _, s := range []string{good, good + "=", good + "\n", "." + good, "", ".", strings.ToLower(good)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if s, ok := k.verify(value); ok && value != good {
			t.Errorf("%q was taken as %+v", value, s)
		}
	})
}
