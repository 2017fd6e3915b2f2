package secret

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"devbox/internal/hint"
)

// on is a host's file tree with units of the app bowl, and with a program in
// the place of systemd-creds: it writes down its arguments and its environment,
// and prints its stdin upside down.
func on(t *testing.T, units map[string]string) *Store {
	t.Helper()
	root := t.TempDir()
	var names []string
	for name, body := range units {
		write(t, root, "etc/systemd/system.attached/"+name, body)
		names = append(names, name)
	}
	write(t, root, "etc/hostname", "host")
	write(t, root, "var/lib/devbox/bowl/state.json", "{}")
	write(t, root, "var/lib/devbox/shop/state.json", "{}")
	s, err := Open(root, "bowl", names)
	if err != nil {
		t.Fatal(err)
	}
	s.creds = program(t, `echo "$@" > "${0%/*}/args"; env > "${0%/*}/env"; rev`)
	return s
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func program(t *testing.T, script string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "systemd-creds")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func (s *Store) read(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(s.dir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(s.dir(), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

func TestSetSealsAndReplaces(t *testing.T) {
	s := on(t, nil)
	for _, value := range []string{"hunter2", "correct horse"} {
		if err := s.Set(t.Context(), "session-key", []byte(value)); err != nil {
			t.Fatal(err)
		}
		sealed := map[string]string{"hunter2": "2retnuh", "correct horse": "esroh tcerroc"}[value]
		if got := s.read(t); !reflect.DeepEqual(got, map[string]string{"bowl.session-key": sealed}) {
			t.Errorf("after setting %s: %q", value, got)
		}
		for file, want := range map[string]string{"args": "encrypt --with-key=host --name=bowl.session-key - -\n", "env": ""} {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(s.creds), file))
			if err != nil || strings.Contains(string(b), value) || want != "" && string(b) != want {
				t.Errorf("%s of systemd-creds: %q, %v", file, b, err)
			}
		}
	}
	for name, want := range map[string]os.FileMode{s.dir(): 0o700 | os.ModeDir, s.file("session-key"): 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// Whatever goes wrong, the value before stays, and nothing beside it.
func TestSetThatFails(t *testing.T) {
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	for _, c := range []struct {
		name    string
		secret  string
		value   string
		creds   string // instead of one that works
		ctx     context.Context
		want    string
		hint    string
		because error
	}{
		{name: "no name", secret: "", value: "x", want: "no secret's name"},
		{name: "a path as name", secret: "../../shadow", value: "x", want: "no secret's name"},
		{name: "a hidden name", secret: ".x", value: "x", want: "no secret's name"},
		{name: "an option as name", secret: "-x", value: "x", want: "no secret's name"},
		{name: "a long name", secret: strings.Repeat("x", 65), value: "x", want: "at most 64"},
		{name: "no value", secret: "k", want: "the value is empty"},
		{name: "a large value", secret: "k", value: strings.Repeat("x", MaxValue+1), want: "more than 64 KiB"},
		{name: "systemd-creds is missing", secret: "k", value: "x", creds: "/nonexistent", want: "there is no systemd-creds", hint: "install systemd"},
		{name: "systemd-creds fails", secret: "k", value: "hunter2", creds: "cat >/dev/null; echo no key >&2; exit 1", want: "set the secret k of bowl: encrypt with systemd-creds: exit status 1: no key"},
		{name: "a full disk under the key", secret: "k", value: "x", creds: "echo 'Failed to write: No space left on device' >&2; exit 1", want: "no space left", hint: "free some space", because: unix.ENOSPC},
		{name: "it prints nothing", secret: "k", value: "x", creds: "cat >/dev/null", want: "it printed nothing"},
		{name: "interrupted", secret: "k", value: "x", ctx: interrupted, creds: "exec sleep 60", want: "interrupted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := on(t, nil)
			if err := s.Set(t.Context(), "k", []byte("before")); err != nil {
				t.Fatal(err)
			}
			if c.creds == "/nonexistent" {
				s.creds = c.creds
			} else if c.creds != "" {
				s.creds = program(t, c.creds)
			}
			ctx := c.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			err := s.Set(ctx, c.secret, []byte(c.value))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(hint.Of(err), c.hint) || c.because != nil && !errors.Is(err, c.because) {
				t.Errorf("%v, hint %q", err, hint.Of(err))
			}
			if err != nil && len(c.value) > 1 && strings.Contains(err.Error(), c.value) {
				t.Errorf("the error has the value: %v", err)
			}
			if got := s.read(t); !reflect.DeepEqual(got, map[string]string{"bowl.k": "erofeb"}) {
				t.Errorf("left behind: %q", got)
			}
		})
	}
}

// What a power cut left of a change is used up by the next one.
func TestSetAfterAPowerCut(t *testing.T) {
	s := on(t, nil)
	write(t, s.root, "etc/credstore.encrypted/.devbox-new", "half")
	if err := s.Set(t.Context(), "k", []byte("abc")); err != nil {
		t.Fatal(err)
	}
	if got := s.read(t); !reflect.DeepEqual(got, map[string]string{"bowl.k": "cba"}) {
		t.Errorf("%q", got)
	}
}

func TestChangesWaitForEachOther(t *testing.T) {
	s := on(t, nil)
	if err := s.Set(t.Context(), "k", []byte("abc")); err != nil {
		t.Fatal(err)
	}
	unlock, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Set(ctx, "k", []byte("new")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another one changes it: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Set(t.Context(), "k", []byte("def")) }()
	unlock()
	if err := <-done; err != nil || s.read(t)["bowl.k"] != "fed" {
		t.Errorf("afterwards: %v, %q", err, s.read(t))
	}
}

func TestListAndRemove(t *testing.T) {
	s := on(t, map[string]string{
		"bowl.service":   "[Service]\nLoadCredentialEncrypted=bowl.key\nLoadCredentialEncrypted=bowl.tls.pem:/etc/credstore.encrypted/bowl.tls.pem\n",
		"bowl-x.service": "[Service]\nLoadCredential=bowl.plain\nLoadCredentialEncrypted=shop.key\n",
	})
	write(t, s.root, "etc/systemd/system/bowl-x.service.d/own.conf", "[Service]\nLoadCredentialEncrypted=bowl.mail")
	s, err := Open(s.root, "bowl", []string{"bowl.service", "bowl-x.service", "bowl-gone.service"})
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"bowl.key", "bowl.spare", "shop.key", "bowl-x.key", "bowl", "bowl.", ".bowl.key"} {
		write(t, s.root, "etc/credstore.encrypted/"+other, "x")
	}
	at := time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC)
	for name, when := range map[string]time.Time{"etc/credstore.encrypted/bowl.key": at, "etc/credstore.encrypted/bowl.spare": at} {
		if err := os.Chtimes(filepath.Join(s.root, name), when, when); err != nil {
			t.Fatal(err)
		}
	}
	write(t, s.root, "run/credentials/bowl.service/bowl.key", "x")
	if err := os.Chtimes(filepath.Join(s.root, "run/credentials/bowl.service"), at, at.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if !all[i].Set.IsZero() {
			all[i].Set = all[i].Set.UTC()
		}
	}
	want := []Entry{
		{Name: "key", Set: at, Units: []string{"bowl.service"}, Stale: []string{"bowl.service"}},
		{Name: "mail", Units: []string{"bowl-x.service"}},
		{Name: "spare", Set: at},
		{Name: "tls.pem", Units: []string{"bowl.service"}},
	}
	if !reflect.DeepEqual(all, want) {
		t.Errorf("got %+v\nwant %+v", all, want)
	}

	for _, c := range []struct {
		name  string
		force bool
		err   string
		hint  string
	}{
		{"nope", false, "bowl has no secret nope on this host", "there are: key, spare"},
		{"../hostname", true, "no secret's name", ""},
		{"key", false, "key is in use: bowl.service loads it", "--force"},
		{"key", true, "", ""},
		{"spare", false, "", ""},
		{"spare", false, "bowl has no secret spare on this host, and no other", ""},
	} {
		err := s.Remove(t.Context(), c.name, c.force)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) || !strings.Contains(hint.Of(err), c.hint) {
			t.Errorf("rm %s: %v, hint %q", c.name, err, hint.Of(err))
		}
	}
	if got := s.read(t); len(got) != 5 || got["shop.key"] == "" || got["bowl-x.key"] == "" {
		t.Errorf("left: %q", got)
	}
}

// Instances of a template run under names of their own.
func TestStaleInstances(t *testing.T) {
	s := on(t, map[string]string{"bowl-w@.service": "[Service]\nImportCredential=bowl.*\n"})
	write(t, s.root, "run/credentials/bowl-w@1.service/x", "")
	write(t, s.root, "run/credentials/bowl-w@2.service/x", "")
	write(t, s.root, "run/credentials/bowl-wx@3.service/x", "")
	late := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(s.root, "run/credentials/bowl-w@2.service"), late, late); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond) // the clock of file times is coarse
	if err := s.Set(t.Context(), "k", []byte("abc")); err != nil {
		t.Fatal(err)
	}
	e, err := s.Entry("k")
	if err != nil || !reflect.DeepEqual(e.Stale, []string{"bowl-w@1.service"}) || !reflect.DeepEqual(e.Units, []string{"bowl-w@.service"}) {
		t.Errorf("%+v, %v", e, err)
	}
}
