package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
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

// A client that was given an address names no domain.
func TestNoDomainIsTheOneThereIs(t *testing.T) {
	m, err := New(Options{Domain: "bowl.example.org", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	key, der := selfSigned(t, "bowl.example.org")
	if err := m.Cache.Put(t.Context(), "bowl.example.org", append(key, der...)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(m.Listen(l)) }()
	defer server.Close()
	c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is signed by itself
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.ConnectionState().PeerCertificates[0].DNSNames; !slices.Equal(got, []string{"bowl.example.org"}) {
		t.Errorf("the certificate is of %q", got)
	}
}

// selfSigned is a key and a certificate of its own, in PEM.
func selfSigned(t *testing.T, domain string) (key, certificate []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{domain}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: bytes}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
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
