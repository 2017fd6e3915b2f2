package web

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bowl/internal/game"
)

// received is an event of a stream of a room.
type received struct {
	id, name string
	event    game.Event
	at       time.Time
}

// serve starts a server that at the end of the test stops, whatever streams are open.
func serve(t testing.TB, server *httptest.Server) *httptest.Server {
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

// streamOf opens a stream of a room. The channel is closed when the stream ends.
func streamOf(t testing.TB, server *httptest.Server, room, lastID string) (events <-chan received, leave func()) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+room+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	answer, err := server.Client().Do(r) //nolint:bodyclose // closed below, by who reads it
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("stream: %s, %s", answer.Status, answer.Header.Get("Content-Type"))
	}
	all := make(chan received, 10_000)
	go func() {
		defer close(all)
		defer answer.Body.Close()
		var e received
		lines := bufio.NewScanner(answer.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "id":
				e.id = value
			case "event":
				e.name = value
			case "data":
				if err := json.Unmarshal([]byte(value), &e.event); err != nil {
					t.Error(err)
				}
			case "":
				e.at = time.Now()
				all <- e
				e = received{}
			}
		}
	}()
	return all, func() { _ = answer.Body.Close() }
}

func expect(t *testing.T, events <-chan received, want ...string) (last received) {
	t.Helper()
	for _, w := range want {
		select {
		case e, ok := <-events:
			got := e.name
			if got == "event" {
				got = string(e.event.Kind)
			}
			if got != w || !ok {
				t.Fatalf("%q came (open: %v), want %q", got, ok, w)
			}
			last = e
		case <-time.After(10 * time.Second):
			t.Fatalf("no %q came", w)
		}
	}
	return last
}

func TestRoomStream(t *testing.T) {
	m := newMatch(t)
	server := serve(t, httptest.NewUnstartedServer(m.app))
	events, leave := streamOf(t, server, m.room, "")
	expect(t, events, "hello", "state")
	m.moderate("open", "question", "1")
	m.press(m.ben, "1")
	last := expect(t, events, "opened", "pressed")
	if last.event.Buzz.Player != m.benID || last.event.Now.Floor != m.benID || !strings.HasPrefix(last.id, "5-") {
		t.Errorf("the press is shown as %+v", last)
	}
	leave()
	m.press(m.ann, "1")
	m.moderate("right", "round", "1")
	events, _ = streamOf(t, server, m.room, last.id)
	last = expect(t, events, "hello", "pressed", "judged")
	if last.event.Now.Scores.B != game.Reward || last.event.Player.Points != game.Reward {
		t.Errorf("the judgement is shown as %+v", last)
	}
	restored, _ := streamOf(t, server, m.room, "99-00000000")
	expect(t, restored, "hello", "reset")

	close(m.ending)
	deadline := time.After(time.Second)
	for _, stream := range []<-chan received{events, restored} {
		select {
		case e, open := <-stream:
			if open {
				t.Errorf("%+v came at the end", e)
			}
		case <-deadline:
			t.Fatal("a stream goes on while the app ends")
		}
	}
}

// A stream that has much to catch up with does not do it while the app ends.
func TestStreamThatIsBehindEnds(t *testing.T) {
	m := newMatch(t)
	m.moderate("open", "question", "1")
	server := serve(t, httptest.NewUnstartedServer(m.app))
	close(m.ending)
	events, _ := streamOf(t, server, m.room, "1")
	expect(t, events, "hello")
	if e, open := <-events; open {
		t.Errorf("%+v came at the end", e)
	}
}

// Over HTTP/2, a deadline that passes ends the stream, also where nothing is being written.
func TestIdleStreamStays(t *testing.T) {
	m := newMatch(t)
	m.writeWithin = 100 * time.Millisecond
	server := httptest.NewUnstartedServer(m.app)
	server.EnableHTTP2 = true
	server.Config.WriteTimeout = 150 * time.Millisecond
	server.StartTLS()
	defer server.Close()
	defer server.CloseClientConnections()
	events, _ := streamOf(t, server, m.room, "")
	expect(t, events, "hello", "state")
	time.Sleep(300 * time.Millisecond)
	m.moderate("open", "question", "1")
	expect(t, events, "opened")
}

