package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"devbox/internal/hint"
	"devbox/internal/remote"
)

// maxSpec bounds the spec that Child reads, in bytes.
const maxSpec = 1 << 20

// lookEvery is how often the process looks whether its folder is still there.
const lookEvery = 2 * time.Second

// Child is the body of the process that [Start] spawns: in and out are its
// stdin and stdout, log its stderr. It returns when the process is told to end.
func Child(ctx context.Context, in io.Reader, out io.WriteCloser, log io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var spec Spec
	if err := json.NewDecoder(io.LimitReader(in, maxSpec)).Decode(&spec); err != nil {
		return fmt.Errorf("read what to forward: %w", err)
	}
	answered := false
	answer := func(r reply) {
		if !answered {
			answered = true
			// Should nobody listen any more there is nobody to tell.
			_ = json.NewEncoder(out).Encode(r)
			_ = out.Close()
		}
	}
	err := Serve(ctx, spec, slog.New(slog.NewTextHandler(log, nil)), func() { answer(reply{Listening: true}) })
	if err != nil {
		r := reply{Error: err.Error(), Cure: hint.Of(err)}
		_ = errors.As(err, &r.InUse)
		answer(r)
	}
	return err
}

// Serve opens the ports, calls listening, and forwards until ctx ends or
// spec.Dir is removed. The machine is connected to when somebody connects.
func Serve(ctx context.Context, spec Spec, log *slog.Logger, listening func()) error {
	if err := spec.validate(); err != nil {
		return err
	}
	digest, err := spec.digest()
	if err != nil {
		return err
	}
	lock, err := acquire(spec.lockFile())
	if err != nil {
		return err
	}
	defer lock.Close()
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()

	status := &statusFile{path: spec.statusFile(), log: log, now: Status{Pid: os.Getpid(), Ports: spec.Ports, State: Idle, Spec: digest}}
	l := newLink(spec, log, status)
	var listeners []net.Listener
	for _, port := range spec.Ports {
		ln, err := listen(ctx, port.Client)
		if err != nil {
			for _, ln := range listeners {
				ln.Close()
			}
			return err
		}
		listeners = append(listeners, ln)
	}
	all.Go(func() { l.keep(ctx) })
	for i, ln := range listeners {
		context.AfterFunc(ctx, func() { ln.Close() })
		all.Go(func() { accept(ctx, ln, spec.Ports[i], l, log) })
	}
	if err := status.write(); err != nil {
		return err
	}
	log.Info("listening", "ports", spec.Ports, "pid", os.Getpid())
	listening()
	untilRemoved(ctx, lock, spec.lockFile())
	log.Info("ends", "why", context.Cause(ctx))
	return nil
}

func listen(ctx context.Context, port int) (net.Listener, error) {
	var config net.ListenConfig
	ln, err := config.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		e := &PortInUseError{Port: port, Process: listener(port)}
		return nil, hint.Wrap(e, e.cure())
	case errors.Is(err, syscall.EACCES):
		return nil, hint.Errorf("choose a client port from 1024 on in machine.ports", "open port %d of 127.0.0.1: %w", port, err)
	case err != nil:
		return nil, fmt.Errorf("open port %d of 127.0.0.1: %w", port, err)
	}
	return ln, nil
}

// untilRemoved waits for the end of ctx, or for the lock file to be gone or to
// be another: then the machine it was for is gone.
func untilRemoved(ctx context.Context, lock *os.File, path string) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	ours, err := lock.Stat()
	for err == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// By name: opening and closing it would drop the lock.
		info, missing := os.Stat(path)
		if errors.Is(missing, os.ErrNotExist) || missing == nil && !os.SameFile(info, ours) {
			return
		}
	}
}

func accept(ctx context.Context, ln net.Listener, port Port, l *link, log *slog.Logger) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		client, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				client.Close()
			}
			return
		}
		if err != nil {
			// Such as too many open files, which passes.
			log.Warn("accept", "port", port.Client, "error", err)
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		all.Go(func() {
			defer client.Close()
			guest, err := l.dial(ctx, port.Guest)
			if err != nil {
				log.Warn("connection closed", "port", port.Client, "error", err)
				return
			}
			defer guest.Close()
			pipe(ctx, client, guest)
		})
	}
}

// pipe copies both ways until both have ended, or ctx.
func pipe(ctx context.Context, client, guest net.Conn) {
	stop := context.AfterFunc(ctx, func() {
		client.Close()
		guest.Close()
	})
	defer stop()
	done := make(chan struct{})
	copyHalf := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite() // The other half may live on, as HTTP does not mind.
			return
		}
		// One side is broken: the other must not wait for it.
		to.Close()
		from.Close()
	}
	go func() {
		defer close(done)
		copyHalf(guest, client)
	}()
	copyHalf(client, guest)
	<-done
}

