package release

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

// talk runs a session on what a client would have sent.
func talk(t *testing.T, h *Host, in string) []protocol.Event {
	t.Helper()
	var out bytes.Buffer
	_ = h.Serve(context.Background(), strings.NewReader(in), &out, "test")
	var all []protocol.Event
	r := bufio.NewReader(&out)
	for {
		e, err := protocol.ReadEvent(r)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
}

func TestServeRefuses(t *testing.T) {
	f := newFake(t)
	h := New(f, f.root)
	hello := fmt.Sprintf(`{"hello":{"protocol":%d,"app":"bowl"}}`, protocol.Version) + "\n"
	tests := []struct {
		name, in string
		code     string
		err      string
		more     int // events before the error
	}{
		{"another protocol", `{"hello":{"protocol":99,"app":"bowl"}}` + "\n", protocol.CodeProtocol, "speaks protocol 99", 0},
		{"no hello", `{"status":{"app":"bowl"}}` + "\n", protocol.CodeProtocol, `about ""`, 0},
		{"another app", hello + `{"forget":{"app":"other"}}` + "\n", protocol.CodeProtocol, `about "other"`, 1},
		{"garbage", "\x00\x01\n" + hello, protocol.CodeProtocol, "read request", 0},
		{"cut off", `{"hello"`, protocol.CodeProtocol, "EOF", 0},
		{"stream that is none", hello + `{"receive":{"app":"bowl","digest":"` + strings.Repeat("00", 32) + `","size":4096}}` + "\n" + strings.Repeat("x", 500) + "\n" + hello,
			"", "not a well-formed delta", 1},
	}
	for _, tt := range tests {
		got := talk(t, h, tt.in)
		if len(got) != tt.more+1 {
			t.Errorf("%s: %d events, want %d and then no more: %+v", tt.name, len(got), tt.more+1, got)
			continue
		}
		last := got[tt.more]
		if last.Code != tt.code || !strings.Contains(last.Error, tt.err) || !last.Done {
			t.Errorf("%s: %+v", tt.name, last)
		}
	}
}

// An error that leaves no doubt where the next request begins ends nothing.
func TestServeGoesOn(t *testing.T) {
	f := newFake(t)
	got := talk(t, New(f, f.root), fmt.Sprintf(`{"hello":{"protocol":%d,"app":"bowl"}}`, protocol.Version)+"\n"+
		`{"activate":{"app":"bowl","digest":"`+strings.Repeat("00", 32)+`","settings":{"health":{"deadline":0}}}}`+"\n"+
		`{"status":{"app":"bowl"}}`+"\n"+
		`{"releases":{"app":"bowl"}}`+"\n")
	if len(got) != 4 || got[3].Releases == nil || len(*got[3].Releases) != 0 || got[0].Welcome == nil || got[0].Welcome.Build != "test" || !strings.Contains(got[1].Error, "no such image") || got[2].Status == nil {
		t.Errorf("%+v", got)
	}
}

func TestCheckURL(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			w.WriteHeader(http.StatusNoContent)
		case "/moved":
			http.Redirect(w, r, "/ok", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	for path, want := range map[string]string{
		"/ok": "", "/sick": "answered 503", "/moved": "answered 302 (redirects are not followed)", "/slow": "no answer",
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		err := checkURL(ctx, srv.URL+path, nil)
		cancel()
		if fmt.Sprint(err) != "<nil>" && want == "" || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	srv.Close()
	if err := checkURL(context.Background(), srv.URL+"/ok", nil); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody there: %v", err)
	}
}
