// Package browser has the example played in a real browser, on a machine, by
// HTTPS, while new versions of it are released.
package browser

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"devbox/internal/vm"
	"devbox/test/harness"

	"github.com/chromedp/chromedp"
)

// domain is that of the dev machine; browsers take it for this computer.
const domain = "bowl.localhost"

// patience is how long something may take to come onto a screen, a release of
// the app in the middle included.
const patience = 60 * time.Second

// screen is one person's browser: cookies, cache and all of its own.
type screen struct {
	t    *testing.T
	name string
	ctx  context.Context
}

// do runs actions, and fails the test with what the screen shows where one does not.
func (s *screen) do(actions ...chromedp.Action[chromedp.Void]) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for _, action := range actions {
		err := chromedp.Do(ctx, action)
		for err != nil && strings.Contains(err.Error(), "Could not find node") { // it was of the page before
			time.Sleep(50 * time.Millisecond)
			err = chromedp.Do(ctx, action)
		}
		if err != nil {
			s.fail(err)
		}
	}
}

func (s *screen) fail(err error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	text, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body ? document.body.outerHTML : ""`))
	s.t.Fatalf("%s: %v\n%s", s.name, err, text)
}

// waits until a condition, in JavaScript, is true on the screen, over any
// change of page.
func (s *screen) waits(condition string) {
	s.t.Helper()
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		is, err := chromedp.Run(s.ctx, chromedp.Evaluate[bool](condition))
		switch {
		case err == nil && is:
			return
		case time.Since(begin) > patience:
			s.fail(fmt.Errorf("it is never so that %s: %w", condition, err))
		}
	}
}

func (s *screen) click(selector string) { s.do(chromedp.Click(chromedp.CSS(selector))) }

func (s *screen) read(expression string) string {
	s.t.Helper()
	text, err := chromedp.Run(s.ctx, chromedp.Evaluate[string]("String("+expression+")"))
	if err != nil {
		s.fail(err)
	}
	return text
}

// picture keeps a screenshot where CI collects what tests leave.
func (s *screen) picture(name string) {
	s.t.Helper()
	dir := os.Getenv("DEVBOX_TEST_ARTIFACTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(s.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		s.fail(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+"-"+s.name+".png"), png, 0o644); err != nil {
		s.t.Error(err)
	}
}

// root is the certificate of the CA that stands in on the machine.
func root(t *testing.T, p *harness.Project) []byte {
	t.Helper()
	return []byte(p.Inside(t, "curl -sS --insecure https://127.0.0.1:15000/roots/0") + "\n")
}

// certified checks that what answers has a certificate of that CA for the
// domain, and speaks HTTP/2.
func certified(t *testing.T, p *harness.Project, pem []byte) {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("the CA's root is %q", pem)
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", p.SecurePort))
		},
	}}
	resp, err := client.Get("https://" + domain + "/version")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
		t.Errorf("%s, %s", resp.Proto, resp.Status)
	}
}

// browser starts Chromium, which trusts the CA and nothing else more than usual.
func browser(t *testing.T, home string, pem []byte) context.Context {
	t.Helper()
	db := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(db, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(home, "root.pem")
	if err := os.WriteFile(file, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	harness.Output(t, "certutil", "-d", "sql:"+db, "-N", "--empty-password")
	harness.Output(t, "certutil", "-d", "sql:"+db, "-A", "-t", "C,,", "-n", "pebble", "-i", file)
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.UserDataDir(filepath.Join(home, "chromium")),
		chromedp.Env("HOME="+home), chromedp.Flag("no-proxy-server", true),
	)...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return ctx
}

func needs(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs minutes, and -short was given")
	}
	if err := vm.NspawnReady(); err != nil {
		t.Skipf("needs systemd-nspawn: %v", err)
	}
	for _, tool := range []string{"chromium", "certutil"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (packages chromium and libnss3-tools)", tool)
		}
	}
}

// match is a room with all who are in it.
type match struct {
	moderator, spectator *screen
	players              []*screen // 0 and 1 of team A, 2 and 3 of team B
	presses              int       // that were made
}

func (m *match) all() []*screen { return append([]*screen{m.moderator, m.spectator}, m.players...) }

func (m *match) everywhere(condition string) {
	for _, s := range m.all() {
		s.t.Helper()
		s.waits(condition)
	}
}

// question opens the next one, has players press in an order, or all at once
// where together is set, and lets the moderator judge.
func (m *match) question(n int, together bool, press []int, judge string) {
	m.moderator.t.Helper()
	m.moderator.click("#open[aria-disabled=false]")
	m.everywhere(fmt.Sprintf(`document.body.dataset.phase === "armed" && document.querySelector("#question").textContent === "Question %d"`, n))
	m.press(together, press)
	m.moderator.click("#" + judge + "[aria-disabled=false]")
}

func (m *match) press(together bool, players []int) {
	m.moderator.t.Helper()
	var wg sync.WaitGroup
	for n, i := range players {
		one := func() {
			s := m.players[i]
			s.read(`document.querySelector("#buzz").click()`)
		}
		if together {
			wg.Go(one)
			continue
		}
		one()
		m.everywhere(fmt.Sprintf(`document.querySelectorAll("#buzzes li").length === %d`, n+1))
	}
	wg.Wait()
	m.everywhere(fmt.Sprintf(`document.querySelectorAll("#buzzes li").length === %d`, len(players)))
	m.presses += len(players)
}

// TestMatch is a whole match: a moderator, four players and a spectator, while
// new versions are released twice in the middle.
func TestMatch(t *testing.T) {
	needs(t)
	p := harness.New(t, harness.Options{})
	p.Must(t, "up")
	pem := root(t, p)
	certified(t, p, pem)
	main := browser(t, p.Home, pem)
	open := func(name string) *screen {
		ctx, cancel := chromedp.NewContext(main, chromedp.WithNewBrowserContext())
		t.Cleanup(cancel)
		// The first action makes the screen, which lives as long as its context. No
		// window can be as narrow as a small phone: its page is told that it is.
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(320, 740)); err != nil {
			t.Fatal(err)
		}
		return &screen{t, name, ctx}
	}
	site := fmt.Sprintf("https://%s:%d", domain, p.SecurePort)

	m := &match{moderator: open("moderator"), spectator: open("spectator")}
	m.moderator.do(chromedp.Navigate(site + "/"))
	m.moderator.click("#create")
	m.moderator.waits(`document.querySelector("#controls") !== null`)
	code := m.moderator.read(`document.body.dataset.room`)
	m.spectator.do(chromedp.Navigate(site + "/rooms/" + code))
	for i, name := range []string{"Ada", "Grace", "Katherine", "Mary"} {
		s := open(name)
		s.do(chromedp.Navigate(site+"/"), chromedp.SendKeys(chromedp.CSS("#room"), strings.ToLower(code)+"\n"))
		s.waits(`document.querySelector("#join") !== null`)
		s.do(chromedp.SendKeys(chromedp.CSS("#name"), name))
		s.click([]string{"#team-a", "#team-b"}[i/2])
		s.click("#enter")
		s.waits(`document.querySelector("#buzz") !== null`)
		m.players = append(m.players, s)
	}
	m.everywhere(`document.body.dataset.live === "true" && document.querySelectorAll(".players li").length === 4`)
	for _, s := range m.all() {
		if wide := s.read(`document.documentElement.scrollWidth > window.innerWidth`); wide != "false" {
			t.Errorf("%s has to scroll sideways", s.name)
		}
		s.picture("begin")
	}

	m.question(1, false, []int{0, 2}, "right")      // A: 4
	m.question(2, false, []int{3}, "right")         // B: 4
	m.question(3, true, []int{0, 1, 2, 3}, "right") // whoever was first: 4
	m.everywhere(`document.body.dataset.phase === "waiting"`)

	// A new page, and then a new program, while players press.
	asked := 3
	for n, edit := range [][3]string{
		{"share/templates/page.html", "<h1>Science Bowl</h1>", "<h1>Science Bowl, second half</h1>"},
		{"cmd/bowl/main.go", `"serving", "version"`, `"serves", "version"`},
	} {
		before := p.Get(t, "/version")
		p.Edit(t, edit[0], edit[1], edit[2])
		released := make(chan harness.Ran, 1)
		go func() { released <- p.Run(t, "up", "--json") }()
		for over := false; !over; {
			select {
			case r := <-released:
				if r.Code != 0 {
					t.Fatal(r)
				}
				over = true // and one more question after it
			default:
			}
			asked++
			m.question(asked, true, []int{1, 2}, "right")
			m.everywhere(`document.body.dataset.phase === "waiting"`)
		}
		if now := p.Get(t, "/version"); now == before {
			t.Errorf("release %d changed nothing", n+1)
		}
	}
	t.Logf("%d questions were asked, %d presses made", asked, m.presses)

	m.moderator.read(`window.confirm = () => true`)
	m.moderator.click("#end[aria-disabled=false]")
	m.everywhere(`document.body.dataset.phase === "over"`)
	score := func(s *screen) string {
		return s.read(`[...document.querySelectorAll(".score")].map((e) => e.textContent).join(":")`)
	}
	want := score(m.moderator)
	for _, s := range m.all() {
		if got := score(s); got != want {
			t.Errorf("%s sees %s, the moderator %s", s.name, got, want)
		}
		if seq := s.read(`document.body.dataset.seq`); seq != m.moderator.read(`document.body.dataset.seq`) {
			t.Errorf("%s is at event %s", s.name, seq)
		}
		s.picture("end")
	}
	var a, b int
	if _, err := fmt.Sscanf(want, "%d:%d", &a, &b); err != nil || a+b != 4*asked {
		t.Errorf("the score is %s after %d questions", want, asked)
	}

	stored(t, p, code, m.presses)
}

// stored counts the presses of a room as the app has stored them.
func stored(t *testing.T, p *harness.Project, code string, want int) {
	t.Helper()
	// The stream replays what came after the first event, and goes on until curl's time is up.
	text := p.Inside(t, "curl -sS --max-time 5 -H 'Last-Event-ID: 1' http://127.0.0.1:8080/rooms/"+code+"/events || [ $? = 28 ]")
	presses := map[string]int{}
	for line := range strings.Lines(text) {
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		var e struct {
			Buzz *struct {
				Player string
				Round  int
			}
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if e.Buzz != nil {
			presses[fmt.Sprintf("%s in round %d", e.Buzz.Player, e.Buzz.Round)]++
		}
	}
	total := 0
	for who, n := range presses {
		if total += n; n != 1 {
			t.Errorf("the press of %s is stored %d times", who, n)
		}
	}
	if total != want {
		t.Errorf("%d presses are stored, %d were made", total, want)
	}
}
