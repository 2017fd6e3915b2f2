package visit

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	page    = `<code id="version">v1</code>`
	answer  = "HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n" + page
	goodbye = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 28\r\n\r\n" + page
)

// reset ends a connection as a process does that dies with unread bytes.
func reset(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }

// What breaks a kept connection is seen, and what HTTP lets a server do is not
// held against it. Every second client keeps its connection.
func TestHammer(t *testing.T) {
	for _, tt := range []struct {
		what   string
		serve  func(c net.Conn, request int) (on bool) // answers one request
		pause  time.Duration
		bad    string
		parted bool
	}{
		{what: "a server that is well", serve: func(c net.Conn, _ int) bool {
			fmt.Fprint(c, answer)
			return true
		}},
		{what: "an end that was announced", serve: func(c net.Conn, n int) bool {
			fmt.Fprint(c, []string{answer, answer, goodbye}[n])
			return n < 2
		}},
		{what: "an end that was not", bad: "the answer did not say so", serve: func(c net.Conn, n int) bool {
			fmt.Fprint(c, answer)
			return n < 1
		}},
		{what: "a reset in the middle of a request", bad: "after the last request", serve: func(c net.Conn, n int) bool {
			if n < 2 {
				fmt.Fprint(c, answer)
				return true
			}
			reset(c)
			return false
		}},
		{what: "a reset in the middle of an answer", bad: "read the answer", serve: func(c net.Conn, n int) bool {
			if n < 2 {
				fmt.Fprint(c, answer)
				return true
			}
			fmt.Fprint(c, answer[:len(answer)-5])
			return false
		}},
		{what: "a reset of a new connection", bad: "asked on a new connection", serve: func(c net.Conn, n int) bool {
			reset(c)
			return false
		}},
		{what: "the end of an idle connection", pause: 4 * Idle, parted: true, serve: func(c net.Conn, n int) bool {
			fmt.Fprint(c, answer)
			time.Sleep(2 * Idle)
			return false
		}},
		{what: "a request that crosses the end of an idle connection", pause: 2 * Idle, parted: true, serve: func(c net.Conn, n int) bool {
			if n < 1 {
				fmt.Fprint(c, answer)
				return true
			}
			reset(c) // as if it had been closed when the request was on its way
			return false
		}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for c, err := l.Accept(); err == nil; c, err = l.Accept() {
					go func() {
						defer c.Close()
						in := bufio.NewReader(c)
						for n, on := 0, true; on; n++ {
							if _, err := http.ReadRequest(in); err != nil {
								return
							}
							on = tt.serve(c, n)
						}
					}()
				}
			}()
			if tt.pause == 0 {
				tt.pause = 10 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*tt.pause+200*time.Millisecond)
			defer cancel()
			r := Hammer(ctx, "http://"+l.Addr().String()+"/", 2, tt.pause)
			if r.Requests < 4 {
				t.Errorf("only %d requests", r.Requests)
			}
			if tt.bad == "" && (len(r.Bad) > 0 || (r.Parted > 0) != tt.parted) {
				t.Errorf("%d idle connections ended; it blames the server: %q", r.Parted, r.Bad)
			}
			if tt.bad != "" && !slices.ContainsFunc(r.Bad, func(s string) bool { return strings.Contains(s, tt.bad) }) {
				t.Errorf("no %q in %q", tt.bad, r.Bad)
			}
		})
	}
	if r := Hammer(withEnd(t), "http://127.0.0.1:1/", 2, 10*time.Millisecond); len(r.Bad) == 0 || !strings.Contains(r.Bad[0], "refused") {
		t.Errorf("a refused connection: %q", r.Bad)
	}
}

func withEnd(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestWrong(t *testing.T) {
	for _, tt := range []struct {
		seen, delivered, trial []string
		wrong                  int
	}{
		{seen: []string{"a", "b", "d"}, delivered: []string{"a", "b", "c", "d"}},
		{seen: []string{"b", "a"}, delivered: []string{"a", "b"}, wrong: 1},
		{seen: []string{"a", "x"}, delivered: []string{"a"}, wrong: 1},
		{seen: []string{"a", "x", "a"}, delivered: []string{"a"}, trial: []string{"x"}},
	} {
		if got := (Report{Versions: [][]string{tt.seen}}).Wrong(tt.delivered, tt.trial...); len(got) != tt.wrong {
			t.Errorf("%v of %v: %q", tt.seen, tt.delivered, got)
		}
	}
}
