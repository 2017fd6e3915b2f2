package certs

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func TestWhoNeedsTLS(t *testing.T) {
	m, err := New(Options{Domain: "bowl.example.org", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	app := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, c := range []struct {
		name     string
		open     bool
		tls      bool
		port     int
		from     string
		method   string
		want     int
		location string
	}{
		{"by TLS", false, true, 443, "203.0.113.7:999", "POST", http.StatusTeapot, ""},
		{"a stranger on 80", false, false, 80, "203.0.113.7:999", "GET", http.StatusFound, "https://bowl.example.org:443/r/ABC?x=1"},
		{"a stranger's form on 80", false, false, 80, "203.0.113.7:999", "POST", http.StatusBadRequest, ""},
		{"a stranger on 8080", false, false, 8080, "203.0.113.7:999", "GET", http.StatusFound, "https://bowl.example.org:443/r/ABC?x=1"},
		{"this machine on 8080", false, false, 8080, "127.0.0.1:999", "GET", http.StatusTeapot, ""},
		{"this machine on 8080, by an IPv6 socket", false, false, 8080, "[::ffff:127.0.0.1]:999", "GET", http.StatusTeapot, ""},
		{"this machine on 80", false, false, 80, "127.0.0.1:999", "GET", http.StatusFound, "https://bowl.example.org:443/r/ABC?x=1"},
		{"at home, a stranger on 8080", true, false, 8080, "203.0.113.7:999", "GET", http.StatusTeapot, ""},
		{"at home, a stranger on 80", true, false, 80, "203.0.113.7:999", "GET", http.StatusFound, "https://bowl.example.org:443/r/ABC?x=1"},
	} {
		r := httptest.NewRequest(c.method, "/r/ABC?x=1", nil)
		r.Host, r.RemoteAddr = "bowl.example.org:8080", c.from
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{Port: c.port}))
		w := httptest.NewRecorder()
		m.Handler(app, c.open).ServeHTTP(w, r)
		if w.Code != c.want || w.Header().Get("Location") != c.location {
			t.Errorf("%s: %d to %q", c.name, w.Code, w.Header().Get("Location"))
		}
	}
}

func TestWhatCannotGetACertificate(t *testing.T) {
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{
		{Domain: "https://bowl.example.org"}, {Domain: "bowl.example.org:443"}, {Domain: "Bowl.example.org"}, {Domain: "localhost"},
		{Domain: "bowl.example.org", Roots: junk}, {Domain: "bowl.example.org", Roots: dir},
	} {
		o.Dir = dir
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	if _, err := New(Options{Domain: "bowl.example.org", Roots: filepath.Join(dir, "none"), Dir: dir}); err != nil {
		t.Errorf("a CA that the system knows: %v", err)
	}
}
