package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"devbox/internal/hint"
)

// Dial connects to e, over its jump hosts, and authenticates. Errors:
// [*HostKeyMismatchError], [*HostKeyUnknownError], [*AuthError], [*DialError],
// and those of [Resolve].
func Dial(ctx context.Context, e Endpoint, o Options) (*Conn, error) {
	hops, err := Resolve(e, o)
	if err != nil {
		return nil, err
	}
	o = o.withDefaults()
	var clients []*ssh.Client
	var raw net.Conn
	fail := func(err error) (*Conn, error) {
		for _, c := range clients {
			c.Close()
		}
		return nil, err
	}
	for i, hop := range hops {
		var way *ssh.Client
		if i > 0 {
			way = clients[i-1]
		}
		conn, err := reach(ctx, hop, way, o)
		if err != nil {
			return fail(err)
		}
		if i == 0 {
			raw = conn
		}
		client, err := handshake(ctx, hop, conn, o)
		if err != nil {
			return fail(err)
		}
		clients = append(clients, client)
	}
	return newConn(hops[len(hops)-1], clients, raw, o), nil
}

// reach opens the TCP connection to a hop, through the one before it.
func reach(ctx context.Context, hop Hop, way *ssh.Client, o Options) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if way == nil {
		d := net.Dialer{KeepAlive: 15 * time.Second}
		conn, err := d.DialContext(ctx, "tcp", hop.Addr())
		return conn, dialError(hop, err)
	}
	conn, err := way.DialContext(ctx, "tcp", hop.Addr())
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) && refused.Reason == ssh.Prohibited {
		return nil, hint.Wrap(fmt.Errorf("connect to %s through %s: %w", hop.Addr(), way.RemoteAddr(), err),
			"set `AllowTcpForwarding yes` in the jump host's sshd_config")
	}
	return conn, dialError(hop, err)
}

func dialError(hop Hop, err error) error {
	if err == nil {
		return nil
	}
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("connect to %s: %w", hop.Addr(), err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return hint.Wrap(&DialError{Kind: ErrRefused, Addr: hop.Addr(), Err: err},
			"check that the machine is up and that sshd listens on this port")
	case errors.As(err, &dns) && dns.IsNotFound:
		// Some systems say so of every name as long as they are offline.
		return hint.Wrap(&DialError{Kind: ErrUnreachable, Addr: hop.Addr(), Err: err}, "check the spelling of the host, and the ssh config's HostName")
	}
	return hint.Wrap(&DialError{Kind: ErrUnreachable, Addr: hop.Addr(), Err: err}, "check the address, and that no firewall is in the way")
}

// handshake makes an authenticated client of a connection to hop. It closes
// the connection when it fails.
func handshake(ctx context.Context, hop Hop, conn net.Conn, o Options) (*ssh.Client, error) {
	seen := &firstBytes{Conn: conn}
	clock := &stopClock{left: o.Timeout, expired: func() { conn.Close() }}
	clock.start()
	defer clock.stop()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	keys, err := loadHostKeys(hop, confirmWith(ctx, o, clock.paused))
	if err != nil {
		conn.Close()
		return nil, err
	}
	creds := &credentials{hop: hop, o: o, paused: clock.paused}
	defer creds.close()
	config := &ssh.ClientConfig{
		User:              hop.User,
		Auth:              creds.methods(ctx),
		HostKeyCallback:   keys.check,
		HostKeyAlgorithms: keys.algorithms(),
		BannerCallback: func(text string) error {
			if creds.banner.Len() < 1<<10 {
				creds.banner.WriteString(text)
			}
			return nil
		},
	}
	// Twice as fast as ChaCha20-Poly1305, which is the library's choice, where
	// the processor has AES instructions; both are sound.
	config.Ciphers = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305, ssh.CipherAES128CTR, ssh.CipherAES256CTR}

	c, channels, requests, err := ssh.NewClientConn(seen, hop.Addr(), config)
	if err == nil && ctx.Err() != nil {
		c.Close()
		err = ctx.Err()
	}
	if err == nil {
		return ssh.NewClient(c, channels, requests), nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("connect to %s: %w", hop.Addr(), context.Cause(ctx))
	}
	return nil, handshakeError(hop, err, keys, creds, seen, clock)
}

