package policy

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"devbox/internal/hint"
)

// key makes a key with the real ssh-keygen, and returns its file.
func key(t *testing.T, dir, name string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

func sign(t *testing.T, key, namespace, text string) string {
	t.Helper()
	cmd := exec.Command("ssh-keygen", "-Y", "sign", "-n", namespace, "-f", key)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func public(t *testing.T, key string) string {
	t.Helper()
	data, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(data))[:2], " ")
}

// The real ssh-keygen tells who signed, and what is signed by nobody who may,
// for something else or not at all is refused.
func TestSigner(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("needs ssh-keygen")
	}
	root, keys := t.TempDir(), t.TempDir()
	anna, bert, mail := key(t, keys, "anna"), key(t, keys, "bert"), key(t, keys, "mail")
	allowed := filepath.Join(root, "etc/devbox/allowed_signers")
	write := func(text string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(allowed), 0o755))
		must(t, os.WriteFile(allowed, []byte(text), 0o644))
	}
	write("# who may release\n" +
		"anna@example.com,*@example.org namespaces=\"devbox\" " + public(t, anna) + "\n" +
		"mail@example.com namespaces=\"email\" " + public(t, mail) + "\n")
	p := &Policy{root: root, signers: "/etc/devbox/allowed_signers"}
	const text = "devbox release\napp bowl\n"
	for _, tt := range []struct {
		name, signature string
		who, err        string
	}{
		{"a signature", sign(t, anna, "devbox", text), "anna@example.com", ""},
		{"none", "", "", "runs only what is signed"},
		{"garbage", "-----BEGIN SSH SIGNATURE-----\nxxx\n", "", "no allowed signer has made the signature"},
		{"of another key", sign(t, bert, "devbox", text), "", "no allowed signer has made the signature"},
		{"of another text", sign(t, anna, "devbox", text+"x"), "", "not one of this app, image and settings"},
		{"for another purpose", sign(t, anna, "file", text), "", "not one of this app, image and settings"},
		{"of a key that is allowed for other things", sign(t, mail, "devbox", text), "", "not one of this app, image and settings"},
		{"long", strings.Repeat("x", 16<<10), "", "no allowed signer has made the signature"},
	} {
		who, err := p.Signer(context.Background(), []byte(text), tt.signature)
		if who != tt.who || tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || hint.Of(err) == "") {
			t.Errorf("%s: %q, %v (hint %q), want %q, %q", tt.name, who, err, hint.Of(err), tt.who, tt.err)
		}
	}
	good := sign(t, anna, "devbox", text)
	refused := func(name, part, cure string) {
		t.Helper()
		if who, err := p.Signer(context.Background(), []byte(text), good); err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(hint.Of(err), cure) {
			t.Errorf("%s: %q, %v (hint %q)", name, who, err, hint.Of(err))
		}
	}
	write("")
	refused("nobody is allowed", "no allowed signer", "allowed_signers")
	must(t, os.Chmod(allowed, 0o666))
	refused("all may write who is allowed", "can be written by others", "allowed_signers")
	must(t, os.Remove(allowed))
	refused("no file of who is allowed", "no such file", "allowed_signers")
	write("anna@example.com " + public(t, anna) + "\n")
	t.Setenv("PATH", keys)
	refused("no ssh-keygen", "has no ssh-keygen", "openssh-client")
	if who, err := (&Policy{}).Signer(context.Background(), []byte(text), ""); who != "" || err != nil {
		t.Errorf("without a policy: %q, %v", who, err)
	}
}

// The program that checks signatures gets nothing but its arguments, and is not
// waited for without end.
func TestKeygenIsBounded(t *testing.T) {
	tool := filepath.Join(t.TempDir(), "ssh-keygen")
	must(t, os.WriteFile(tool, []byte("#!/bin/sh\nenv >&2\ncat /dev/fd/3 >&2\nsleep 60\n"), 0o755))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := keygen(ctx, tool, "s", nil, "verify"); err == nil {
		t.Error("it went on after the end")
	}
	must(t, os.WriteFile(tool, []byte("#!/bin/sh\nenv >&2\ncat /dev/fd/3 >&2\nexit 1\n"), 0o755))
	t.Setenv("SECRET_OF_SUDO", "x")
	_, err := keygen(context.Background(), tool, "the signature", nil, "verify")
	if err == nil || !strings.Contains(err.Error(), "the signature") || bytes.Contains([]byte(err.Error()), []byte("SECRET_OF_SUDO")) {
		t.Errorf("%v", err)
	}
}