// A visitor who takes nothing is dropped, and the others see everything at once all the time.
func TestSlowVisitorIsDropped(t *testing.T) {
	m := newMatch(t)
	m.writeWithin = 2 * time.Second
	m.moderate("open", "question", "1")
	server := httptest.NewUnstartedServer(m.app)
	server.Listener = smallBuffers{server.Listener}
	serve(t, server)
	quick, _ := streamOf(t, server, m.room, "")
	expect(t, quick, "hello", "state")

	slow, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if err := slow.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(slow, "GET %s/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 1\r\n\r\n", m.room)
	for len(m.streams) != 2 {
		time.Sleep(time.Millisecond)
	}
	var slowest time.Duration
	for round := 1; len(m.streams) == 2; round++ {
		if round > 50_000 {
			t.Fatal("the slow one is not dropped")
		}
		before := time.Now()
		if got := m.moderate("rearm", "round", fmt.Sprint(round)); got != "200" {
			t.Fatal(got)
		}
		slowest = max(slowest, expect(t, quick, "rearmed").at.Sub(before))
	}
	if slowest >= m.writeWithin {
		t.Errorf("another visitor waited %v for an event", slowest)
	}
	t.Logf("the longest wait of another visitor was %v", slowest)
}

// smallBuffers makes what the kernel takes for a visitor small.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(4096)
	}
	return c, err
}

func TestStreamsOfRoomsAreBounded(t *testing.T) {
	m := newMatch(t)
	for range maxStreams {
		m.streams <- struct{}{}
	}
	if w := m.spectator.ask("GET", m.room+"/events", nil); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("one too many: %d %v", w.Code, w.Header())
	}
}

// BenchmarkPressToEvent presses 200 times a second in five rooms with 20 streams each, and measures from before the
// request to the event on each of the room's streams.
//
//	go test -run '^$' -bench PressToEvent -benchtime 1000x ./internal/web
func BenchmarkPressToEvent(b *testing.B) {
	const roomsN, streams, players, pause = 5, 20, 40, 5 * time.Millisecond
	a := newApp(b, nil)
	server := serve(b, httptest.NewUnstartedServer(a))
	type room struct {
		path      string
		moderator *browser
		players   []*browser
		streams   []<-chan received
		sent      sync.Map // when, by player and round
	}
	all := make([]*room, roomsN)
	for i := range all {
		r := &room{moderator: a.browser()}
		all[i] = r
		var created struct{ Room string }
		_ = json.Unmarshal(r.moderator.ask("POST", "/rooms", nil).Body.Bytes(), &created)
		r.path = "/rooms/" + created.Room
		for p := range players {
			r.players = append(r.players, a.browser())
			if got := r.players[p].post(r.path+"/players", "name", fmt.Sprint(p), "team", []string{"a", "b"}[p%2]); got != "201" {
				b.Fatal(got)
			}
		}
		r.moderator.post(r.path+"/moderate", "do", "open", "question", "1")
		for range streams {
			events, _ := streamOf(b, server, r.path, "")
			r.streams = append(r.streams, events)
		}
	}
	b.ResetTimer()
	var pressing sync.WaitGroup
	for n := range b.N {
		r, nth := all[n%roomsN], n/roomsN
		round := nth/players + 1
		if nth > 0 && nth%players == 0 {
			pressing.Wait()
			if got := r.moderator.post(r.path+"/moderate", "do", "rearm", "round", fmt.Sprint(round-1)); got != "200" {
				b.Fatal(got)
			}
		}
		pressing.Go(func() {
			p := nth % players
			r.sent.Store(fmt.Sprint(p, " ", round), time.Now())
			if got := r.players[p].post(r.path+"/press", "round", fmt.Sprint(round)); got != "200" {
				b.Error(got)
			}
		})
		time.Sleep(pause)
	}
	pressing.Wait()
	b.StopTimer()
	var took []time.Duration
	for i, r := range all {
		mine := (b.N + roomsN - 1 - i) / roomsN
		for _, events := range r.streams {
			for seen := 0; seen < mine; {
				e := <-events
				if e.event.Kind != game.Pressed {
					continue
				}
				sent, _ := r.sent.Load(e.event.Buzz.Name + " " + fmt.Sprint(e.event.Buzz.Round))
				took = append(took, e.at.Sub(sent.(time.Time)))
				seen++
			}
		}
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
	b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
	b.ReportMetric(float64(len(took)), "events")
	b.ReportMetric(0, "ns/op")
}