func handshakeError(hop Hop, err error, keys *hostKeys, creds *credentials, seen *firstBytes, clock *stopClock) error {
	var unknown *HostKeyUnknownError
	var mismatch *HostKeyMismatchError
	var algorithms *ssh.AlgorithmNegotiationError
	cut := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
	switch {
	case errors.As(err, &unknown), errors.As(err, &mismatch):
		// The library's "handshake failed" would say nothing more.
		var cured error = mismatch
		if unknown != nil {
			cured = unknown
		}
		return hint.Wrap(cured, hint.Of(err))
	case errors.As(err, &algorithms) && algorithms.What == "host key":
		return keys.noCommonType()
	case clock.out():
		return hint.Wrap(&DialError{Kind: ErrUnreachable, Addr: hop.Addr(), Err: context.DeadlineExceeded, Said: seen.said()},
			"the port is open but nothing speaks SSH behind it in time; a machine that boots needs longer")
	case cut && !seen.banner():
		return hint.Wrap(&DialError{Kind: ErrClosedEarly, Addr: hop.Addr(), Said: seen.said(), Err: err},
			"a booting machine does this for some seconds; else the server limits connections "+
				"(MaxStartups) or penalises this address after failed ones (PerSourcePenalties): wait a minute before the next try")
	case cut:
		// A refusal is said in so many words, but for PAM's account rules: then
		// sshd sends a banner, such as that of a system still booting, and hangs up.
		return hint.Wrap(&DialError{Kind: ErrLost, Addr: hop.Addr(), Said: strings.TrimSpace(creds.banner.String()), Err: err},
			"a host that boots or shuts down hangs up like this: try again in a moment")
	case keys.checked:
		e := &AuthError{
			Addr: hop.Addr(), User: hop.User, Tried: creds.tried, Skipped: creds.skipped,
			Banner: strings.TrimSpace(creds.banner.String()), Err: err,
		}
		return hint.Wrap(e, fmt.Sprintf("check the user name, and that the host's ~%s/.ssh/authorized_keys has one of your public keys", hop.User))
	}
	return fmt.Errorf("connect to %s: %w", hop.Addr(), err)
}

// firstBytes remembers how a server began to speak.
type firstBytes struct {
	net.Conn
	mu    sync.Mutex
	start []byte
}

func (f *firstBytes) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	const most = 255 // RFC 4253, section 4.2
	f.mu.Lock()
	if room := most - len(f.start); room > 0 && n > 0 {
		f.start = append(f.start, p[:min(n, room)]...)
	}
	f.mu.Unlock()
	return n, err
}

// banner reports whether the server said that it speaks SSH.
func (f *firstBytes) banner() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for line := range strings.Lines(string(f.start)) {
		if strings.HasPrefix(line, "SSH-") {
			return true
		}
	}
	return false
}

// said is what the server said instead.
func (f *firstBytes) said() string {
	if f.banner() {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.TrimSpace(string(f.start))
}

// stopClock is a timeout that does not run while a person is asked.
type stopClock struct {
	mu      sync.Mutex
	left    time.Duration
	since   time.Time
	timer   *time.Timer
	over    bool
	expired func()
}

func (c *stopClock) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since = time.Now()
	c.timer = time.AfterFunc(c.left, func() {
		c.mu.Lock()
		c.over = true
		c.mu.Unlock()
		c.expired()
	})
}

func (c *stopClock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer.Stop()
	c.left -= time.Since(c.since)
}

func (c *stopClock) out() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

func (c *stopClock) paused(ask func()) {
	c.stop()
	defer c.start()
	ask()
}
