package visit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Streams is what clients saw who listen to Server-Sent Events and come back,
// as browsers do, when their stream ends.
type Streams struct {
	Bad     []string      `json:"bad"`     // streams that did not begin, or were torn off in the middle
	Back    int           `json:"back"`    // how often one came back
	Longest time.Duration `json:"longest"` // without a stream: from its end to the greeting of the next, less the pause that the server asks for
	Seen    [][]string    `json:"seen"`    // the versions that greeted each client, repeats left out
}

// Listen lets clients listen to a page of events until ctx ends.
//
// The app of the example greets each stream with its version.
func Listen(ctx context.Context, page string, clients int) Streams {
	all := make([]Streams, clients)
	var wait sync.WaitGroup
	for i := range clients {
		wait.Go(func() { all[i] = listen(ctx, page) })
	}
	wait.Wait()
	sum := Streams{Seen: make([][]string, clients)}
	for i, s := range all {
		sum.Bad = append(sum.Bad, s.Bad...)
		sum.Back += s.Back
		sum.Longest = max(sum.Longest, s.Longest)
		sum.Seen[i] = s.Seen[0]
	}
	return sum
}

// listener is one client.
type listener struct {
	page  string
	last  string        // the id of the last event
	retry time.Duration // how long to wait before coming back, as the server asks
	end   time.Time     // of the stream before, zero if there was none
	Streams
}

func listen(ctx context.Context, page string) Streams {
	l := listener{page: page, retry: 3 * time.Second, Streams: Streams{Seen: [][]string{nil}}}
	for ctx.Err() == nil {
		err := l.stream(ctx)
		if ctx.Err() != nil {
			break
		}
		l.end = time.Now()
		if err != nil {
			l.Bad = append(l.Bad, fmt.Sprintf("%s: %v", l.end.Format("15:04:05.000"), err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(l.retry):
		}
	}
	return l.Streams
}

// stream listens to one stream. An end that HTTP announces is no error.
func (l *listener) stream(ctx context.Context) error {
	address, err := url.Parse(l.page)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", address.Host, answerLimit)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	req, err := http.NewRequest(http.MethodGet, l.page, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	if l.last != "" {
		req.Header.Set("Last-Event-ID", l.last)
	}
	if err := conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return err
	}
	if err := req.Write(conn); err != nil {
		return fmt.Errorf("ask for a stream: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return fmt.Errorf("ask for a stream: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask for a stream: %s", resp.Status)
	}
	return l.read(conn, resp.Body)
}

func (l *listener) read(conn net.Conn, body io.Reader) error {
	greeted := false
	in := bufio.NewReader(body)
	for {
		line, err := in.ReadString('\n')
		switch {
		case errors.Is(err, io.EOF) && line == "" && greeted:
			return nil
		case err != nil:
			return fmt.Errorf("a stream was torn off: %w", err)
		}
		// Streams have a heartbeat well within this.
		if err := conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
			return err
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			l.last = value
		case "retry":
			if ms, err := strconv.Atoi(value); err == nil {
				l.retry = time.Duration(ms) * time.Millisecond
			}
		case "data":
			if _, version, ok := strings.Cut(value, `{"version":"`); ok && !greeted {
				greeted = true
				l.greet(strings.TrimSuffix(version, `"}`))
			}
		}
	}
}

func (l *listener) greet(version string) {
	if !l.end.IsZero() {
		l.Back++
		l.Longest = max(l.Longest, time.Since(l.end)-l.retry)
	}
	if seen := l.Seen[0]; len(seen) == 0 || seen[len(seen)-1] != version {
		l.Seen[0] = append(seen, version)
	}
}
