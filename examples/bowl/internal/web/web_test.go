package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"bowl/internal/board"
	"bowl/internal/rooms"
	"bowl/internal/session"
	"bowl/internal/store"
)

type app struct {
	*Handler
	board  *board.Board
	log    *bytes.Buffer
	ending chan struct{}
}

func newApp(t testing.TB, change func(*Options)) app {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "bowl.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	b, err := board.New(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	assets, err := LoadAssets(os.DirFS("../../share"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := db.Secret(t.Context(), "session")
	if err != nil {
		t.Fatal(err)
	}
	a := app{board: b, log: &bytes.Buffer{}, ending: make(chan struct{})}
	o := Options{
		Board: b, Rooms: rooms.New(db, slog.New(slog.DiscardHandler)), Sessions: session.New(key), Check: db.Check, Assets: assets, Version: "3f2a9c01d2e4", Greeting: "Round <1>",
		Log: slog.New(slog.NewTextHandler(a.log, nil)), Ending: a.ending,
	}
	if change != nil {
		change(&o)
	}
	a.Handler = New(o)
	return a
}

func (a app) do(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

func (a app) get(path string) *httptest.ResponseRecorder {
	return a.do(httptest.NewRequest("GET", path, nil))
}

func form(values string, header ...string) *http.Request {
	r := httptest.NewRequest("POST", "/press", strings.NewReader(values))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func TestPage(t *testing.T) {
	a := newApp(t, nil)
	for _, name := range []string{"Ann", "<b>Ben</b>"} {
		if _, err := a.board.Press(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	w := a.get("/")
	body := w.Body.String()
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("answer %d, %v", w.Code, w.Header())
	}
	for _, want := range []string{
		`<code id="version">3f2a9c01d2e4</code>`, `Round &lt;1&gt;`, `&lt;b&gt;Ben&lt;/b&gt;`,
		`data-newest="2"`, `<label for="name">`, `href="/static/bowl.css?v=`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if strings.Index(body, "Ben") > strings.Index(body, ">Ann<") {
		t.Error("the newest press does not come first")
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
		t.Errorf("content security policy %q", csp)
	}
}

func TestPress(t *testing.T) {
	long := strings.Repeat("é", maxName)
	for _, c := range []struct {
		name   string
		r      *http.Request
		status int
		stored string
	}{
		{"from the script", form("name=Ann", "Accept", "application/json"), http.StatusCreated, "Ann"},
		{"without script", form("name=Ann"), http.StatusSeeOther, "Ann"},
		{"spaces", form("name=" + url.QueryEscape("  Ann \t B. ")), http.StatusSeeOther, "Ann B."},
		{"no name", form(""), http.StatusSeeOther, anonymous},
		{"the longest name", form("name=" + url.QueryEscape(long)), http.StatusSeeOther, long},
		{"a longer name", form("name=" + url.QueryEscape(long+"é")), http.StatusUnprocessableEntity, ""},
		{"control characters", form("name=a%00b"), http.StatusUnprocessableEntity, ""},
		{"not UTF-8", form("name=%ff"), http.StatusUnprocessableEntity, ""},
		{"not a form", form("name=%zz"), http.StatusBadRequest, ""},
		{"too large", form("name=" + strings.Repeat("x", maxBody)), http.StatusRequestEntityTooLarge, ""},
		{"from another site", form("name=Ann", "Sec-Fetch-Site", "cross-site"), http.StatusForbidden, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newApp(t, nil)
			w := a.do(c.r)
			if w.Code != c.status {
				t.Errorf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			stored, _, _ := a.board.After(0)
			switch {
			case c.stored == "" && len(stored) > 0:
				t.Errorf("stored %v", stored)
			case c.stored != "" && (len(stored) != 1 || stored[0].Name != c.stored):
				t.Errorf("stored %v, want %s", stored, c.stored)
			}
			if c.status == http.StatusCreated {
				var p store.Press
				if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.ID != 1 || p.Name != c.stored {
					t.Errorf("answer %s (%v)", w.Body, err)
				}
			}
		})
	}
}

func TestHealth(t *testing.T) {
	a := newApp(t, nil)
	if w := a.get("/healthz"); w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) !=
		`{"status":"ok","version":"3f2a9c01d2e4","presses":0,"streams":0}` {
		t.Errorf("healthy: %d %s", w.Code, w.Body)
	}
	broken := newApp(t, func(o *Options) {
		o.Check = func(context.Context) error { return errors.New("disk I/O error at /secret") }
	})
	w := broken.get("/healthz")
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), `"version":"3f2a9c01d2e4"`) {
		t.Errorf("broken: %d %s", w.Code, w.Body)
	}
	if strings.Contains(w.Body.String(), "secret") || !strings.Contains(broken.log.String(), "secret") {
		t.Errorf("the cause belongs in the log alone; answer %s, log %s", w.Body, broken.log)
	}
}

func TestVersion(t *testing.T) {
	if w := newApp(t, nil).get("/version"); w.Body.String() != "3f2a9c01d2e4\n" {
		t.Errorf("version %q", w.Body)
	}
}

func TestFailureIsLogged(t *testing.T) {
	a := newApp(t, func(o *Options) { o.Board = failing{} })
	w := a.do(form("name=Ann"))
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "full") {
		t.Errorf("answer %d %s", w.Code, w.Body)
	}
	if !strings.Contains(a.log.String(), "disk full") {
		t.Errorf("log %s", a.log)
	}
}

