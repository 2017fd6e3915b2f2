package deploy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/provision"
	"devbox/internal/remote"
)

// Session is one conversation with devbox-host on a host, for one app.
// Requests run one at a time.
type Session struct {
	Welcome protocol.Welcome

	proc peer
	in   *bufio.Reader
}

// peer is the other end of a session: a [remote.Process], for devbox-host.
type peer struct {
	stdin  io.Writer
	stdout io.Reader
	wait   func() error // until it ends, and how it did
	close  func() error // ends it
}

// HostError is a request that devbox-host answered with an error.
type HostError struct {
	Code string // one of protocol's codes, or ""
	Text string
}

func (e *HostError) Error() string { return e.Text }

// ErrLost says that the connection ended before the answer came: what the host
// did with the request is not known here. It finishes or undoes it by itself.
var ErrLost = errors.New("connection to the host lost")

// OpenSession starts devbox-host on conn's host and greets it. The host first
// finishes or undoes what an earlier session left; Welcome.Recovered tells.
func OpenSession(ctx context.Context, conn *remote.Conn, app string) (*Session, error) {
	// The session outlives ctx: an interrupt must not end an activation half-way.
	proc, err := conn.Start(context.WithoutCancel(ctx), "sudo", "-n", provision.HostPath, "serve")
	if err != nil {
		return nil, fmt.Errorf("start devbox-host: %w", err)
	}
	return greet(ctx, peer{proc.Stdin, proc.Stdout, proc.Wait, proc.Close}, app)
}

func greet(ctx context.Context, proc peer, app string) (*Session, error) {
	s := &Session{proc: proc, in: bufio.NewReaderSize(proc.stdout, 64<<10)}
	err := s.do(ctx, protocol.Request{Hello: &protocol.Hello{Protocol: protocol.Version, App: app}}, nil, func(e protocol.Event) {
		if e.Welcome != nil {
			s.Welcome = *e.Welcome
		}
	})
	if err != nil {
		err = s.explain(err) // before close, which would be the reason of the end then
		proc.close()
		return nil, fmt.Errorf("greet devbox-host: %w", err)
	}
	return s, nil
}

// explain adds what the remote command printed when it never got to talk.
func (s *Session) explain(err error) error {
	if !errors.Is(err, ErrLost) {
		return err
	}
	// What has hung up ends soon; what does not is not waited for.
	late := time.AfterFunc(2*time.Second, s.Close)
	defer late.Stop()
	var exit *remote.ExitError
	if werr := s.proc.wait(); errors.As(werr, &exit) {
		return hint.Wrap(exit, "run `devbox up`: it installs devbox-host and the sudoers line")
	}
	return err
}

// Close ends the session. An activation that is under way goes on to its end.
func (s *Session) Close() { s.proc.close() }

// Activate makes a received image the running release. event is told of the
// plan and of each phase as it ends. A release that was rolled back is no
// error here: the Result says so.
func (s *Session) Activate(ctx context.Context, req protocol.Activate, event func(protocol.Event)) (protocol.Result, error) {
	var result *protocol.Result
	err := s.do(ctx, protocol.Request{Activate: &req}, nil, func(e protocol.Event) {
		if e.Result != nil {
			result = e.Result
		}
		if event != nil {
			event(e)
		}
	})
	if err == nil && result == nil {
		err = errors.New("devbox-host ended an activation without a result")
	}
	if err != nil {
		return protocol.Result{}, err
	}
	return *result, nil
}

// Status asks for the state of app.
func (s *Session) Status(ctx context.Context, app string) (protocol.Status, error) {
	var st protocol.Status
	err := s.do(ctx, protocol.Request{Status: &protocol.StatusOf{App: app}}, nil, func(e protocol.Event) {
		if e.Status != nil {
			st = *e.Status
		}
	})
	return st, err
}

// Data asks what the app's own check says of its data.
func (s *Session) Data(ctx context.Context, app string) (protocol.Data, error) {
	var d protocol.Data
	err := s.do(ctx, protocol.Request{Data: &protocol.DataOf{App: app}}, nil, func(e protocol.Event) {
		if e.Data != nil {
			d = *e.Data
		}
	})
	return d, err
}

// do sends one request and what follows it, and hands every event to event
// until the one that ends the answer. Ending ctx closes the session, since a
// half-read answer cannot be skipped.
func (s *Session) do(ctx context.Context, req protocol.Request, follow func(io.Writer) error, event func(protocol.Event)) error {
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	line, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	line = append(line, '\n')
	if follow == nil {
		if _, err := s.proc.stdin.Write(line); err != nil {
			return s.canceled(ctx, ErrLost)
		}
		return s.canceled(ctx, s.answer(event))
	}
	sent := make(chan error, 1)
	go func() {
		_, err := s.proc.stdin.Write(line)
		if err == nil {
			err = follow(s.proc.stdin)
		}
		sent <- err
	}()
	err = s.canceled(ctx, s.answer(event))
	if err != nil {
		s.proc.close() // a host that refuses does not read on; the sender must not wait for it
	}
	if serr := <-sent; serr != nil && err == nil {
		return fmt.Errorf("send to devbox-host: %w", serr)
	}
	return err
}

// canceled prefers the reason that ctx ended for over what came of that.
func (s *Session) canceled(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (s *Session) answer(event func(protocol.Event)) error {
	for {
		e, err := protocol.ReadEvent(s.in)
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return ErrLost
			}
			return fmt.Errorf("read from devbox-host: %w", err)
		}
		if e.Error != "" {
			return hint.Wrap(&HostError{e.Code, strings.TrimSpace(e.Error)}, e.Hint)
		}
		if event != nil {
			event(e)
		}
		if e.Done {
			return nil
		}
	}
}
