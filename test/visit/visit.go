// Package visit is what visitors of the example do. It imports nothing else of
// this project: the program in test/hammer must build from any state of it.
package visit

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"
)

// Report is what clients saw who asked for one page again and again.
type Report struct {
	Requests int           `json:"requests"`
	Bad      []string      `json:"bad"`      // what was not answered, or not with 200 and a version
	Versions [][]string    `json:"versions"` // of each client, in the order that it saw them, repeats left out
	Longest  time.Duration `json:"longest"`  // from a request to its whole answer
}

// answerLimit is what a visitor waits at most. A version on trial that never
// gets ready holds visitors up that long, not more.
const answerLimit = 60 * time.Second

// Hammer lets clients fetch url until ctx ends: one half of them over a new
// connection each time, the other half over one that they keep.
func Hammer(ctx context.Context, url string, clients int, pause time.Duration) Report {
	reports := make([]Report, clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() { reports[i] = visit(ctx, url, i%2 == 0, pause) })
	}
	all.Wait()
	var sum Report
	for _, r := range reports {
		sum.Requests += r.Requests
		sum.Bad = append(sum.Bad, r.Bad...)
		sum.Versions = append(sum.Versions, r.Versions...)
		sum.Longest = max(sum.Longest, r.Longest)
	}
	return sum
}

func visit(ctx context.Context, url string, anew bool, pause time.Duration) Report {
	transport := &http.Transport{DisableKeepAlives: anew}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: answerLimit}
	r := Report{Versions: [][]string{nil}}
	for ctx.Err() == nil {
		begin := time.Now()
		version, err := fetch(&client, url)
		r.Requests++
		r.Longest = max(r.Longest, time.Since(begin))
		if err != nil {
			r.Bad = append(r.Bad, fmt.Sprintf("%s after %s: %v", begin.Format("15:04:05.000"), time.Since(begin).Round(time.Millisecond), err))
		} else if seen := r.Versions[0]; len(seen) == 0 || seen[len(seen)-1] != version {
			r.Versions[0] = append(seen, version)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return r
}

// fetch does not know the end of the test: a request that has begun is answered.
func fetch(client *http.Client, url string) (version string, err error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %.200s", resp.Status, body)
	}
	if version = Version(string(body)); version == "" {
		return "", fmt.Errorf("an answer without a version: %.200s", body)
	}
	return version, nil
}

// Wrong lists what no client may have seen: answers that failed, versions that
// were not delivered, and a version after a later one. Those on trial may be
// seen at any time.
func (r Report) Wrong(delivered []string, trial ...string) []string {
	wrong := slices.Clone(r.Bad)
	for i, seen := range r.Versions {
		at := 0
		for _, v := range seen {
			next := slices.Index(delivered, v)
			if slices.Contains(trial, v) {
				continue
			}
			switch {
			case next < 0:
				wrong = append(wrong, fmt.Sprintf("client %d saw %s, which was not delivered", i, v))
			case next < at:
				wrong = append(wrong, fmt.Sprintf("client %d saw %s after %s", i, v, delivered[at]))
			}
			at = max(at, next)
		}
	}
	return wrong
}

// shown is where the example's page shows its version.
var shown = regexp.MustCompile(`<code id="version">([^<]*)</code>`)

// Version is the version that a page shows, "" if it shows none.
func Version(page string) string {
	if m := shown.FindStringSubmatch(page); m != nil {
		return m[1]
	}
	return ""
}
