// Package visit is what visitors of the example do. It imports nothing else of
// this project: the program in test/hammer must build from any state of it.
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
	"os"
	"regexp"
	"slices"
	"sync"
	"time"
)

// Report is what clients saw who asked for one page again and again.
type Report struct {
	Requests int           `json:"requests"`
	Bad      []string      `json:"bad"`      // what was not answered, or not with 200 and a version
	Parted   int           `json:"parted"`   // connections that ended while they were idle, which is no fault
	Versions [][]string    `json:"versions"` // of each client, in the order that it saw them, repeats left out
	Longest  time.Duration `json:"longest"`  // from a request to its whole answer
}

// answerLimit is what a visitor waits at most. A version on trial that never
// gets ready holds visitors up that long, not more.
const answerLimit = 60 * time.Second

// Idle is how long after its last request a connection may end unannounced (RFC
// 9112 section 9.5 lets a server close an idle one at any time). The example's
// server waits for 50 ms after its answer; the rest is for the way there and
// back on a busy computer. A visitor who comes back within this time meets no
// such end, and one that does was wronged.
const Idle = 20 * time.Millisecond

// Hammer lets clients fetch page until ctx ends: one half of them over a new
// connection each time, the other half over one that they keep.
//
// They write and read connections themselves: http.Client repeats a GET whose
// kept connection broke, and nobody would know.
func Hammer(ctx context.Context, page string, clients int, pause time.Duration) Report {
	reports := make([]Report, clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			v := visitor{page: page, anew: i%2 == 0, pause: pause}
			reports[i] = v.visit(ctx)
		})
	}
	all.Wait()
	var sum Report
	for _, r := range reports {
		sum.Requests += r.Requests
		sum.Bad = append(sum.Bad, r.Bad...)
		sum.Parted += r.Parted
		sum.Versions = append(sum.Versions, r.Versions...)
		sum.Longest = max(sum.Longest, r.Longest)
	}
	return sum
}

// visitor is one client.
type visitor struct {
	page  string
	anew  bool // a new connection for each request
	pause time.Duration

	conn   net.Conn // nil: the next request makes one
	in     *bufio.Reader
	asked  time.Time // when the last request on conn was written
	report Report
}

func (v *visitor) visit(ctx context.Context) Report {
	v.report.Versions = [][]string{nil}
	for ctx.Err() == nil {
		begin := time.Now()
		// It does not know the end of the test: a request that has begun is answered.
		version, err := v.fetch()
		v.report.Requests++
		v.report.Longest = max(v.report.Longest, time.Since(begin))
		if err != nil {
			v.bad(begin, err)
			v.leave()
		} else if seen := v.report.Versions[0]; len(seen) == 0 || seen[len(seen)-1] != version {
			v.report.Versions[0] = append(seen, version)
		}
		if err := v.rest(); err != nil {
			v.bad(begin, err)
		}
	}
	v.leave()
	return v.report
}

func (v *visitor) bad(begin time.Time, err error) {
	v.report.Bad = append(v.report.Bad, fmt.Sprintf("%s after %s: %v", begin.Format("15:04:05.000"), time.Since(begin).Round(time.Millisecond), err))
}

func (v *visitor) leave() {
	if v.conn != nil {
		_ = v.conn.Close()
		v.conn = nil
	}
}

// rest is the pause between two requests. It minds the connection: one that
// ends meanwhile has to have been idle.
func (v *visitor) rest() error {
	if v.conn == nil {
		time.Sleep(v.pause)
		return nil
	}
	if err := v.conn.SetReadDeadline(time.Now().Add(v.pause)); err != nil {
		return err
	}
	_, err := v.in.Peek(1)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	quiet := time.Since(v.asked)
	v.leave()
	switch {
	case err == nil:
		return errors.New("the server talks though nobody asked")
	case quiet < Idle:
		return fmt.Errorf("the connection ended %s after a request, and the answer did not say so: %w", quiet.Round(time.Millisecond), err)
	}
	v.report.Parted++
	return nil
}

// fetch asks once, and again on a new connection where the request crossed the
// end of one that had been idle.
func (v *visitor) fetch() (version string, err error) {
	if v.conn != nil {
		quiet := time.Since(v.asked)
		err := v.ask()
		switch {
		case err == nil:
			return v.read()
		case quiet < Idle || errors.Is(err, os.ErrDeadlineExceeded):
			return "", fmt.Errorf("asked %s after the last request: %w", quiet.Round(time.Millisecond), err)
		}
		v.leave()
		v.report.Parted++
	}
	address, err := url.Parse(v.page)
	if err != nil {
		return "", err
	}
	if v.conn, err = net.DialTimeout("tcp", address.Host, answerLimit); err != nil {
		return "", err
	}
	v.in = bufio.NewReader(v.conn)
	if err := v.ask(); err != nil {
		return "", fmt.Errorf("asked on a new connection: %w", err)
	}
	return v.read()
}

// ask writes the request and waits for the first byte of the answer.
func (v *visitor) ask() error {
	if err := v.conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodGet, v.page, nil)
	if err != nil {
		return err
	}
	req.Close = v.anew
	v.asked = time.Now()
	if err := req.Write(v.conn); err != nil {
		return err
	}
	_, err = v.in.Peek(1)
	return err
}

// read reads the answer, and leaves if it is the connection's last.
func (v *visitor) read() (version string, _ error) {
	resp, err := http.ReadResponse(v.in, nil) // of a GET
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	if resp.Close || v.anew {
		v.leave()
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
