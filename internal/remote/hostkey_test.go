package remote

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"devbox/internal/hint"
	"devbox/internal/remote/sshtest"
)

func TestUnknownHostKey(t *testing.T) {
	s := sshtest.Start(t)
	e := endpoint(s)
	e.KnownHosts = []string{filepath.Join(t.TempDir(), "new", "known_hosts")}

	err := refused(t, e, Options{})
	var unknown *HostKeyUnknownError
	if !errors.As(err, &unknown) || Retryable(err) {
		t.Fatalf("got %v", err)
	}
	if unknown.Fingerprint != ssh.FingerprintSHA256(s.HostKey) {
		t.Errorf("fingerprint %s, the key's is %s", unknown.Fingerprint, ssh.FingerprintSHA256(s.HostKey))
	}
	if !strings.Contains(hint.Of(err), unknown.Command) {
		t.Errorf("the cure %q does not name the command", hint.Of(err))
	}

	no := func(context.Context, *HostKeyUnknownError) (bool, error) { return false, nil }
	if err := refused(t, e, Options{ConfirmHostKey: no}); !errors.As(err, &unknown) {
		t.Fatalf("after a no: %v", err)
	}
	if _, err := os.Stat(e.KnownHosts[0]); err == nil {
		t.Error("a refused key was written")
	}

	asked := 0
	yes := func(context.Context, *HostKeyUnknownError) (bool, error) { asked++; return true, nil }
	for range 2 {
		c, err := Dial(within(t, 20*time.Second), e, Options{ConfirmHostKey: yes})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if asked != 1 {
		t.Errorf("asked %d times, want once", asked)
	}
	text, _ := os.ReadFile(e.KnownHosts[0])
	if string(text) != unknown.Line+"\n" {
		t.Errorf("known_hosts is %q, want %q", text, unknown.Line)
	}
}

// TestCommandAddsKey runs the command that the error names.
func TestCommandAddsKey(t *testing.T) {
	s := sshtest.Start(t)
	e := endpoint(s)
	e.KnownHosts = []string{filepath.Join(t.TempDir(), "known hosts")}
	var unknown *HostKeyUnknownError
	if err := refused(t, e, Options{}); !errors.As(err, &unknown) {
		t.Fatal(err)
	}
	c := dial(t, s, Options{})
	if err := c.Run(within(t, 10*time.Second), Command{Script: unknown.Command}); err != nil {
		t.Fatal(err)
	}
	again, err := Dial(within(t, 10*time.Second), e, Options{})
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestAppendKnownHost(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte("no newline"), 0o600); err != nil {
		t.Fatal(err)
	}
	const n = 20
	done := make(chan error)
	for i := range n {
		go func() { done <- appendKnownHost(file, fmt.Sprintf("line %d", i)) }()
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	text, _ := os.ReadFile(file)
	if got := strings.Count(string(text), "\nline "); got != n || !bytes.HasSuffix(text, []byte("\n")) {
		t.Errorf("got %q", text)
	}
	if err := appendKnownHost(os.DevNull, "x"); err != nil {
		t.Error(err)
	}
}

func TestChangedHostKey(t *testing.T) {
	s := sshtest.Start(t)
	s.Know(sshtest.WriteKey(t, filepath.Join(t.TempDir(), "other"), ""))
	asked := func(context.Context, *HostKeyUnknownError) (bool, error) {
		t.Error("a changed key was asked about")
		return true, nil
	}
	err := refused(t, endpoint(s), Options{ConfirmHostKey: asked})
	var mismatch *HostKeyMismatchError
	if !errors.As(err, &mismatch) || Retryable(err) {
		t.Fatalf("got %v", err)
	}
	want := HostKeyMismatchError{
		Host: fmt.Sprintf("[127.0.0.1]:%d", s.Port), File: s.KnownHosts, Line: 2,
		KeyType: "ssh-ed25519", Fingerprint: ssh.FingerprintSHA256(s.HostKey),
	}
	if *mismatch != want {
		t.Errorf("got %+v, want %+v", *mismatch, want)
	}
	if !strings.Contains(err.Error(), s.KnownHosts+" line 2") || !strings.Contains(hint.Of(err), "ssh-keygen -R") {
		t.Errorf("error %q, cure %q", err, hint.Of(err))
	}

	revoked := fmt.Sprintf("@revoked * %s", ssh.MarshalAuthorizedKey(s.HostKey))
	if err := os.WriteFile(s.KnownHosts, []byte(revoked), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := refused(t, endpoint(s), Options{ConfirmHostKey: asked}); !errors.As(err, &mismatch) || !mismatch.Revoked {
		t.Errorf("revoked key: %v", err)
	}
}

// TestOtherKeyType knows the host by a key type that it no longer has: a host
// in between could offer a new type to be taken for unknown.
func TestOtherKeyType(t *testing.T) {
	s := sshtest.Start(t)
	other := must(ssh.NewPublicKey(&must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).PublicKey))
	text := fmt.Sprintf("[127.0.0.1]:%d %s", s.Port, ssh.MarshalAuthorizedKey(other))
	if err := os.WriteFile(s.KnownHosts, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	err := refused(t, endpoint(s), Options{})
	var mismatch *HostKeyMismatchError
	if !errors.As(err, &mismatch) || mismatch.Line != 1 || mismatch.File != s.KnownHosts {
		t.Fatalf("got %v", err)
	}
}
