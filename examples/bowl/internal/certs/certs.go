// Package certs gets the certificates of the app's domain by ACME (RFC 8555) and keeps them in the state folder.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// Options are where certificates come from.
type Options struct {
	Domain    string // that visitors ask for
	Email     string // whom the CA writes to; may be empty
	Directory string // address of the CA's directory; "" is Let's Encrypt
	// Roots is a file with the certificates, in PEM, that the directory's own one is checked by. "", or a file that is not
	// there, leaves that to the system's.
	Roots string
	Dir   string // the folder for keys and certificates
}

// Manager answers visitors and the CA.
type Manager struct {
	autocert.Manager
	domain string
}

// New makes a manager. Nothing is asked of the CA before the first visitor.
func New(o Options) (*Manager, error) {
	if o.Domain != strings.ToLower(o.Domain) || strings.ContainsAny(o.Domain, ":/ ") || !strings.Contains(o.Domain, ".") {
		return nil, fmt.Errorf("%q is no domain: write one such as bowl.example.org", o.Domain)
	}
	client, err := httpClient(o.Roots)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of certificates: %w", err)
	}
	return &Manager{domain: o.Domain, Manager: autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(filepath.Clean(o.Dir)),
		HostPolicy: autocert.HostWhitelist(o.Domain),
		Email:      o.Email,
		Client:     &acme.Client{DirectoryURL: o.Directory, HTTPClient: client, UserAgent: "bowl"},
	}}, nil
}

// askedFor bounds one request to the CA.
const askedFor = 30 * time.Second

func httpClient(roots string) (*http.Client, error) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second}
	pem, err := os.ReadFile(roots)
	switch {
	case roots == "" || errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read the CA's own certificate: %w", err)
	default:
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", roots)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: transport, Timeout: askedFor}, nil
}

// Listen speaks TLS, HTTP/2 and HTTP/1.1, on what comes to l. Who names no domain, as a client does that was given an address,
// gets the certificate of the one there is.
func (m *Manager) Listen(l net.Listener) net.Listener {
	config := m.TLSConfig()
	certificate := config.GetCertificate
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName == "" {
			hello.ServerName = m.domain
		}
		return certificate(hello)
	}
	return tls.NewListener(l, config)
}

// Handler answers the CA's challenges, lets app answer what comes by TLS, and sends the others there. What comes from this
// machine itself needs no TLS, unless it comes to port 80; with open, nothing does.
func (m *Manager) Handler(app http.Handler, open bool) http.Handler {
	redirect := m.HTTPHandler(nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil || !toPort80(r) && (open || fromHere(r)) {
			app.ServeHTTP(w, r)
			return
		}
		redirect.ServeHTTP(w, r)
	})
}

func toPort80(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && addr.Port == 80
}

func fromHere(r *http.Request) bool {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && addr.Addr().Unmap().IsLoopback()
}
