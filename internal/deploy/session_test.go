package deploy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/remote"
	"devbox/internal/sync/delta"
)

// turn is one request that a scripted devbox-host expects, and what it answers.
type turn struct {
	want   protocol.Request
	answer []protocol.Event
	raw    string // instead of answer, whatever it is
	base   []byte // of a Receive: what the delta is applied to; refused without being read if answer has an error
	image  []byte // of a Receive: what must come of it
	hangup bool   // ends after the answer
	before func() // if not nil, is called before the answer
}

// fakeHost plays a script of turns over pipes. A request that the script does
// not expect, and one that never comes, fail the test.
func fakeHost(t *testing.T, exit error, script ...turn) peer {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ended := make(chan struct{})
	var closed atomic.Bool
	end := func() error {
		closed.Store(true)
		inR.CloseWithError(io.ErrClosedPipe)
		outW.Close()
		<-ended
		return nil
	}
	go func() {
		defer close(ended)
		defer outW.Close()
		defer inR.CloseWithError(io.ErrClosedPipe)
		in := bufio.NewReader(inR)
		for i, x := range script {
			got, err := protocol.ReadRequest(in)
			if err != nil {
				t.Errorf("turn %d: %v, but the script expects %+v", i, err, x.want)
				return
			}
			if !reflect.DeepEqual(got, x.want) {
				t.Errorf("turn %d: request %+v, want %+v", i, got, x.want)
				return
			}
			if x.image != nil {
				receive(t, in, x)
			}
			if x.before != nil {
				x.before()
			}
			io.WriteString(outW, x.raw)
			for _, e := range x.answer {
				protocol.WriteEvent(outW, e)
			}
			if x.hangup {
				return
			}
		}
		if got, err := protocol.ReadRequest(in); err == nil {
			t.Errorf("after the script: request %+v", got)
		}
	}()
	t.Cleanup(func() { end() })
	return peer{stdin: inW, stdout: outR, close: end, wait: func() error {
		<-ended
		if closed.Load() {
			return errors.New("closed") // as a remote.Process says
		}
		return exit
	}}
}

func receive(t *testing.T, in io.Reader, x turn) {
	dst, err := os.Create(filepath.Join(t.TempDir(), "received"))
	if err != nil {
		t.Error(err)
		return
	}
	defer dst.Close()
	var base *delta.Source
	if x.base != nil {
		base = &delta.Source{ReaderAt: bytes.NewReader(x.base), Size: int64(len(x.base))}
	}
	if _, _, err := delta.Apply(context.Background(), in, base, dst, delta.Limits{MaxSize: 1 << 30}, delta.ApplyOptions{}); err != nil {
		t.Errorf("apply what was sent: %v", err)
		return
	}
	if got, _ := os.ReadFile(dst.Name()); !bytes.Equal(got, x.image) {
		t.Errorf("received %d bytes that are not the image of %d", len(got), len(x.image))
	}
}

var (
	hello = protocol.Request{Hello: &protocol.Hello{Protocol: protocol.Version, App: "shop"}}
	done  = protocol.Event{Done: true}
)

func welcome(w protocol.Welcome) turn {
	return turn{want: hello, answer: []protocol.Event{{Welcome: &w, Done: true}}}
}

