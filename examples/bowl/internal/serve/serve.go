// Package serve runs an HTTP server that can be replaced under load.
//
// systemd keeps the listening socket, so no connection is refused while the app restarts. What is left is a race inside
// kept-alive connections: a server that closes an idle one may do so just as the client sends its next request, and the
// client sees a reset. So a stopping server first lets busy connections come to their end by themselves (each answer
// says "Connection: close"), and closes only those that were quiet for a while. A new connection gets longer: its client
// would not repeat the request, which may come slowly, as through a tunnel.
//
// All visitors wait in the socket meanwhile. So no client may hold a stop up: the connection of one that does not send the
// rest of its request, or does not take its answer, is cut.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Times of a stop. A connection that was quiet for quietAfter is taken for idle, one that never sent a request for
// unused after unusedAfter, one that waits for its client for held up after heldAfter. The whole is far below the units'
// TimeoutStopSec=.
const (
	quietAfter  = 50 * time.Millisecond
	unusedAfter = 400 * time.Millisecond
	heldAfter   = 500 * time.Millisecond
	settleFor   = 500 * time.Millisecond
	finishIn    = 5 * time.Second
)

// Server serves until it is told to stop.
type Server struct {
	http     *http.Server
	draining atomic.Bool

	mu    sync.Mutex
	conns map[net.Conn]*conn
}

// conn is what is known of a connection. Server.mu guards it.
type conn struct {
	state  http.ConnState
	since  time.Time
	atWork int       // its handlers that run and do not wait for the client; over HTTP/2 there are many
	held   time.Time // since when there is none
}

// New makes a server of h. The timeouts bound what a slow or silent client can hold; a handler that streams lifts them
// for its own connection.
func New(h http.Handler) *Server {
	s := &Server{conns: map[net.Conn]*conn{}}
	s.http = &http.Server{
		Handler:           s.closing(h),
		ConnContext:       s.meet,
		ConnState:         s.track,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	return s
}

// Serve accepts on all listeners until Stop, which makes it return nil.
func (s *Server) Serve(listeners ...net.Listener) error {
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { ended <- s.http.Serve(&quietClose{Listener: l, draining: &s.draining}) }()
	}
	var err error
	for range listeners {
		if e := <-ended; e != nil && !errors.Is(e, http.ErrServerClosed) && !s.draining.Load() {
			err = errors.Join(err, fmt.Errorf("serve: %w", e), s.http.Close())
		}
	}
	return err
}

// Stop ends the server without breaking requests: it stops accepting, lets connections settle, waits for the requests
// that run, and closes what is left. It says how many connections it cut, because their clients held it up. Handlers that
// stream must have been told to end before.
func (s *Server) Stop(ctx context.Context, listeners ...net.Listener) (cut int) {
	begin := time.Now()
	s.draining.Store(true)
	for _, l := range listeners {
		_ = l.Close() // the socket itself stays open in systemd
	}
	s.settle(ctx)
	ctx, cancel := context.WithTimeout(ctx, finishIn)
	defer cancel()
	s.closeUnused()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.http.Shutdown(ctx) // fails where ctx ends, or where a listener was closed twice
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			if ctx.Err() != nil {
				cut += s.closeAll()
			}
			return cut
		case <-tick.C:
			cut += s.cutHeld(begin)
		}
	}
}

// settle waits until no connection is busy or was so a moment ago.
func (s *Server) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for s.busy(time.Now()) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Server) busy(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		quiet := quietAfter
		if c.state == http.StateNew {
			quiet = unusedAfter
		}
		if c.state == http.StateActive || now.Sub(c.since) < quiet {
			return true
		}
	}
	return false
}

// closeUnused closes the connections that never sent a request (browsers open some ahead): Shutdown would wait five
// seconds for each.
func (s *Server) closeUnused() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, is := range s.conns {
		if is.state == http.StateNew {
			_ = c.Close()
		}
	}
}

// cutHeld closes the connections that were held up by their clients for long enough since the stop began: a request is on
// its way there, but none of its handlers is at work.
func (s *Server) cutHeld(begin time.Time) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	long := time.Now().Add(-heldAfter)
	for c, is := range s.conns {
		if is.state == http.StateActive && is.atWork <= 0 && is.since.Before(long) && is.held.Before(long) && begin.Before(long) {
			is.state = http.StateClosed // as it will be
			_ = c.Close()
			n++
		}
	}
	return n
}

// closeAll closes what is there after all patience.
func (s *Server) closeAll() int {
	s.mu.Lock()
	n := len(s.conns)
	s.mu.Unlock()
	_ = s.http.Close()
	return n
}

type connKey struct{}

// meet makes a new connection known, also to the requests that come on it.
func (s *Server) meet(ctx context.Context, c net.Conn) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	is := &conn{state: http.StateNew, since: time.Now()}
	s.conns[c] = is
	return context.WithValue(ctx, connKey{}, is)
}

func (s *Server) track(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if is := s.conns[c]; is != nil {
		is.state, is.since = state, time.Now()
	}
	if state == http.StateClosed || state == http.StateHijacked {
		delete(s.conns, c)
	}
}

// work counts the handlers of a connection that are at work.
func (s *Server) work(c *conn, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.atWork += n; c.atWork == 0 {
		c.held = time.Now()
	}
}

// closing makes each answer of a stopping server the last one on its connection, and keeps count of the handlers.
func (s *Server) closing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(connKey{}).(*conn)
		s.work(c, +1)
		defer s.work(c, -1)
		if r.Body != http.NoBody {
			s.work(c, -1)
			b := &body{ReadCloser: r.Body, came: sync.OnceFunc(func() { s.work(c, +1) })}
			defer b.came()
			r = r.WithContext(r.Context()) // a copy: the server looks at what the body of its own was
			r.Body = b
		}
		h.ServeHTTP(&lastAnswer{ResponseWriter: w, server: s, conn: c}, r)
	})
}

// body is that of a request, whose handler is not at work before all of it came: it may come in many small parts.
type body struct {
	io.ReadCloser
	came func()
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.came()
	}
	return n, err
}

// lastAnswer decides when the header is written, not when the request came: a stop in between still counts. Who writes it
// waits for the client.
type lastAnswer struct {
	http.ResponseWriter
	server *Server
	conn   *conn
	wrote  bool
}

func (w *lastAnswer) WriteHeader(status int) {
	w.mark()
	w.ResponseWriter.WriteHeader(status)
}

func (w *lastAnswer) Write(b []byte) (int, error) {
	w.mark()
	w.server.work(w.conn, -1)
	defer w.server.work(w.conn, +1)
	return w.ResponseWriter.Write(b)
}

// FlushError is what http.ResponseController looks for.
func (w *lastAnswer) FlushError() error {
	w.mark()
	w.server.work(w.conn, -1)
	defer w.server.work(w.conn, +1)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *lastAnswer) mark() {
	if !w.wrote && w.server.draining.Load() {
		w.Header().Set("Connection", "close")
	}
	w.wrote = true
}

// Unwrap lets http.ResponseController reach deadlines.
func (w *lastAnswer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// quietClose turns the error of a listener closed by Stop into the one that http.Server does not log.
type quietClose struct {
	net.Listener
	draining *atomic.Bool
}

func (l *quietClose) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil && l.draining.Load() {
		return nil, http.ErrServerClosed
	}
	return c, err
}