type failing struct{ Board }

func (failing) Press(context.Context, string) (store.Press, error) {
	return store.Press{}, errors.New("disk full")
}

func TestStatic(t *testing.T) {
	a := newApp(t, nil)
	address, err := a.Assets.address("bowl.css")
	if err != nil {
		t.Fatal(err)
	}
	w := a.get(address)
	if w.Code != http.StatusOK || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") ||
		w.Header().Get("Content-Type") != "text/css; charset=utf-8" {
		t.Errorf("%s: %d %v", address, w.Code, w.Header())
	}
	r := httptest.NewRequest("GET", "/static/bowl.css", nil)
	r.Header.Set("If-None-Match", w.Header().Get("ETag"))
	if w := a.do(r); w.Code != http.StatusNotModified || w.Header().Get("Cache-Control") != "no-cache" {
		t.Errorf("again: %d %v", w.Code, w.Header())
	}
	for _, path := range []string{"/static/none.css", "/static/..%2ftemplates%2fpage.html", "/static/", "/nothing"} {
		if w := a.get(path); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestLoadAssetsFindsMistakes(t *testing.T) {
	css := &fstest.MapFile{Data: []byte("a{}")}
	page := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for _, c := range []struct {
		share fstest.MapFS
		want  string
	}{
		{fstest.MapFS{"templates/page.html": page("x")}, "static"},
		{fstest.MapFS{"static/a.css": css}, "templates"},
		{fstest.MapFS{"static/a.css": css, "templates/other.html": page("x")}, "page.html"},
		{fstest.MapFS{"static/a.css": css, "templates/page.html": page("{{if}}")}, "page.html:1"},
	} {
		if _, err := LoadAssets(c.share); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v does not name %q", err, c.want)
		}
	}
}

func TestEventsResume(t *testing.T) {
	a := newApp(t, nil)
	for _, name := range []string{"Ann", "Ben", "Cy"} {
		if _, err := a.board.Press(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	close(a.ending) // a stream that finds the app ending sends what it has, then ends
	for _, c := range []struct {
		path, header, want string
	}{
		{"/events", "", "hello Ann Ben Cy"},
		{"/events?after=2", "", "hello Cy"},
		{"/events?after=1", "2", "hello Cy"}, // a returning browser repeats the address of the page
		{"/events?after=3", "", "hello"},
		{"/events?after=9", "", "hello reset Ann Ben Cy"},
	} {
		r := httptest.NewRequest("GET", c.path, nil)
		if c.header != "" {
			r.Header.Set("Last-Event-ID", c.header)
		}
		w := a.do(r)
		if got := summary(w.Body.String()); got != c.want {
			t.Errorf("%s, Last-Event-ID %q: %q, want %q", c.path, c.header, got, c.want)
		}
	}
	for _, path := range []string{"/events?after=x", "/events?after=-1", "/events?after=99999999999999999999"} {
		if w := a.get(path); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// summary names the events, a press by its visitor. It fails on an id that is not the press's place.
func summary(stream string) string {
	var all []string
	for block := range strings.SplitSeq(strings.TrimSpace(stream), "\n\n") {
		var id, event, data string
		for line := range strings.Lines(block) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			switch key {
			case "id":
				id = value
			case "event":
				event = value
			case "data":
				data = value
			}
		}
		if event == "press" {
			var p store.Press
			if err := json.Unmarshal([]byte(data), &p); err != nil || fmt.Sprint(p.ID) != id {
				event = "bad press " + data
			} else {
				event = p.Name
			}
		}
		all = append(all, event)
	}
	return strings.Join(all, " ")
}

func TestEventsAreLiveAndEnd(t *testing.T) {
	a := newApp(t, nil)
	server := httptest.NewServer(a)
	defer server.Close()
	answer, err := http.Get(server.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if got := answer.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	buf := make([]byte, 4096)
	until := func(want string) {
		t.Helper()
		var seen string
		for !strings.Contains(seen, want) {
			n, err := answer.Body.Read(buf)
			if seen += string(buf[:n]); err != nil && !strings.Contains(seen, want) {
				t.Fatalf("%v after %q, want %s", err, seen, want)
			}
		}
	}
	until(`{"version":"3f2a9c01d2e4"}`)
	if w := a.do(form("name=Ann")); w.Code != http.StatusSeeOther {
		t.Fatal(w.Code)
	}
	until(`"name":"Ann"`)
	before := time.Now()
	close(a.ending)
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		t.Errorf("the stream did not end cleanly: %v", err)
	}
	if took := time.Since(before); took > time.Second {
		t.Errorf("the stream took %v to end", took)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	a := newApp(t, nil)
	for range maxStreams {
		a.streams <- struct{}{}
	}
	if w := a.get("/events"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("one too many: %d %v", w.Code, w.Header())
	}
}
