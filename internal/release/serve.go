package release

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// Serve answers requests from in on out until in ends, a request cannot be told
// from the next, or ctx ends. An activation under way goes on to its end, also
// if nobody reads the answer any more. build is the version of this program.
func (h *Host) Serve(ctx context.Context, in io.Reader, out io.Writer, build string) error {
	s := &session{host: h, in: bufio.NewReaderSize(in, 256<<10), out: out, build: build}
	// What is done meanwhile is not to end half-way, and not to be waited for.
	defer s.background.Wait()
	for ctx.Err() == nil {
		req, err := s.next(ctx)
		s.answered = false
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			s.fail(&CodedError{protocol.CodeProtocol, err})
			return err
		}
		if err := s.serve(ctx, req); err != nil {
			s.fail(err)
			if s.lost(req, err) {
				return err
			}
		}
	}
	return nil
}

type session struct {
	host  *Host
	in    *bufio.Reader
	out   io.Writer
	build string
	app   string // of Hello

	background sync.WaitGroup
	stop       context.CancelFunc // ends what runs in the background
	answered   bool
}

// next reads a request. It does not wait for one when ctx has ended: a host that
// is shut down would wait for the client.
func (s *session) next(ctx context.Context) (protocol.Request, error) {
	type result struct {
		protocol.Request
		err error
	}
	read := make(chan result, 1)
	go func() {
		req, err := protocol.ReadRequest(s.in)
		read <- result{req, err}
	}()
	select {
	case r := <-read:
		return r.Request, r.err
	case <-ctx.Done():
		return protocol.Request{}, io.EOF
	}
}

// lost says whether after err it is unknown where the next request begins.
func (s *session) lost(req protocol.Request, err error) bool {
	var coded *CodedError
	return req.Receive != nil || errors.As(err, &coded) && coded.Code == protocol.CodeProtocol
}

// send writes an event. A client that is gone must not stop what is under way,
// so an error is dropped here; the next read finds the end of the session.
func (s *session) send(e protocol.Event) {
	s.answered = s.answered || e.Done
	_ = protocol.WriteEvent(s.out, e)
}

func (s *session) fail(err error) {
	s.host.sys.Note(Note{App: s.app, Text: "refused: " + err.Error(), Outcome: Refused})
	if s.answered {
		return // what failed came after the answer: the next session finds it
	}
	e := protocol.Event{Done: true, Error: err.Error(), Hint: hint.Of(err)}
	var coded *CodedError
	if errors.As(err, &coded) {
		e.Code = coded.Code
	}
	s.send(e)
}

func (s *session) serve(ctx context.Context, req protocol.Request) error {
	if app := appOf(req); req.Hello == nil && app != s.app {
		return &CodedError{protocol.CodeProtocol, fmt.Errorf("this session is about %q, the request about %q", s.app, app)}
	}
	if err := s.host.sys.Revive(); err != nil {
		return err
	}
	switch {
	case req.Hello != nil:
		return s.hello(ctx, *req.Hello)
	case req.Receive != nil:
		s.quiet()
		err := s.host.Receive(ctx, *req.Receive, s.in, s.send)
		return s.done(protocol.Event{}, err)
	case req.Activate != nil:
		s.quiet()
		err := s.host.Activate(ctx, *req.Activate, s.send)
		s.meanwhile(ctx, s.host.NoteSchema, s.host.Prepare)
		return err
	case req.Status != nil:
		st, err := s.host.Status(ctx, s.app)
		return s.done(protocol.Event{Status: &st}, err)
	case req.Releases != nil:
		all, err := s.host.Releases(ctx, s.app)
		return s.done(protocol.Event{Releases: &all}, err)
	case req.Data != nil:
		d, err := s.host.Data(ctx, s.app)
		return s.done(protocol.Event{Data: &d}, err)
	case req.Recover != nil:
		done, err := s.host.Recover(ctx, s.app, Online)
		return s.done(protocol.Event{Recovered: &protocol.Recovered{Done: done}}, err)
	default:
		s.quiet()
		return s.done(protocol.Event{}, s.host.Forget(ctx, s.app))
	}
}

func (s *session) done(e protocol.Event, err error) error {
	if err != nil {
		return err
	}
	e.Done = true
	s.send(e)
	return nil
}

func appOf(req protocol.Request) string {
	switch {
	case req.Receive != nil:
		return req.Receive.App
	case req.Activate != nil:
		return req.Activate.App
	case req.Status != nil:
		return req.Status.App
	case req.Releases != nil:
		return req.Releases.App
	case req.Data != nil:
		return req.Data.App
	case req.Recover != nil:
		return req.Recover.App
	case req.Forget != nil:
		return req.Forget.App
	}
	return ""
}

func (s *session) hello(ctx context.Context, req protocol.Hello) error {
	if req.Protocol != protocol.Version {
		return &CodedError{protocol.CodeProtocol, hint.Errorf("install the devbox-host that belongs to the client: run `devbox up`",
			"client speaks protocol %d, devbox-host %s speaks %d", req.Protocol, s.build, protocol.Version)}
	}
	recovered, err := s.host.Hello(ctx, req.App)
	if err != nil {
		return err
	}
	w, err := s.host.Welcome(ctx, req.App)
	if err != nil {
		return err
	}
	w.Build, w.Arch, w.Recovered = s.build, runtime.GOARCH, recovered
	s.app = req.App
	s.meanwhile(ctx, s.host.Prepare)
	return s.done(protocol.Event{Welcome: &w}, nil)
}

// meanwhile does what can be done while the client has nothing to ask. Nobody
// waits for it, and without it things go slower or less is known, no more.
func (s *session) meanwhile(ctx context.Context, work ...func(ctx context.Context, app string) error) {
	s.quiet()
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	app := s.app
	for _, do := range work {
		s.background.Go(func() { _ = do(ctx, app) })
	}
}

// quiet ends what runs in the background: a request is not to wait for it.
func (s *session) quiet() {
	if s.stop != nil {
		s.stop()
		s.background.Wait()
		s.stop = nil
	}
}
