package serve

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// held is a socket that stays open while servers come and go, as systemd holds it.
type held struct{ file *os.File }

func hold(t *testing.T) held {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	t.Cleanup(func() { _ = f.Close() })
	return held{f}
}

func (h held) listener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.FileListener(h.file)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// running is a server that is to be stopped.
type running struct {
	*Server
	l      net.Listener
	served chan error
}

func start(l net.Listener, h http.HandlerFunc) running {
	r := running{New(h), l, make(chan error, 1)}
	go func() { r.served <- r.Serve(l) }()
	return r
}

// stop says what went wrong, and with it where a connection was cut.
func (r running) stop() error {
	if cut := r.Stop(context.Background(), r.l); cut > 0 {
		return fmt.Errorf("%d connections were cut", cut)
	}
	return <-r.served
}

// await waits until so many connections are in a state.
func (r running) await(n int, state http.ConnState) {
	for ; ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		in := 0
		for _, c := range r.conns {
			if c.state == state {
				in++
			}
		}
		r.mu.Unlock()
		if in == n {
			return
		}
	}
}

// rawClient keeps one connection and, unlike http.Client, never repeats a request on a new one: what a server breaks is
// seen. It comes anew where the server said "Connection: close", and where it was itself so long without the processor that
// the server took its connection for idle.
func rawClient(address string, until *atomic.Bool) (requests int, err error) {
	for !until.Load() {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return requests, fmt.Errorf("connect: %w", err)
		}
		in := bufio.NewReader(c)
		before, idle := time.Now(), unusedAfter
		for keep := true; keep && !until.Load(); requests++ {
			sent, last, err := ask(c, in)
			if err != nil && sent.Sub(before) >= idle {
				break
			}
			if err != nil {
				return requests, fmt.Errorf("request %d: %w", requests, err)
			}
			before, idle, keep = sent, quietAfter, !last
		}
		_ = c.Close()
	}
	return requests, nil
}

// ask makes a request, and says when it was sent and whether its answer is the last one of the connection.
func ask(c net.Conn, in *bufio.Reader) (sent time.Time, last bool, err error) {
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	sent = time.Now()
	if err != nil {
		return sent, false, err
	}
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		return sent, false, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || !strings.HasPrefix(string(body), "generation ") {
		return sent, false, fmt.Errorf("%q, %w", body, err)
	}
	return sent, answer.Close, nil
}

func TestReplacedUnderLoadBreaksNothing(t *testing.T) {
	socket := hold(t)
	address := socket.listener(t).Addr().String()
	generation := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "generation %d", n) }
	}
	server := start(socket.listener(t), generation(0))
	var until atomic.Bool
	var total atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			n, err := rawClient(address, &until)
			total.Add(int64(n))
			if err != nil {
				t.Error(err)
			}
		})
	}
	for n := 1; n <= 10; n++ {
		time.Sleep(20 * time.Millisecond)
		if err := server.stop(); err != nil {
			t.Errorf("stop %d: %v", n, err)
		}
		server = start(socket.listener(t), generation(n))
	}
	until.Store(true)
	wg.Wait()
	if err := server.stop(); err != nil {
		t.Error(err)
	}
	if total.Load() < 40 {
		t.Errorf("only %d requests were made", total.Load())
	}
}

