package serve

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
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

func start(t *testing.T, l net.Listener, h http.HandlerFunc) (stop func() error) {
	t.Helper()
	s := New(h)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	return func() error {
		if err := s.Stop(context.Background(), l); err != nil {
			return err
		}
		return <-served
	}
}

// rawClient keeps one connection and, unlike http.Client, never repeats a request on a new one: what a server breaks is
// seen. It comes anew only where the server said "Connection: close".
func rawClient(address string, until *atomic.Bool) (requests int, err error) {
	for !until.Load() {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return requests, fmt.Errorf("connect: %w", err)
		}
		in := bufio.NewReader(c)
		for keep := true; keep && !until.Load(); requests++ {
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				return requests, fmt.Errorf("request %d: %w", requests, err)
			}
			answer, err := http.ReadResponse(in, nil)
			if err != nil {
				return requests, fmt.Errorf("answer %d: %w", requests, err)
			}
			body, err := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			if err != nil || !strings.HasPrefix(string(body), "generation ") {
				return requests, fmt.Errorf("answer %d: %q, %w", requests, body, err)
			}
			keep = !answer.Close
		}
		_ = c.Close()
	}
	return requests, nil
}

func TestReplacedUnderLoadBreaksNothing(t *testing.T) {
	socket := hold(t)
	address := socket.listener(t).Addr().String()
	generation := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "generation %d", n) }
	}
	stop := start(t, socket.listener(t), generation(0))
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
		if err := stop(); err != nil {
			t.Errorf("stop %d: %v", n, err)
		}
		stop = start(t, socket.listener(t), generation(n))
	}
	until.Store(true)
	wg.Wait()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if total.Load() < 40 {
		t.Errorf("only %d requests were made", total.Load())
	}
}

func TestStopWaitsForARequest(t *testing.T) {
	socket := hold(t)
	entered, finish := make(chan struct{}), make(chan struct{})
	stop := start(t, socket.listener(t), func(w http.ResponseWriter, _ *http.Request) {
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
	go func() { stopped <- stop() }()
	time.Sleep(settleFor + 100*time.Millisecond)
	close(finish)
	if s := <-got; s != "whole close=true" {
		t.Errorf("the request that ran during the stop got %q", s)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Browsers open connections ahead and send nothing. http.Server.Shutdown waits five seconds for each.
// A client whose connection was taken just before the stop, and whose request is slow to come, is answered.
func TestStopWaitsForTheFirstRequest(t *testing.T) {
	l := hold(t).listener(t)
	stop := start(t, l, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.Sleep(20 * time.Millisecond) // until it is accepted
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	time.Sleep(3 * quietAfter)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if !answer.Close {
		t.Error("the answer does not say that it is the last one")
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestUnusedConnectionsDoNotHoldTheStop(t *testing.T) {
	socket := hold(t)
	stop := start(t, socket.listener(t), func(http.ResponseWriter, *http.Request) {})
	c, err := net.Dial("tcp", socket.listener(t).Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.Sleep(2 * quietAfter)
	before := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(before); took > 2*time.Second {
		t.Errorf("the stop took %v", took)
	}
}
