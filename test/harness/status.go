package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
	"devbox/internal/vm"
)

// Status is what `devbox status --json` prints.
type Status struct {
	Code    int `json:"-"`
	App     string
	Machine struct {
		Driver string
		vm.Status
	}
	Ports   []deploy.Forward
	Host    *protocol.Status
	Data    *protocol.Data
	Problem string
}

// Status asks devbox, of the machine or of a target.
func (p *Project) Status(t testing.TB, target ...string) Status {
	t.Helper()
	r := p.Run(t, append([]string{"status", "--json"}, target...)...)
	var s Status
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	s.Code = r.Code
	return s
}

// PID is the main process of a unit, 0 if it has none.
func (s Status) PID(unit string) int {
	if s.Host != nil {
		for _, u := range s.Host.Units {
			if u.Unit == unit {
				return u.MainPID
			}
		}
	}
	return 0
}

// Serving tells which release runs, of which image, in which processes.
func (s Status) Serving() string {
	if s.Host == nil || s.Host.Current == nil {
		return fmt.Sprintf("nothing (%s) %s", s.Machine.State, s.Problem)
	}
	text := s.Host.Current.ID + " " + s.Host.Current.Digest[:12]
	for _, u := range s.Host.Units {
		text += fmt.Sprintf(" %s=%s/%d", u.Unit, u.Active, u.MainPID)
	}
	return text
}

// Cycle reads what `devbox up --json` prints.
func (r Ran) Cycle(t testing.TB) deploy.Cycle {
	t.Helper()
	var c deploy.Cycle
	if err := json.Unmarshal([]byte(r.Stdout), &c); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	return c
}

// Get fetches a page over a connection of its own and returns its body. A page
// that is not answered with 200 ends the test.
func (p *Project) Get(t testing.TB, path string) string {
	t.Helper()
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(p.URL(path))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v\n%s", path, resp.Status, err, body)
	}
	return string(body)
}

// Shows says whether the page has text; one that does not come has not.
func (p *Project) Shows(text string) bool {
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(p.URL("/"))
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK && strings.Contains(string(body), text)
}

// Answers checks that the app answers through the forwarded port, and inside of
// the machine, as version.
func (p *Project) Answers(t testing.TB, version string) {
	t.Helper()
	if got := strings.TrimSpace(p.Get(t, "/version")); got != version {
		t.Errorf("through the forwarded port version %q answers, not %q", got, version)
	}
	if got := p.Inside(t, "curl -sS --max-time 30 http://127.0.0.1:8080/version"); got != version {
		t.Errorf("inside of the machine version %q answers, not %q", got, version)
	}
}
