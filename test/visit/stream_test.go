package visit

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A stream that ends is come back to with the last place; one that is torn off
// or not given is the server's fault.
func TestListen(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	chunk := func(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }
	hello := func(version string) string {
		return chunk("retry: 20\nevent: hello\ndata: {\"version\":\"" + version + "\"}\n\nid: 7\nevent: press\ndata: {}\n\n")
	}
	for _, tt := range []struct {
		what   string
		serve  func(c net.Conn, n int, from string)
		bad    string
		wanted []string
	}{
		{"an end that was announced", func(c net.Conn, n int, from string) {
			if n > 0 && from != "7" {
				return
			}
			fmt.Fprint(c, head+hello(fmt.Sprintf("v%d", n)))
			if n == 0 {
				fmt.Fprint(c, "0\r\n\r\n")
				return
			}
			time.Sleep(time.Second)
		}, "", []string{"v0", "v1"}},
		{"torn off", func(c net.Conn, n int, _ string) {
			fmt.Fprint(c, head+hello("v0"))
			if n > 0 {
				time.Sleep(time.Second)
			}
		}, "torn off", []string{"v0"}},
		{"not given", func(c net.Conn, _ int, _ string) {
			fmt.Fprint(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		}, "503", nil},
	} {
		t.Run(tt.what, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var served atomic.Int64
			go func() {
				for c, err := l.Accept(); err == nil; c, err = l.Accept() {
					go func() {
						defer c.Close()
						req, err := http.ReadRequest(bufio.NewReader(c))
						if err == nil {
							tt.serve(c, int(served.Add(1)-1), req.Header.Get("Last-Event-ID"))
						}
					}()
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
			defer cancel()
			got := Listen(ctx, "http://"+l.Addr().String()+"/events", 1)
			if !slices.Equal(got.Seen[0], tt.wanted) {
				t.Errorf("saw %q, not %q", got.Seen[0], tt.wanted)
			}
			if (tt.bad == "") != (len(got.Bad) == 0) || tt.bad != "" && !strings.Contains(got.Bad[0], tt.bad) {
				t.Errorf("blames the server for %q, not for %q", got.Bad, tt.bad)
			}
			if len(tt.wanted) > 1 && got.Back != 1 {
				t.Errorf("came back %d times", got.Back)
			}
		})
	}
}