func TestStopWaitsForARequest(t *testing.T) {
	socket := hold(t)
	entered, finish := make(chan struct{}), make(chan struct{})
	server := start(socket.listener(t), func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-finish
		_, _ = io.WriteString(w, "whole")
	})
	got := make(chan string, 1)
	go func() {
		answer, err := http.Get("http://" + socket.listener(t).Addr().String())
		if err != nil {
			got <- err.Error()
			return
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		got <- string(body) + fmt.Sprint(" close=", answer.Close)
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- server.stop() }()
	time.Sleep(settleFor + heldAfter) // it is the handler that is slow, so nothing is cut
	close(finish)
	if s := <-got; s != "whole close=true" {
		t.Errorf("the request that ran during the stop got %q", s)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A client whose connection was taken just before the stop, and whose request is slow to come, is answered.
func TestStopWaitsForTheFirstRequest(t *testing.T) {
	for range 10 {
		took, err := firstRequest(t, 3*quietAfter)
		if took >= unusedAfter {
			continue // the processor was busy with others, and the connection rightly unused
		}
		if err != nil {
			t.Errorf("the first request came %v after the stop began: %v", took, err)
		}
		return
	}
	t.Error("this computer was too busy in ten tries to send a request in time; run it again with less beside it")
}

// firstRequest sends the first request of a connection some time after a stop began, and says when it was sent.
func firstRequest(t *testing.T, after time.Duration) (sent time.Duration, err error) {
	t.Helper()
	server := start(hold(t).listener(t), func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "generation 0") })
	c, err := net.Dial("tcp", server.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server.await(1, http.StateNew)
	connected := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- server.stop() }()
	time.Sleep(after)
	at, last, err := ask(c, bufio.NewReader(c))
	if err == nil && !last {
		err = errors.New("the answer does not say that it is the last one")
	}
	return at.Sub(connected), errors.Join(err, <-stopped)
}

// Browsers open connections ahead and send nothing. http.Server.Shutdown waits five seconds for each.
func TestUnusedConnectionsDoNotHoldTheStop(t *testing.T) {
	server := start(hold(t).listener(t), func(http.ResponseWriter, *http.Request) {})
	c, err := net.Dial("tcp", server.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server.await(1, http.StateNew)
	before := time.Now()
	if err := server.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(before); took > 2*time.Second {
		t.Errorf("the stop took %v", took)
	}
}

// Nobody can hold the stop up who sends nothing of what was begun, or takes nothing of what is sent.
func TestSlowClientsDoNotHoldTheStop(t *testing.T) {
	pour := func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
		}
	}
	get := "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, c := range map[string]struct {
		request string // nothing: by HTTP/2
		handler http.HandlerFunc
	}{
		"a body": {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
		}},
		"a body in drops": {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
		}},
		"a body that nobody reads": {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx", func(http.ResponseWriter, *http.Request) {}},
		"a stream":                 {get, pour},
		"a stream by HTTP/2":       {"", pour},
		"what is left after the handler": {strings.Repeat(get, 4000), func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, 4000)) // fits into the server's buffer
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := hold(t).listener(t)
			address := l.Addr().String()
			if c.request == "" {
				l = secure(t, l)
			}
			server := start(l, c.handler)
			if c.request == "" {
				getByHTTP2(t, address)
			} else {
				client, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				go func() {
					_, err := io.WriteString(client, c.request)
					for ; err == nil && name == "a body in drops"; time.Sleep(20 * time.Millisecond) {
						_, err = io.WriteString(client, "x")
					}
				}()
			}
			server.await(1, http.StateActive)
			server.awaitHeld()
			before := time.Now()
			if cut := server.Stop(context.Background(), l); cut != 1 {
				t.Errorf("%d connections were cut", cut)
			}
			if took := time.Since(before); took > 2*time.Second {
				t.Errorf("the stop took %v", took)
			}
			if err := <-server.served; err != nil {
				t.Error(err)
			}
		})
	}
}

// awaitHeld waits until the one connection has not moved for a while.
func (r running) awaitHeld() {
	for ; ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		long := time.Now().Add(-100 * time.Millisecond)
		for _, c := range r.conns {
			if c.atWork <= 0 && c.held.Before(long) && c.since.Before(long) {
				r.mu.Unlock()
				return
			}
		}
		r.mu.Unlock()
	}
}

// secure has l speak TLS and HTTP/2, with a certificate that nobody knows.
func secure(t *testing.T, l net.Listener) net.Listener {
	t.Helper()
	other := httptest.NewUnstartedServer(nil)
	other.StartTLS()
	defer other.Close()
	return tls.NewListener(l, &tls.Config{Certificates: other.TLS.Certificates, NextProtos: []string{"h2"}})
}

// getByHTTP2 begins a request and takes nothing of its answer.
func getByHTTP2(t *testing.T, address string) {
	t.Helper()
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	answer, err := (&http.Client{Transport: transport}).Get("https://" + address)
	if err != nil {
		t.Fatal(err)
	}
	if answer.ProtoMajor != 2 {
		t.Fatal(answer.Proto)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
}
