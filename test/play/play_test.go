package play

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestEach(t *testing.T) {
	var got []string
	err := each(strings.NewReader("retry: 250\nevent: hello\ndata: {}\n\n:\n\nid: 7-ab\nevent: event\ndata: {\"seq\":7}\n\nid: 8\nevent: event\ndata: half"), func(id, kind string, data []byte) error {
		got = append(got, id+" "+kind+" "+string(data))
		return nil
	})
	if want := []string{" hello {}", `7-ab event {"seq":7}`}; err != nil || strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("%q, %v", got, err)
	}
}

// A screen that comes after a press is not shown it: Gather has to wait.
func TestGatherWaitsForScreens(t *testing.T) {
	var seated atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("POST /rooms", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"room":"ABCD"}`) })
	mux.HandleFunc("POST /rooms/ABCD/players", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"id":"p"}`) })
	mux.HandleFunc("GET /rooms/ABCD/events", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(100 * time.Millisecond)
		seated.Add(1)
		fmt.Fprint(w, "id: 3\nevent: state\ndata: {\"seq\":3}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	c, err := Gather(t.Context(), server.URL, 1, 2, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Leave()
	if n := seated.Load(); n != 5 {
		t.Errorf("%d of 5 screens were there", n)
	}
}

// A moderator whose answer is lost asks again, and goes on from where the room is.
// One who is told so at once was never there.
func TestModerateAfterALostAnswer(t *testing.T) {
	asked, lost := 0, 1
	mux := http.NewServeMux()
	mux.HandleFunc("POST /rooms/ABCD/moderate", func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked <= lost {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"code":"moved-on","error":"The room has moved on."}`)
	})
	mux.HandleFunc("GET /rooms/ABCD", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"seq":7,"now":{"phase":"armed","question":1,"round":4}}`)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	r := &Room{Code: "ABCD", base: server.URL, client: server.Client()}
	if err := r.Open(t.Context()); err != nil || asked != 2 || r.now.Seq != 7 || r.now.Now.Round != 4 {
		t.Errorf("asked %d times: %+v, %v", asked, r.now, err)
	}
	asked, lost = 0, 0
	if err := r.Open(t.Context()); err == nil || asked != 1 {
		t.Errorf("asked %d times, %v", asked, err)
	}
}

// The last events may need their time.
func TestCheckWaitsForScreens(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /rooms/ABCD/events", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "id: 3\nevent: state\ndata: {\"seq\":3}\n\n")
		w.(http.Flusher).Flush()
		time.Sleep(200 * time.Millisecond)
		fmt.Fprint(w, "id: 4\nevent: event\ndata: {\"seq\":4,\"now\":{\"scores\":{\"a\":4}}}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("POST /rooms", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"room":"ABCD"}`) })
	server := httptest.NewServer(mux)
	defer server.Close()
	c, err := Gather(t.Context(), server.URL, 1, 0, 2)
	if err != nil {
		t.Fatal(err)
	}
	c.Rooms[0].now.Seq, c.Rooms[0].now.Now.Scores.A = 4, 4
	if back, problems := c.Check(); back != 0 || len(problems) > 0 {
		t.Errorf("%d, %q", back, problems)
	}
}

func TestBetween(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	c := &Crowd{Rooms: []*Room{{seen: []sight{{at(1), 10}, {at(2), 40}, {at(4), 50}}}, {seen: []sight{{at(3), 20}}}}}
	if got, want := c.Between(at(2), at(4)), (Latencies{20, 40}); !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
	if got, want := c.Latencies(), (Latencies{10, 20, 40, 50}); !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
}
