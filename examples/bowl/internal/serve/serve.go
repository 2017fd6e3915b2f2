// Package serve runs an HTTP server that can be replaced under load.
//
// systemd keeps the listening socket, so no connection is refused while the app restarts. What is left is a race inside
// kept-alive connections: a server that closes an idle one may do so just as the client sends its next request, and the
// client sees a reset. So a stopping server first lets busy connections come to their end by themselves (each answer
// says "Connection: close"), and closes only those that were quiet for a while. A new connection gets longer: its client
// would not repeat the request, which may come slowly, as through a tunnel.
package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Times of a stop. A connection that was quiet for quietAfter is taken for idle, one that never sent a request for
// unused after unusedAfter. The whole is far below the units' TimeoutStopSec=.
const (
	quietAfter  = 50 * time.Millisecond
	unusedAfter = 400 * time.Millisecond
	settleFor   = 500 * time.Millisecond
	finishIn    = 5 * time.Second
)

// Server serves until it is told to stop.
type Server struct {
	http     *http.Server
	draining atomic.Bool

	mu    sync.Mutex
	conns map[net.Conn]seen
}

type seen struct {
	state http.ConnState
	since time.Time
}

// New makes a server of h. The timeouts bound what a slow or silent client can hold; a handler that streams lifts them
// for its own connection.
func New(h http.Handler) *Server {
	s := &Server{conns: map[net.Conn]seen{}}
	s.http = &http.Server{
		Handler:           s.closing(h),
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
// that run, and closes what is left. Handlers that stream must have been told to end before.
func (s *Server) Stop(ctx context.Context, listeners ...net.Listener) error {
	s.draining.Store(true)
	for _, l := range listeners {
		_ = l.Close() // the socket itself stays open in systemd
	}
	s.settle(ctx)
	ctx, cancel := context.WithTimeout(ctx, finishIn)
	defer cancel()
	s.closeUnused()
	if err := s.http.Shutdown(ctx); err != nil {
		return fmt.Errorf("end requests: %w", errors.Join(err, s.http.Close()))
	}
	return nil
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

func (s *Server) track(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateClosed, http.StateHijacked:
		delete(s.conns, c)
	default:
		s.conns[c] = seen{state, time.Now()}
	}
}

// closing makes each answer of a stopping server the last one on its connection.
func (s *Server) closing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&lastAnswer{ResponseWriter: w, draining: &s.draining}, r)
	})
}

// lastAnswer decides when the header is written, not when the request came: a stop in between still counts.
type lastAnswer struct {
	http.ResponseWriter
	draining *atomic.Bool
	wrote    bool
}

func (w *lastAnswer) WriteHeader(status int) {
	w.mark()
	w.ResponseWriter.WriteHeader(status)
}

func (w *lastAnswer) Write(b []byte) (int, error) {
	w.mark()
	return w.ResponseWriter.Write(b)
}

func (w *lastAnswer) mark() {
	if !w.wrote && w.draining.Load() {
		w.Header().Set("Connection", "close")
	}
	w.wrote = true
}

// Unwrap lets http.ResponseController reach flushing and deadlines.
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
