package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"

	"devbox/internal/hint"
)

// hostKeys verifies the key of one hop against its known_hosts files.
type hostKeys struct {
	hop     Hop
	db      *knownhosts.HostKeyDB
	confirm func(*HostKeyUnknownError) (bool, error)
	checked bool // a key was accepted
}

func loadHostKeys(hop Hop, confirm func(*HostKeyUnknownError) (bool, error)) (*hostKeys, error) {
	var files []string
	for _, file := range hop.KnownHosts {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			files = append(files, file)
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read known hosts: %w", err)
		}
	}
	db, err := knownhosts.NewDB(files...)
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("read known hosts: %w", err), "correct or remove that line")
	}
	return &hostKeys{hop: hop, db: db, confirm: confirm}, nil
}

// algorithms are the host key types to ask for: those that known_hosts has, or
// for an unknown host all, in OpenSSH's order of preference.
func (k *hostKeys) algorithms() []string {
	supported := ssh.SupportedAlgorithms().HostKeys
	known := k.db.HostKeyAlgorithms(k.hop.HostKeyName)
	if len(known) == 0 {
		slices.SortStableFunc(supported, func(a, b string) int { return rank(a) - rank(b) })
		return supported
	}
	// SHA-1 signatures, which an RSA entry would also allow, are left out.
	return slices.DeleteFunc(known, func(a string) bool { return !slices.Contains(supported, a) })
}

func rank(algorithm string) int {
	order := []string{"ed25519", "ecdsa", "rsa"}
	i := slices.IndexFunc(order, func(s string) bool { return strings.Contains(algorithm, s) })
	if i < 0 {
		return len(order)
	}
	return i
}

// check is the ssh.HostKeyCallback.
func (k *hostKeys) check(_ string, remote net.Addr, key ssh.PublicKey) error {
	err := k.db.HostKeyCallback()(k.hop.HostKeyName, remote, key)
	var revoked *xknownhosts.RevokedError
	var wrong *xknownhosts.KeyError
	switch {
	case err == nil:
	case errors.As(err, &revoked):
		err = k.mismatch(revoked.Revoked, key, true)
	case errors.As(err, &wrong) && len(wrong.Want) > 0:
		at := slices.IndexFunc(wrong.Want, func(w xknownhosts.KnownKey) bool { return w.Key.Type() == key.Type() })
		err = k.mismatch(wrong.Want[max(at, 0)], key, false)
	case errors.As(err, &wrong):
		err = k.unknown(key)
	default:
		err = fmt.Errorf("host key of %s: %w", k.name(), err)
	}
	k.checked = k.checked || err == nil
	return err
}

func (k *hostKeys) name() string { return knownhosts.Normalize(k.hop.HostKeyName) }

func (k *hostKeys) mismatch(known xknownhosts.KnownKey, shown ssh.PublicKey, revoked bool) error {
	e := &HostKeyMismatchError{Host: k.name(), File: known.Filename, Line: known.Line, Revoked: revoked}
	if shown != nil {
		e.KeyType, e.Fingerprint = shown.Type(), ssh.FingerprintSHA256(shown)
	}
	if revoked {
		return hint.Wrap(e, "do not connect; find out from the host's owner why its key was revoked")
	}
	return hint.Wrap(e, "if you know why the host has a new key, such as a reinstallation, run `"+
		Quote("ssh-keygen", "-R", e.Host, "-f", e.File)+"` and connect again; otherwise somebody may be in between")
}

// noCommonType is the error for a host that has no key of a known type.
func (k *hostKeys) noCommonType() error {
	line := xknownhosts.KnownKey{}
	var wrong *xknownhosts.KeyError
	if errors.As(k.db.HostKeyCallback()(k.hop.HostKeyName, &net.TCPAddr{IP: net.IPv4zero}, noKey{}), &wrong) && len(wrong.Want) > 0 {
		line = wrong.Want[0]
	}
	return k.mismatch(line, nil, false)
}

func (k *hostKeys) unknown(key ssh.PublicKey) error {
	e := &HostKeyUnknownError{
		Host: k.name(), KeyType: key.Type(), Fingerprint: ssh.FingerprintSHA256(key),
		Line: knownhosts.Line([]string{k.hop.HostKeyName}, key),
	}
	if len(k.hop.KnownHosts) > 0 {
		e.File = k.hop.KnownHosts[0]
		e.Command = "printf '%s\\n' " + Quote(e.Line) + " >> " + Quote(e.File)
	}
	if k.confirm != nil {
		yes, err := k.confirm(e)
		if err != nil {
			return fmt.Errorf("confirm host key of %s: %w", e.Host, err)
		}
		if yes {
			return appendKnownHost(e.File, e.Line)
		}
	}
	cure := "compare the fingerprint with what `ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` prints on the host"
	if e.Command != "" {
		cure += "; if it is the same, run `" + e.Command + "`"
	}
	return hint.Wrap(e, cure)
}

// appendKnownHost adds a line, whole, also while others append. A device such
// as /dev/null is written to and nothing more.
func appendKnownHost(path, line string) (err error) {
	if path == "" {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("add host key to %s: %w", path, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	text := line + "\n"
	if !info.Mode().IsRegular() {
		_, err = io.WriteString(f, text)
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if info, err = f.Stat(); err != nil {
		return err
	}
	if size := info.Size(); size > 0 {
		var last [1]byte
		if _, err := f.ReadAt(last[:], size-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			text = "\n" + text
		}
	}
	if _, err := io.WriteString(f, text); err != nil {
		return err
	}
	return f.Sync()
}

// noKey is a key no file knows, to ask which ones are known.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// confirmWith binds the person's callback to a context, and leaves it nil where
// there is none.
func confirmWith(ctx context.Context, o Options, paused func(func())) func(*HostKeyUnknownError) (bool, error) {
	if o.ConfirmHostKey == nil {
		return nil
	}
	return func(e *HostKeyUnknownError) (yes bool, err error) {
		paused(func() { yes, err = o.ConfirmHostKey(ctx, e) })
		return yes, err
	}
}
