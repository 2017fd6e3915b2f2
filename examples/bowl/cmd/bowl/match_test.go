package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bowl/internal/game"
	"bowl/internal/store"
)

// visitor is a browser that asks again until it has an answer, as the pages do.
type visitor struct {
	http *http.Client
	url  string
}

func newVisitor(url string) *visitor {
	jar, _ := cookiejar.New(nil)
	return &visitor{&http.Client{Transport: &http.Transport{}, Jar: jar, Timeout: 5 * time.Second}, url}
}

// post gives the status of the first answer, and decodes it where it is 2xx. It is zero where none comes.
func (v *visitor) post(path string, form url.Values, into any) (status int) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		r, err := http.NewRequest("POST", v.url+path, strings.NewReader(form.Encode()))
		if err != nil {
			return 0
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Accept", "application/json")
		answer, err := v.http.Do(r)
		if err != nil {
			continue
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode >= 500 {
			continue
		}
		if answer.StatusCode < 300 && json.Unmarshal(body, into) != nil {
			return 0
		}
		return answer.StatusCode
	}
	return 0
}

// watcher follows a room from its first event on, over as many streams as it takes.
type watcher struct {
	url  string
	last string
	seen []game.Event
	odd  []string // what should not have come
	ends int      // streams that ended
}

func (w *watcher) follow(until func(game.Event) bool) {
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if w.stream(until) {
			return
		}
		w.ends++
	}
}

// stream reads one stream and says whether the end that it waits for came.
func (w *watcher) stream(until func(game.Event) bool) bool {
	r, err := http.NewRequest("GET", w.url, nil)
	if err != nil {
		return false
	}
	r.Header.Set("Last-Event-ID", w.last)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	answer, err := client.Do(r)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	var id, name string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case field == "id":
			id = value
		case field == "event":
			name = value
		case field == "data" && name == "event":
			var e game.Event
			if err := json.Unmarshal([]byte(value), &e); err != nil {
				w.odd = append(w.odd, err.Error())
			}
			w.seen, w.last = append(w.seen, e), id
			if until(e) {
				return true
			}
		case field == "data" && name != "hello":
			w.odd = append(w.odd, name)
		}
	}
	return false
}

