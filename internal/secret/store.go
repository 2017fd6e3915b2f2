package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"devbox/internal/hint"
	"devbox/internal/image"
	"devbox/internal/protocol"
)

// Store is the secrets of one app on this host.
type Store struct {
	root  string // "/" but in tests
	app   string
	units []image.Unit // of the app, as systemd has them
	creds string       // the program systemd-creds
}

// Open makes a Store of an app's name, which came from outside, in the file
// tree below root, which is "/". units are the names of the app's units that
// systemd has.
func Open(root, app string, units []string) (*Store, error) {
	if err := protocol.ValidApp(app); err != nil {
		return nil, err
	}
	parsed, err := attached(root, units)
	if err != nil {
		return nil, err
	}
	return &Store{root: root, app: app, units: parsed, creds: "systemd-creds"}, nil
}

func (s *Store) dir() string { return filepath.Join(s.root, image.CredStore) }

func (s *Store) file(name string) string { return filepath.Join(s.dir(), Credential(s.app, name)) }

// Set encrypts value and keeps it as the secret name, over one that is there.
// An interruption at any instant leaves the value before or the new one.
func (s *Store) Set(ctx context.Context, name string, value []byte) error {
	if err := errors.Join(ValidName(name), ValidValue(value)); err != nil {
		return err
	}
	if err := s.set(ctx, name, value); err != nil {
		err = hint.Full(err, "free some space on the host's disk")
		if errors.Is(err, unix.EROFS) {
			err = hint.Wrap(err, "mount the host's file system for writing again; `dmesg` tells why it is not")
		}
		return fmt.Errorf("set the secret %s of %s: %w", name, s.app, err)
	}
	return nil
}

func (s *Store) set(ctx context.Context, name string, value []byte) error {
	if err := os.Mkdir(s.dir(), 0o700); err == nil {
		if err := syncPath(filepath.Dir(s.dir())); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	sealed, err := s.encrypt(ctx, Credential(s.app, name), value)
	if err != nil {
		return err
	}
	return s.replace(name, sealed)
}

// lock serialises all that changes the store, so that one temporary name is
// enough and one that a power cut left is used up by the next change.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	d, err := os.Open(s.dir())
	if err != nil {
		return nil, err
	}
	for give := time.Now().Add(10 * time.Second); ; {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { d.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			d.Close()
			return nil, fmt.Errorf("lock %s: %w", d.Name(), err)
		case time.Now().After(give):
			d.Close()
			return nil, hint.Errorf("try again when it has ended", "another process is changing %s", d.Name())
		}
		select {
		case <-ctx.Done():
			d.Close()
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// encrypt has systemd-creds seal value under a name. The host's key alone is
// used: a TPM's registers, and on rented machines the TPM itself, change with
// what the provider does, and no secret could be read then at the next boot.
// Where the host has no key yet, systemd-creds makes and syncs one.
func (s *Store) encrypt(ctx context.Context, credential string, value []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.creds, "encrypt", "--with-key=host", "--name="+credential, "-", "-")
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.Stdin = bytes.NewReader(value) // a pipe
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	sealed, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return nil, hint.Errorf("install systemd 250 or newer; Debian 13 has it", "there is no systemd-creds on this host")
	case ctx.Err() != nil:
		return nil, fmt.Errorf("encrypt with systemd-creds: %w", context.Cause(ctx))
	case err != nil && hint.SaysFull(said.String()):
		return nil, fmt.Errorf("encrypt with systemd-creds: %w", unix.ENOSPC)
	case err != nil:
		return nil, fmt.Errorf("encrypt with systemd-creds: %w: %s", err, strings.TrimSpace(said.String()))
	case len(bytes.TrimSpace(sealed)) == 0:
		return nil, errors.New("encrypt with systemd-creds: it printed nothing")
	}
	return sealed, nil
}

// replace puts sealed under the secret's name, on disk before it counts.
func (s *Store) replace(name string, sealed []byte) (err error) {
	temp := filepath.Join(s.dir(), ".devbox-new")
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp) // what was wrong is said by err
		}
	}()
	_, err = f.Write(sealed)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp, s.file(name))
	}
	if err != nil {
		return err
	}
	if err := syncPath(s.dir()); err != nil {
		return fmt.Errorf("the new value is in place, but a power cut may bring the one before back: %w", err)
	}
	return nil
}

