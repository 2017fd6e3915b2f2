package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// What went wrong with a connection, for errors.Is.
var (
	ErrAuth        = errors.New("authentication failed")
	ErrRefused     = errors.New("connection refused")
	ErrUnreachable = errors.New("host unreachable")
	// ErrClosedEarly is a server that hung up before it said it speaks SSH: a
	// machine still booting behind a forwarded port, MaxStartups, or the
	// penalties of OpenSSH 9.8 and later (PerSourcePenalties, sshd_config(5)).
	ErrClosedEarly = errors.New("connection closed before the server's banner")
	// ErrLost is a connection that worked and does no more.
	ErrLost = errors.New("connection lost")
)

// DialError is a connection that did not come about. Kind is one of the Err
// values above.
type DialError struct {
	Kind error
	Addr string // host:port
	Said string // what the server said, if anything
	Err  error
}

func (e *DialError) Error() string {
	s := fmt.Sprintf("connect to %s: %v", e.Addr, e.Kind)
	if e.Said != "" {
		s += fmt.Sprintf(" (it said %q)", e.Said)
	}
	if e.Err != nil && !errors.Is(e.Err, e.Kind) && e.Kind != ErrRefused {
		s += ": " + bare(e.Err).Error()
	}
	return s
}

// bare is err without what package net puts before it, which says again that it
// was a dial, and to where.
func bare(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err
}

func (e *DialError) Unwrap() []error { return []error{e.Kind, e.Err} }

// AuthError is a server that takes none of what it was offered. It is
// [ErrAuth] to errors.Is.
type AuthError struct {
	Addr, User string
	Tried      []string // keys and methods, as a person knows them
	Skipped    []string // what was not offered, and why
	Banner     string   // what the server said before it refused
	Err        error
}

func (e *AuthError) Error() string {
	s := fmt.Sprintf("authenticate to %s as %s: refused", e.Addr, e.User)
	if len(e.Tried) > 0 {
		s += ", tried " + strings.Join(e.Tried, ", ")
	} else {
		s += ", there was no key to offer"
	}
	if len(e.Skipped) > 0 {
		s += "; not offered: " + strings.Join(e.Skipped, ", ")
	}
	if e.Banner != "" {
		s += fmt.Sprintf("; the server said %q", e.Banner)
	}
	return s
}

func (e *AuthError) Unwrap() []error { return []error{ErrAuth, e.Err} }

// HostKeyMismatchError is a host that shows another key than the one known:
// reinstalled, or not the host. It is final.
type HostKeyMismatchError struct {
	Host        string // as known_hosts names it
	File        string
	Line        int
	KeyType     string // of the key shown
	Fingerprint string // SHA256:… of the key shown; "" when the host shows no key of a known type
	Revoked     bool   // the key shown is marked @revoked
}

func (e *HostKeyMismatchError) Error() string {
	switch {
	case e.Revoked:
		return fmt.Sprintf("host key of %s: the %s key %s is revoked in %s line %d", e.Host, e.KeyType, e.Fingerprint, e.File, e.Line)
	case e.Fingerprint == "":
		return fmt.Sprintf("host key of %s: the host has no key of the type that %s line %d knows", e.Host, e.File, e.Line)
	}
	return fmt.Sprintf("host key of %s: the host shows the %s key %s, which is not the one in %s line %d",
		e.Host, e.KeyType, e.Fingerprint, e.File, e.Line)
}

// HostKeyUnknownError is a host that no known_hosts file names.
type HostKeyUnknownError struct {
	Host        string // as known_hosts would name it
	KeyType     string
	Fingerprint string // SHA256:…
	File        string // known_hosts file the key would go to; "" if there is none
	Line        string // the line to add
	Command     string // the command that adds it
}

func (e *HostKeyUnknownError) Error() string {
	return fmt.Sprintf("host key of %s: unknown, the host shows the %s key %s", e.Host, e.KeyType, e.Fingerprint)
}

// ExitError is a remote command that ended with anything but exit code 0.
type ExitError struct {
	Command string
	Host    string
	Code    int    // exit code; 128 + n for a signal as a shell counts
	Signal  string // name without SIG, or ""
	Stderr  string // whole, or the last 64 KiB
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit code %d", e.Code)
	if e.Signal != "" {
		how = "killed by SIG" + e.Signal
	}
	s := fmt.Sprintf("run %s on %s: %s", shorten(e.Command), e.Host, how)
	if msg := strings.TrimSpace(e.Stderr); msg != "" {
		s += ": " + msg
	}
	return s
}

// shorten keeps a command readable inside an error.
func shorten(command string) string {
	const most = 120
	line, _, more := strings.Cut(strings.TrimSpace(command), "\n")
	if len(line) > most {
		line, more = line[:most], true
	}
	if more {
		line += "…"
	}
	return "`" + line + "`"
}

// Retryable reports whether the same dial may succeed later by itself, as it
// does while a machine boots.
func Retryable(err error) bool {
	if errors.Is(err, ErrAuth) || errors.Is(err, context.Canceled) {
		return false
	}
	return errors.Is(err, ErrRefused) || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrClosedEarly) || errors.Is(err, ErrLost)
}