// link is the connection to the machine: made when it is wanted, made again
// when it is lost and wanted again.
type link struct {
	spec   Spec
	log    *slog.Logger
	status *statusFile
	wanted chan struct{}

	mu      sync.Mutex
	conn    *remote.Conn
	err     error         // of the last try
	waiting int           // connections that want it
	changed chan struct{} // closed when conn is set
}

func newLink(spec Spec, log *slog.Logger, status *statusFile) *link {
	if spec.Patience == 0 {
		spec.Patience = 10 * time.Second
	}
	// Sooner than the default, since somebody in a browser waits; it must be
	// shorter than the patience, three times over.
	if spec.Options.KeepAlive == 0 {
		spec.Options.KeepAlive = 2 * time.Second
	}
	return &link{spec: spec, log: log, status: status, wanted: make(chan struct{}, 1), changed: make(chan struct{})}
}

// dial connects to a port of the machine, and waits for the machine meanwhile.
func (l *link) dial(ctx context.Context, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, l.spec.Patience)
	defer cancel()
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for {
		conn, err := l.get(ctx)
		if err != nil {
			return nil, err
		}
		guest, err := conn.DialContext(ctx, "tcp", addr)
		if err == nil || conn.Err() == nil {
			return guest, err
		}
	}
}

func (l *link) get(ctx context.Context) (*remote.Conn, error) {
	l.mu.Lock()
	l.waiting++
	defer func() {
		l.mu.Lock()
		l.waiting--
		l.mu.Unlock()
	}()
	for {
		if l.conn != nil && l.conn.Err() == nil {
			conn := l.conn
			l.mu.Unlock()
			return conn, nil
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case l.wanted <- struct{}{}:
		default:
		}
		select {
		case <-changed:
		case <-ctx.Done():
			l.mu.Lock()
			err := l.err
			l.mu.Unlock()
			return nil, fmt.Errorf("wait for the machine: %w", errors.Join(context.Cause(ctx), err))
		}
		l.mu.Lock()
	}
}

// keep dials for as long as somebody waits.
func (l *link) keep(ctx context.Context) {
	defer l.close()
	tries := 0
	for {
		select {
		case <-l.wanted:
		case <-ctx.Done():
			return
		}
		for l.missing() {
			conn, err := remote.Dial(ctx, l.spec.Endpoint, l.spec.Options)
			if err == nil {
				tries = 0
				l.set(conn)
				break
			}
			if ctx.Err() != nil {
				return
			}
			tries++
			l.failed(err)
			select {
			case <-time.After(backoff(err, tries)):
			case <-ctx.Done():
				return
			}
		}
	}
}

// backoff is the pause after a try. Even what is final for others, such as a
// changed host key, is tried again: the machine may be replaced any time. But
// sshd counts failed logins, so those go slowly.
func backoff(err error, tries int) time.Duration {
	if !remote.Retryable(err) {
		return min(2*time.Second<<min(tries-1, 3), 10*time.Second)
	}
	return min(200*time.Millisecond<<min(tries-1, 4), 2*time.Second)
}

func (l *link) missing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting > 0 && (l.conn == nil || l.conn.Err() != nil)
}

func (l *link) set(conn *remote.Conn) {
	l.mu.Lock()
	l.conn, l.err = conn, nil
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	l.log.Info("connected", "host", conn.Host())
	l.status.set(Connected, nil)
	go func() {
		<-conn.Done()
		if !errors.Is(conn.Err(), net.ErrClosed) {
			l.log.Info("disconnected", "error", conn.Err())
			l.status.set(Idle, conn.Err())
		}
	}()
}

func (l *link) failed(err error) {
	l.mu.Lock()
	news := l.err == nil || l.err.Error() != err.Error()
	l.err = err
	l.mu.Unlock()
	if news {
		l.log.Warn("the machine is not reached", "error", err)
		l.status.set(Waiting, err)
	}
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		l.conn.Close()
	}
}

// statusFile writes down what Running reads, on changes only.
type statusFile struct {
	path string
	log  *slog.Logger
	mu   sync.Mutex
	now  Status
}

func (s *statusFile) set(state State, err error) {
	s.mu.Lock()
	s.now.State, s.now.Error = state, ""
	if err != nil {
		s.now.Error = err.Error()
	}
	s.mu.Unlock()
	if err := s.write(); err != nil {
		s.log.Warn("status", "error", err)
	}
}

func (s *statusFile) write() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := json.Marshal(s.now)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(s.path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the state of the port forwarding: %w", err)
	}
	return nil
}