// A match under load, whose app is killed again and again: each press that was answered is there, once, with the place that
// it was told, and everybody who watches sees everything once.
func TestKilledInAMatch(t *testing.T) {
	const players, watchers, kills = 8, 3, 4
	socket, address := socket(t)
	data := t.TempDir()
	p := startApp(t, data, nil, socket)
	p.await(t, "READY=1")

	moderator := newVisitor(address)
	var created struct{ Room string }
	if status := moderator.post("/rooms", nil, &created); status != http.StatusCreated {
		t.Fatalf("create a room: %d\n%s", status, p.log)
	}
	room := "/rooms/" + created.Room
	var joined [players]game.Player
	var visitors [players]*visitor
	for i := range visitors {
		visitors[i] = newVisitor(address)
		form := url.Values{"name": {fmt.Sprint("Player ", i)}, "team": {[]string{"a", "b"}[i%2]}}
		if status := visitors[i].post(room+"/players", form, &joined[i]); status != http.StatusCreated {
			t.Fatalf("join: %d", status)
		}
	}
	moderate := func(do string, n int) int {
		number := fmt.Sprint(n)
		var e game.Event
		return moderator.post(room+"/moderate", url.Values{"do": {do}, "round": {number}, "question": {number}}, &e)
	}
	if status := moderate("open", 1); status != http.StatusOK {
		t.Fatalf("open: %d", status)
	}

	var watching sync.WaitGroup
	watches := make([]*watcher, watchers)
	for i := range watches {
		watches[i] = &watcher{url: address + room + "/events", last: "1"}
		watching.Go(func() { watches[i].follow(func(e game.Event) bool { return e.Kind == game.Ended }) })
	}

	// Each player presses in each round, and the moderator opens the next one as soon as all have been answered.
	var until atomic.Bool
	var answered [players][]game.Buzz
	rounds := make(chan int)
	go func() {
		defer close(rounds)
		round := 1
		for ; !until.Load(); round++ {
			var pressing sync.WaitGroup
			for i, v := range visitors {
				pressing.Go(func() {
					var e game.Event
					if status := v.post(room+"/press", url.Values{"round": {fmt.Sprint(round)}}, &e); status != http.StatusOK {
						t.Errorf("player %d, round %d: status %d", i, round, status)
						return
					}
					answered[i] = append(answered[i], *e.Buzz)
				})
			}
			pressing.Wait()
			// One whose answer was lost in a kill finds, asked again, that the room has moved on.
			if status := moderate("rearm", round); status != http.StatusOK && status != http.StatusConflict {
				t.Errorf("round %d: status %d", round, status)
			}
		}
		rounds <- round - 1
	}()
	for n := range kills {
		time.Sleep(time.Duration(150+70*n) * time.Millisecond)
		if n == kills-1 {
			p.stop(t) // as a deploy does
		} else {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		p = startApp(t, data, nil, socket)
		p.await(t, "READY=1")
	}
	time.Sleep(100 * time.Millisecond)
	until.Store(true)
	last := <-rounds
	if moderate("skip", last+1) != http.StatusOK || moderate("end", 0) != http.StatusOK {
		t.Error("the match does not end")
	}
	watching.Wait()

	events := watches[0].seen
	for i, w := range watches {
		if len(w.odd) > 0 || w.ends == 0 {
			t.Errorf("watcher %d had %d streams, and in them %q", i, w.ends, w.odd)
		}
		for n, e := range w.seen {
			if e.Seq != int64(n+2) {
				t.Fatalf("watcher %d: event %d came as number %d", i, e.Seq, n+2)
			}
		}
		if len(w.seen) != len(events) {
			t.Errorf("watcher %d saw %d events, and the first %d", i, len(w.seen), len(events))
		}
	}
	shown := map[string][]game.Buzz{}
	for _, e := range events {
		if e.Kind == game.Pressed {
			shown[e.Buzz.Player] = append(shown[e.Buzz.Player], *e.Buzz)
		}
	}
	for i := range answered {
		if got := shown[joined[i].ID]; !slices.Equal(got, answered[i]) || len(got) != last {
			t.Errorf("player %d was told of %d presses, and %d are shown, in %d rounds", i, len(answered[i]), len(got), last)
		}
	}
	p.stop(t)
	report, err := store.Inspect(t.Context(), filepath.Join(data, databaseFile))
	if err != nil || !report.OK() || report.Rows["event"] != int64(len(events))+1 {
		t.Errorf("the database: %+v, %v", report, err)
	}
	t.Logf("%d events in %d rounds", len(events), last)
}

func TestCheck(t *testing.T) {
	data := t.TempDir()
	path := filepath.Join(data, databaseFile)
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Press(t.Context(), "Ann", time.Now(), func(store.Press) {}); err != nil {
		t.Fatal(err)
	}
	check := func(args ...string) (out, log string, code int) {
		cmd := exec.Command(os.Args[0], append([]string{"check"}, args...)...)
		cmd.Env = append(os.Environ(), "BOWL_TEST_AS_APP=1", "STATE_DIRECTORY="+data)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run()
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
	out, log, code := check() // while it is in use
	var report store.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 0 || !report.OK() || report.Rows["press"] != 1 || report.Newest.IsZero() {
		t.Errorf("exit %d, report %s, log %s", code, out, log)
	}
	_ = db.Close()
	damaged, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := damaged.WriteAt(bytes.Repeat([]byte("x"), 200), 4096); err != nil { // the table of presses
		t.Fatal(err)
	}
	_ = damaged.Close()
	if out, log, code := check("-data", data); code != 1 || strings.Contains(out, `"integrity":"ok"`) || !strings.Contains(log, "wrong with the database") {
		t.Errorf("damaged: exit %d, report %s, log %s", code, out, log)
	}
	if out, log, code := check("-data", t.TempDir()); code != 1 || out != "" || !strings.Contains(log, databaseFile) {
		t.Errorf("no database: exit %d, report %s, log %s", code, out, log)
	}
	if _, log, code := check("surplus"); code != 2 || !strings.Contains(log, `unexpected argument "surplus"`) {
		t.Errorf("a surplus argument: exit %d, log %s", code, log)
	}
}
