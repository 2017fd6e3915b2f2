package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"devbox/internal/hint"
)

// maxSessions is how many commands run at once on one connection: below the
// ten that sshd allows (MaxSessions), since a session that was cancelled counts
// there until its command has ended.
const maxSessions = 8

// Conn is one kept connection. Its methods may be called at once from many
// goroutines.
type Conn struct {
	hop     Hop
	clients []*ssh.Client // jump hosts first
	raw     net.Conn      // the TCP connection under all of them
	places  chan struct{}
	done    chan struct{}

	mu  sync.Mutex
	err error // why it ended
}

func newConn(hop Hop, clients []*ssh.Client, raw net.Conn, o Options) *Conn {
	c := &Conn{hop: hop, clients: clients, raw: raw, places: make(chan struct{}, maxSessions), done: make(chan struct{})}
	go func() {
		err := c.client().Wait()
		c.end(fmt.Errorf("%w: %w", ErrLost, err))
		close(c.done)
	}()
	if o.KeepAlive > 0 {
		go c.keepAlive(o.KeepAlive, o.KeepAliveTries)
	}
	return c
}

func (c *Conn) client() *ssh.Client { return c.clients[len(c.clients)-1] }

// Host is the host as the user named it.
func (c *Conn) Host() string { return c.hop.Alias }

// Hop is the host as it was resolved.
func (c *Conn) Hop() Hop { return c.hop }

// Done is closed when the connection is no more.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended; nil while it lives. After Close it is
// net.ErrClosed, else [ErrLost].
func (c *Conn) Err() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection and all that runs over it.
func (c *Conn) Close() error {
	c.end(net.ErrClosed)
	<-c.done
	return nil
}

// end closes everything; the first reason stands.
func (c *Conn) end(why error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = fmt.Errorf("connection to %s: %w", c.hop.Alias, why)
	}
	c.mu.Unlock()
	// What the host has not got yet must not reach it later, when another
	// connection has found that it was never asked.
	if tcp, ok := c.raw.(*net.TCPConn); ok && errors.Is(why, ErrLost) {
		_ = tcp.SetLinger(0) // tcp(7), SO_LINGER: unsent data is dropped
	}
	// The TCP connection goes first: closing a channel writes, which blocks on
	// a peer that has stopped reading.
	c.raw.Close()
	for i := len(c.clients) - 1; i >= 0; i-- {
		c.clients[i].Close()
	}
}

// keepAlive ends the connection when the host has not answered for tries
// intervals, so that everything that waits for it returns.
func (c *Conn) keepAlive(interval time.Duration, tries int) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
		}
		answered := make(chan struct{})
		go func() {
			// sshd answers an unknown request with a refusal, which is an answer.
			c.client().SendRequest("keepalive@openssh.com", true, nil)
			close(answered)
		}()
		silence := time.NewTimer(interval * time.Duration(tries))
		select {
		case <-answered:
			silence.Stop()
		case <-c.done:
			silence.Stop()
			return
		case <-silence.C:
			c.end(fmt.Errorf("%w: no answer for %v", ErrLost, interval*time.Duration(tries)))
			return
		}
	}
}

// refusedFor is how long a refused session is asked for again. sshd counts a
// session that has ended until it has seen to all that came in with its end:
// one that follows at once may be one too many.
const refusedFor = 2 * time.Second

// session opens a session when there is a place for it. The place is given
// back by release.
func (c *Conn) session(ctx context.Context) (*ssh.Session, error) {
	begin := time.Now()
	for pause := 5 * time.Millisecond; ; pause *= 2 {
		s, err := c.openSession(ctx)
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) {
			return s, err
		}
		if time.Since(begin) > refusedFor {
			return nil, hint.Wrap(err,
				"the server allows too few sessions per connection: raise MaxSessions in its sshd_config to 10, the default")
		}
		select {
		case <-time.After(pause):
		case <-c.done:
			return nil, c.Err()
		case <-ctx.Done():
			return nil, fmt.Errorf("open a session on %s: %w", c.hop.Alias, context.Cause(ctx))
		}
	}
}

func (c *Conn) openSession(ctx context.Context) (*ssh.Session, error) {
	select {
	case c.places <- struct{}{}:
	case <-c.done:
		return nil, c.Err()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for one of %d sessions on %s: %w", maxSessions, c.hop.Alias, context.Cause(ctx))
	}
	type result struct {
		session *ssh.Session
		err     error
	}
	opened := make(chan result, 1)
	go func() {
		s, err := c.client().NewSession()
		opened <- result{s, err}
	}()
	var r result
	select {
	case r = <-opened:
	case <-c.done:
		c.release()
		return nil, c.Err()
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.err == nil {
				r.session.Close()
			}
			c.release()
		}()
		return nil, fmt.Errorf("open a session on %s: %w", c.hop.Alias, context.Cause(ctx))
	}
	if r.err == nil {
		return r.session, nil
	}
	c.release()
	if refused := new(ssh.OpenChannelError); !errors.As(r.err, &refused) {
		r.err = c.lost(r.err)
	}
	return nil, fmt.Errorf("open a session on %s: %w", c.hop.Alias, r.err)
}

func (c *Conn) release() { <-c.places }

// lost gives the reason why the connection ended instead of err, if it did.
func (c *Conn) lost(err error) error {
	// The library tells those who wait a moment before it tells Wait.
	select {
	case <-c.done:
	case <-time.After(100 * time.Millisecond):
	}
	if why := c.Err(); why != nil {
		return why
	}
	return err
}

// Listen has the host listen on addr, TCP, and hands over what connects there.
// It ends with the connection.
func (c *Conn) Listen(addr string) (net.Listener, error) {
	if err := c.Err(); err != nil {
		return nil, err
	}
	l, err := c.client().Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s of %s: %w", addr, c.hop.Alias, err)
	}
	return l, nil
}

// DialContext connects from the host to addr; network is tcp or unix. It fits
// http.Transport.DialContext. The connection has no deadlines, and can
// CloseWrite.
func (c *Conn) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := c.Err(); err != nil {
		return nil, err
	}
	type result struct {
		conn net.Conn
		err  error
	}
	dialed := make(chan result, 1)
	go func() {
		conn, err := c.client().Dial(network, addr)
		dialed <- result{conn, err}
	}()
	abandon := func() {
		if r := <-dialed; r.err == nil {
			r.conn.Close()
		}
	}
	select {
	case r := <-dialed:
		if r.err == nil {
			return r.conn, nil
		}
		var refused *ssh.OpenChannelError
		if errors.As(r.err, &refused) {
			return nil, c.channelError(addr, refused)
		}
		return nil, fmt.Errorf("connect to %s from %s: %w", addr, c.hop.Alias, c.lost(r.err))
	case <-c.done:
		go abandon()
		return nil, c.Err()
	case <-ctx.Done():
		go abandon()
		return nil, fmt.Errorf("connect to %s from %s: %w", addr, c.hop.Alias, context.Cause(ctx))
	}
}

func (c *Conn) channelError(addr string, err *ssh.OpenChannelError) error {
	if err.Reason == ssh.Prohibited {
		return hint.Wrap(fmt.Errorf("connect to %s from %s: %w", addr, c.hop.Alias, err),
			"set `AllowTcpForwarding yes` in the host's sshd_config")
	}
	return &DialError{Kind: ErrRefused, Addr: addr + " on " + c.hop.Alias, Err: err}
}