// syncPath puts a file or folder on disk.
func syncPath(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	return nil
}

// Remove deletes a secret. One that a unit of the running release loads is
// kept unless force says otherwise.
func (s *Store) Remove(ctx context.Context, name string, force bool) error {
	if err := ValidName(name); err != nil {
		return err
	}
	if _, err := os.Lstat(s.file(name)); errors.Is(err, fs.ErrNotExist) {
		return s.unknown(name)
	} else if err != nil {
		return err
	}
	var users []string
	for _, u := range s.units {
		if loads(u, Credential(s.app, name)) {
			users = append(users, u.Name)
		}
	}
	if len(users) > 0 && !force {
		return refuse("release units without it first, or give --force: what runs goes on until it restarts",
			"%s is in use: %s", name, loading(users))
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Remove(s.file(name)); err != nil {
		return fmt.Errorf("remove the secret %s of %s: %w", name, s.app, err)
	}
	return syncPath(s.dir())
}

// RefusedError is a request that does not fit what is there. Nothing was changed.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }

func refuse(cure, format string, args ...any) error {
	return hint.Wrap(&RefusedError{fmt.Sprintf(format, args...)}, cure)
}

func loading(units []string) string {
	if len(units) == 1 {
		return units[0] + " loads it"
	}
	return strings.Join(units, ", ") + " load it"
}

func (s *Store) unknown(name string) error {
	have, err := s.stored()
	if err != nil {
		return err
	}
	if len(have) == 0 {
		return refuse("", "%s has no secret %s on this host, and no other", s.app, name)
	}
	return refuse("there are: "+strings.Join(slices.Sorted(maps.Keys(have)), ", "), "%s has no secret %s on this host", s.app, name)
}

// stored are the names of the app's secrets and when each was set.
func (s *Store) stored() (map[string]time.Time, error) {
	have := map[string]time.Time{}
	entries, err := os.ReadDir(s.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return have, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		app, name, ok := owner(e.Name())
		if !ok || app != s.app {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed just now
		}
		if err != nil {
			return nil, err
		}
		have[name] = info.ModTime()
	}
	return have, nil
}

// List returns the app's secrets, and those that units want and are not there,
// by name.
func (s *Store) List() ([]Entry, error) {
	have, err := s.stored()
	if err != nil {
		return nil, err
	}
	for _, w := range Missing(s.root, s.app, s.units) {
		have[w.Name] = time.Time{}
	}
	var all []Entry
	for _, name := range slices.Sorted(maps.Keys(have)) {
		all = append(all, s.entry(name, have[name]))
	}
	return all, nil
}

// Entry is what List has of one secret that is set.
func (s *Store) Entry(name string) (Entry, error) {
	info, err := os.Stat(s.file(name))
	if err != nil {
		return Entry{}, err
	}
	return s.entry(name, info.ModTime()), nil
}

func (s *Store) entry(name string, set time.Time) Entry {
	e := Entry{Name: name, Set: set}
	for _, u := range s.units {
		if !loads(u, Credential(s.app, name)) {
			continue
		}
		e.Units = append(e.Units, u.Name)
		for unit, since := range s.running(u.Name) {
			if since.Before(set) {
				e.Stale = append(e.Stale, unit)
			}
		}
	}
	slices.Sort(e.Stale)
	return e
}

// running tells since when a unit, or each instance of a template, has run with
// the credentials that it has: systemd makes a folder of them at its start and
// removes it at its end.
func (s *Store) running(unit string) map[string]time.Time {
	found := map[string]time.Time{}
	dir := filepath.Join(s.root, "run/credentials")
	names := []string{unit}
	if before, after, ok := strings.Cut(unit, "@."); ok {
		names = nil
		entries, _ := os.ReadDir(dir) // without it nothing runs
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), before+"@") && strings.HasSuffix(e.Name(), "."+after) {
				names = append(names, e.Name())
			}
		}
	}
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			found[name] = info.ModTime()
		}
	}
	return found
}