func TestGreeting(t *testing.T) {
	w := protocol.Welcome{Protocol: 1, Build: "b", Arch: "arm64", Current: "c", Recovered: "undid r3"}
	s, err := greet(t.Context(), fakeHost(t, nil, welcome(w)), "shop")
	if err != nil || !reflect.DeepEqual(s.Welcome, w) {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestGreetingThatFails(t *testing.T) {
	missing := &remote.ExitError{Command: "sudo -n /usr/local/sbin/devbox-host serve", Host: "shop", Code: 1, Stderr: "sudo: command not found"}
	for _, c := range []struct {
		name       string
		exit       error
		turn       turn
		text, cure string
		lost       bool
	}{
		{"no devbox-host", missing, turn{want: hello, hangup: true}, "command not found", "run `devbox up`: it installs devbox-host and the sudoers line", false},
		{"connection lost", remote.ErrLost, turn{want: hello, hangup: true}, "connection to the host lost", "", true},
		{"refused", nil, turn{want: hello, answer: []protocol.Event{{Error: "protocol 9 is not 1\n", Hint: "run `devbox up`", Code: protocol.CodeProtocol}}},
			"greet devbox-host: protocol 9 is not 1", "run `devbox up`", false},
		{"not a protocol", nil, turn{want: hello, raw: "Welcome to Debian!\n"}, "read from devbox-host", "", false},
		{"cut off in a line", remote.ErrLost, turn{want: hello, raw: `{"done":tr`, hangup: true}, "connection to the host lost", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := greet(t.Context(), fakeHost(t, c.exit, c.turn), "shop")
			if err == nil || !strings.Contains(err.Error(), c.text) || hint.Of(err) != c.cure || errors.Is(err, ErrLost) != c.lost {
				t.Errorf("got %v (hint %q, lost %t)", err, hint.Of(err), errors.Is(err, ErrLost))
			}
		})
	}
}

func TestActivateTellsEventsAndReturnsTheResult(t *testing.T) {
	req := protocol.Activate{App: "shop", Digest: strings.Repeat("a", 64)}
	result := protocol.Result{Outcome: protocol.RolledBack, Release: "r2", Serving: "r1", Failure: &protocol.Failure{Cause: "x"}}
	events := []protocol.Event{{Plan: &protocol.Plan{Reload: true}}, {Phase: &protocol.Phase{Name: "switch", Took: 3}}, {Result: &result, Done: true}}
	s, err := greet(t.Context(), fakeHost(t, nil, welcome(protocol.Welcome{}), turn{want: protocol.Request{Activate: &req}, answer: events}), "shop")
	if err != nil {
		t.Fatal(err)
	}
	var told []protocol.Event
	got, err := s.Activate(t.Context(), req, func(e protocol.Event) { told = append(told, e) })
	if err != nil || !reflect.DeepEqual(got, result) || !reflect.DeepEqual(told, events) {
		t.Errorf("got %+v, %v; told %+v", got, err, told)
	}
}

func TestActivateThatEndsBadly(t *testing.T) {
	req := protocol.Activate{App: "shop", Digest: strings.Repeat("a", 64)}
	for _, c := range []struct {
		name string
		turn turn
		is   func(error) bool
	}{
		{"the connection goes in the middle", turn{answer: []protocol.Event{{Plan: &protocol.Plan{}}}, hangup: true}, Lost},
		{"another one is under way", turn{answer: []protocol.Event{{Error: "ann activates", Code: protocol.CodeBusy}}}, func(err error) bool {
			var refused *HostError
			return errors.As(err, &refused) && refused.Busy() && !Lost(err)
		}},
		{"no result", turn{answer: []protocol.Event{done}}, func(err error) bool { return strings.Contains(err.Error(), "without a result") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.turn.want = protocol.Request{Activate: &req}
			s, err := greet(t.Context(), fakeHost(t, nil, welcome(protocol.Welcome{}), c.turn), "shop")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Activate(t.Context(), req, nil); err == nil || !c.is(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAnAnswerThatNeverComesEndsWithItsContext(t *testing.T) {
	want := protocol.Request{Status: &protocol.StatusOf{App: "shop"}}
	s, err := greet(t.Context(), fakeHost(t, nil, welcome(protocol.Welcome{}), turn{want: want}), "shop")
	if err != nil {
		t.Fatal(err)
	}
	reason := errors.New("the host did not answer within 20ms")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, reason)
	defer cancel()
	if _, err := s.Status(ctx, "shop"); !errors.Is(err, reason) {
		t.Errorf("got %v, want %v", err, reason)
	}
}

// A request that cannot be sent any more because its time is up is not a lost
// connection.
func TestARequestAfterItsContext(t *testing.T) {
	s, err := greet(t.Context(), fakeHost(t, nil, welcome(protocol.Welcome{})), "shop")
	if err != nil {
		t.Fatal(err)
	}
	reason := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	s.Close()
	if _, err := s.Status(ctx, "shop"); !errors.Is(err, reason) || Lost(err) {
		t.Errorf("got %v, want %v", err, reason)
	}
}

// shipping is a project with two images in its store, old before new.
func shipping(t *testing.T) (p *Project, a *Artifact, old, image []byte) {
	p = &Project{Config: &config.Config{Name: "shop"}, Paths: Paths{Cache: t.TempDir()}}
	old = make([]byte, 1000<<12)
	rand.NewChaCha8([32]byte{}).Read(old) // nothing to compress
	image = bytes.Clone(old)
	copy(image[2<<20:], "something else")
	store := imageStore{dir: p.imageDir(), app: "shop"}
	put(t, store, old, time.Hour)
	prev, err := store.latest()
	if err != nil || prev == nil {
		t.Fatalf("latest: %v, %v", prev, err)
	}
	path := put(t, store, image, 0)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	a = &Artifact{Path: path, Size: int64(len(image)), prev: prev, file: f}
	if a.plan, err = delta.Compare(t.Context(), prev.Source, a.source()); err != nil {
		t.Fatal(err)
	}
	a.Sums = a.plan.Sums
	a.Digest = a.Sums.Digest()
	t.Cleanup(a.Close)
	return p, a, old, image
}

func TestShip(t *testing.T) {
	p, a, old, image := shipping(t)
	was, is := a.prev.digest.String(), a.Digest.String()
	receiveOn := func(base string) protocol.Request {
		return protocol.Request{Receive: &protocol.Receive{App: "shop", Digest: is, Size: a.Size, Base: base}}
	}
	unknown := protocol.Event{Error: "no such image on this host", Code: protocol.CodeUnknownBase}
	full := protocol.Event{Error: "no space left on device"}
	elsewhere := strings.Repeat("e", 64)
	for _, c := range []struct {
		name     string
		welcome  protocol.Welcome
		sessions [][]turn // the second one is opened after a refusal
		base     string   // of what was sent
		small    bool     // far less than the image went over the wire
		err      string
	}{
		{"it is there already", protocol.Welcome{Images: []string{is}}, [][]turn{{}}, "", true, ""},
		{"against what runs", protocol.Welcome{Current: was, Images: []string{was}},
			[][]turn{{{want: receiveOn(was), base: old, image: image, answer: []protocol.Event{done}}}}, was[:12], true, ""},
		{"against another one that both have", protocol.Welcome{Current: elsewhere, Images: []string{elsewhere, was}},
			[][]turn{{{want: receiveOn(was), base: old, image: image, answer: []protocol.Event{done}}}}, was[:12], true, ""},
		{"whole to a new host", protocol.Welcome{}, [][]turn{{{want: receiveOn(""), image: image, answer: []protocol.Event{done}}}}, "", false, ""},
		{"whole when none is in common", protocol.Welcome{Current: elsewhere, Images: []string{elsewhere}},
			[][]turn{{{want: receiveOn(""), image: image, answer: []protocol.Event{done}}}}, "", false, ""},
		{"whole over a new session when the host has lost the base", protocol.Welcome{Current: was, Images: []string{was}}, [][]turn{
			{{want: receiveOn(was), answer: []protocol.Event{unknown}, hangup: true}},
			{{want: receiveOn(""), image: image, answer: []protocol.Event{done}}},
		}, "", false, ""},
		{"a host that refuses without reading", protocol.Welcome{Current: was, Images: []string{was}},
			[][]turn{{{want: receiveOn(was), answer: []protocol.Event{full}, hangup: true}}, {}}, was[:12], false, "ship " + is[:12] + ": no space left on device"},
		{"a host that hangs up", protocol.Welcome{}, [][]turn{{{want: receiveOn(""), hangup: true}}}, "", false, "ship " + is[:12] + ": connection to the host lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			opened := 0
			h := &Host{project: p, open: func(ctx context.Context) (*Session, error) {
				s, err := greet(ctx, fakeHost(t, nil, append([]turn{welcome(c.welcome)}, c.sessions[opened]...)...), "shop")
				opened++
				return s, err
			}}
			var err error
			if h.Session, err = h.open(t.Context()); err != nil {
				t.Fatal(err)
			}
			sent, err := h.Ship(t.Context(), a)
			if opened != len(c.sessions) {
				t.Errorf("%d sessions, want %d", opened, len(c.sessions))
			}
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if sent.Base != c.base || c.small != (sent.Wire < a.Size/10) {
				t.Errorf("sent %+v, want base %q, little of it %t", sent, c.base, c.small)
			}
			// What has been sent is known to be there.
			if again, err := h.Ship(t.Context(), a); err != nil || again.Wire != 0 {
				t.Errorf("again: %+v, %v", again, err)
			}
		})
	}
}

// Back to what was saved long ago: the host has told of that image and has
// deleted it since.
func TestDeliverSendsWhatTheHostHasDeleted(t *testing.T) {
	p, a, old, image := shipping(t)
	was, is := a.prev.digest.String(), a.Digest.String()
	activate := protocol.Request{Activate: &protocol.Activate{App: "shop", Digest: is, Settings: p.settings(false), By: whoAmI()}}
	h := &Host{project: p}
	var err error
	h.Session, err = greet(t.Context(), fakeHost(t, nil, welcome(protocol.Welcome{Current: was, Images: []string{was, is}}),
		turn{want: activate, answer: []protocol.Event{{Error: "no such image on this host", Code: protocol.CodeNoImage}}},
		turn{want: protocol.Request{Receive: &protocol.Receive{App: "shop", Digest: is, Size: a.Size, Base: was}}, base: old, image: image, answer: []protocol.Event{done}},
		turn{want: activate, answer: []protocol.Event{{Result: &protocol.Result{Outcome: protocol.Committed, Release: "r7", Serving: "r7"}, Done: true}}},
	), "shop")
	if err != nil {
		t.Fatal(err)
	}
	var c Cycle
	if err := h.Deliver(t.Context(), a, &c, t.Logf); err != nil || c.Serving != "r7" || c.Wire == 0 {
		t.Errorf("%v, %+v", err, c)
	}
}

// A Ctrl-C while a release is on its way: it comes to its end, and a person is
// told what is waited for.
func TestDeliverIsNotInterrupted(t *testing.T) {
	p, a, _, _ := shipping(t)
	is := a.Digest.String()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	said := make(chan string, 1)
	h := &Host{project: p}
	s, err := greet(t.Context(), fakeHost(t, nil, welcome(protocol.Welcome{Images: []string{is}}), turn{
		want:   protocol.Request{Activate: &protocol.Activate{App: "shop", Digest: is, Settings: p.settings(false), By: whoAmI()}},
		answer: []protocol.Event{{Result: &protocol.Result{Outcome: protocol.Committed, Release: "r1", Serving: "r1"}, Done: true}},
	}), "shop")
	if err != nil {
		t.Fatal(err)
	}
	h.Session = s
	var c Cycle
	if err := h.Deliver(ctx, a, &c, func(format string, _ ...any) { said <- format }); err != nil || c.Serving != "r1" {
		t.Errorf("%v, %+v", err, c)
	}
	select {
	case text := <-said:
		if !strings.Contains(text, "a second Ctrl-C") {
			t.Errorf("said %q", text)
		}
	case <-time.After(10 * time.Second):
		t.Error("said nothing")
	}
}
