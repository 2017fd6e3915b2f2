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
	asked                int       // questions so far
	presses              int       // that counted
}

func (m *match) all() []*screen { return append([]*screen{m.moderator, m.spectator}, m.players...) }

func (m *match) everywhere(condition string) {
	for _, s := range m.all() {
		s.t.Helper()
		s.waits(condition)
	}
}

// open opens the next question.
func (m *match) open() {
	m.moderator.t.Helper()
	m.asked++
	m.moderate("open")
	m.everywhere(fmt.Sprintf(`document.body.dataset.phase === "armed" && document.querySelector("#question").textContent === "Question %d"`, m.asked))
}

func (m *match) moderate(button string) {
	m.moderator.t.Helper()
	m.moderator.click("#" + button + "[aria-disabled=false]")
}

// right ends the question, for 4 points.
func (m *match) right() {
	m.moderator.t.Helper()
	m.moderate("right")
	m.everywhere(`document.body.dataset.phase === "waiting"`)
}

// press has one player press in some way, as the nth of the round. It counts
// when the finger or the key goes down, once, and nothing comes of it when that
// goes up again.
func (m *match) press(n, player int, how way) {
	s := m.players[player]
	s.t.Helper()
	sent := s.sent()
	how.down(s)
	m.everywhere(buzzes(n))
	s.waits(fmt.Sprintf(`%s > %d && document.querySelector("#answer").textContent.match(/^(You have the floor!|Late: place)/) !== null`, sentTo, sent))
	how.up(s)
	time.Sleep(settled)
	if now := s.sent(); now != sent+1 {
		s.t.Errorf("%s: a press by %s was sent %d times", s.name, how.name, now-sent)
	}
	m.presses++
}

// together has all players press at once, each by assistive technology, which
// gives a button nothing but a click.
func (m *match) together(players ...int) {
	m.moderator.t.Helper()
	failed := make([]error, len(players))
	var wg sync.WaitGroup
	for n, i := range players {
		wg.Go(func() {
			_, failed[n] = chromedp.Run(m.players[i].ctx, chromedp.Evaluate[string](`String(document.querySelector("#buzz").click())`))
		})
	}
	wg.Wait()
	for n, err := range failed {
		if err != nil {
			m.players[players[n]].fail(err)
		}
	}
	m.everywhere(buzzes(len(players)))
	m.presses += len(players)
}

func buzzes(n int) string {
	return fmt.Sprintf(`document.querySelectorAll("#buzzes li").length === %d`, n)
}

// settled is more than how long a page takes what comes for part of a press.
const settled = 400 * time.Millisecond

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
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(320, 740, chromedp.EmulateTouch)); err != nil {
			t.Fatal(err)
		}
		return &screen{t, name, ctx}
	}
	site := fmt.Sprintf("https://%s:%d", domain, p.SecurePort)
	long := strings.Repeat("W", 40) // the longest name, and no space to break it at

	m := &match{moderator: open("moderator"), spectator: open("spectator")}
	m.moderator.do(chromedp.Navigate(site + "/"))
	m.moderator.read(`document.querySelector("#create-room details").open = true`)
	m.moderator.do(chromedp.SendKeys(chromedp.CSS("#team-a"), long[:24]))
	m.moderator.click("#create")
	m.moderator.waits(`document.querySelector("#controls") !== null`)
	code := m.moderator.read(`document.body.dataset.room`)
	m.spectator.do(chromedp.Navigate(site+"/"), chromedp.SendKeys(chromedp.CSS("#name"), long+"\n"))
	m.spectator.waits(`document.querySelector("#presses li") !== null`)
	m.spectator.fits("on the first page")
	m.spectator.do(chromedp.Navigate(site + "/rooms/" + code))
	for i, name := range []string{"Ada", long, "Katherine", "Mary"} {
		s := open([]string{"Ada", "Grace", "Katherine", "Mary"}[i])
		s.do(chromedp.Navigate(site+"/"), chromedp.SendKeys(chromedp.CSS("#room"), strings.ToLower(code)+"\n"))
		s.waits(`document.querySelector("#join") !== null`)
		s.do(chromedp.SendKeys(chromedp.CSS("#name"), name))
		s.click([]string{"#team-a", "#team-b"}[i/2])
		s.click("#enter")
		s.waits(`document.querySelector("#buzz") !== null`)
		m.players = append(m.players, s)
		m.moderator.waits(fmt.Sprintf(`document.querySelectorAll(".players li").length === %d`, i+1))
		if i == 0 {
			m.moderator.focus(".remove")
		}
	}
	if is := m.moderator.read(`document.activeElement.getAttribute("aria-label")`); is != "Remove Ada" {
		t.Errorf("after others have joined, the focus is not on the button to remove Ada but on %s", is)
	}
	m.everywhere(`document.body.dataset.live === "true" && document.querySelectorAll(".players li").length === 4`)
	for _, s := range m.all() {
		s.fits("at the beginning")
		s.picture("begin")
	}

	m.open()
	m.press(1, 0, mouse)
	m.press(2, 2, touch)
	m.right() // A
	m.open()
	m.press(1, 3, space)
	m.press(2, 1, enter)
	m.right() // B
	m.open()
	m.together(0, 1, 2, 3)
	m.right() // whoever was first
	held(t, m)
	undone(t, m)
	late(t, m)
	deaf(t, m)

	// A new page, and then a new program, while players press.
	for n, edit := range [][3]string{
		{"share/templates/page.html", "<h1>Science Bowl</h1>", "<h1>Science Bowl, second half</h1>"},
		{"cmd/bowl/main.go", `"serving", "version"`, `"serves", "version"`},
	} {
		before := p.Get(t, "/version")
		p.Edit(t, edit[0], edit[1], edit[2])
		released := make(chan error, 1)
		go func() {
			out, err := p.Command(t.Context(), "up", "--json").CombinedOutput()
			if err != nil {
				err = fmt.Errorf("devbox up: %w\n%s", err, out)
			}
			released <- err
		}()
		for over := false; !over; {
			select {
			case err := <-released:
				if err != nil {
					t.Fatal(err)
				}
				over = true // and one more question after it
			default:
			}
			m.open()
			m.together(1, 2)
			m.right()
		}
		if now := p.Get(t, "/version"); now == before {
			t.Errorf("release %d changed nothing", n+1)
		}
	}
	t.Logf("%d questions were asked, %d presses counted", m.asked, m.presses)

	// The button that was pressed goes, and the focus with it to the one that comes.
	m.moderator.read(`window.confirm = () => true`)
	for _, step := range [][3]string{{"end", "over", "reopen"}, {"reopen", "waiting", "end"}, {"end", "over", "reopen"}} {
		m.moderate(step[0])
		m.everywhere(fmt.Sprintf(`document.body.dataset.phase === %q`, step[1]))
		if is := m.moderator.read(`document.activeElement.id`); is != step[2] {
			t.Errorf("after #%s the focus is on %q", step[0], is)
		}
	}
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
		s.fits("at the end")
		s.picture("end")
	}
	var a, b int
	if _, err := fmt.Sscanf(want, "%d:%d", &a, &b); err != nil || a+b != 4*m.asked {
		t.Errorf("the score is %s after %d questions", want, m.asked)
	}
	dark(m.spectator)

	stored(t, p, code, m.presses)
}

// held has a player hold a key while the buzzers are reset: it presses nothing
// in the round that comes, and neither does a key on something else.
func held(t *testing.T, m *match) {
	s := m.players[1]
	m.open()
	s.focus("body")
	s.key("keyDown", "Space", false)
	m.everywhere(buzzes(1))
	m.presses++
	m.moderate("rearm")
	m.everywhere(`document.body.dataset.phase === "armed" && ` + buzzes(0))
	before := s.sent()
	for range 3 {
		s.key("keyDown", "Space", true)
	}
	s.key("keyUp", "Space", false)
	s.focus("footer a")
	s.key("keyDown", "Space", false)
	s.key("keyUp", "Space", false)
	time.Sleep(settled)
	if now := s.sent(); now != before {
		t.Errorf("a key that was held, or was for something else, pressed %d times", now-before)
	}
	m.press(1, 1, space)
	m.right() // A
}

// undone has two judgements, of which a hasty moderator takes one back, and then
// the other. The player who had the floor has it again, and is told so.
func undone(t *testing.T, m *match) {
	first, second := m.players[0], m.players[2]
	says := func(s *screen, text string) {
		t.Helper()
		s.waits(fmt.Sprintf(`document.querySelector("#answer").textContent === %q`, text))
	}
	m.open()
	m.press(1, 0, mouse)
	m.moderate("wrong")
	m.everywhere(`document.body.dataset.phase === "armed" && ` + buzzes(0))
	says(first, "Your team has answered this question.")
	says(second, "Press!")
	m.press(1, 2, mouse)
	m.moderate("wrong")
	m.everywhere(`document.body.dataset.phase === "waiting"`)
	// The second click comes as soon as it has another judgement to undo.
	m.moderator.read(`(() => {
		const undo = document.querySelector("#undo"), { seq } = document.body.dataset;
		new MutationObserver((_, observer) => {
			if (document.body.dataset.seq === seq) return;
			observer.disconnect();
			undo.click();
		}).observe(document.body, { attributes: true });
		undo.click();
	})()`)
	m.everywhere(`document.body.dataset.phase === "answering"`)
	says(second, "You have the floor!")
	time.Sleep(settled)
	if team := m.moderator.read(`document.querySelector("#buzzes li").dataset.team`); team != "b" {
		t.Error("a double-click took two judgements back")
	}
	m.moderate("undo")
	m.everywhere(`document.querySelector("#buzzes li")?.dataset.team === "a"`)
	says(first, "You have the floor!")
	m.right() // A
}

// late has a press that is long on its way, so that the buzzers are reset
// meanwhile: the player is told to press, and not what became of the round before.
func late(t *testing.T, m *match) {
	s := m.players[3]
	m.open()
	before := s.sent()
	s.read(`(() => {
		const send = window.fetch;
		window.fetch = async (...what) => {
			window.fetch = send;
			while (document.querySelector("#answer").textContent !== "Press!") await new Promise((resolve) => setTimeout(resolve, 10));
			return send(...what);
		};
	})()`)
	s.mouse("mousePressed")
	s.waits(`document.querySelector("#answer").textContent === "Sent…"`)
	s.mouse("mouseReleased")
	m.moderate("rearm")
	s.waits(fmt.Sprintf("%s > %d", sentTo, before))
	time.Sleep(settled)
	if says := s.read(`document.querySelector("#answer").textContent`); says != "Press!" {
		t.Errorf("in the new round the player is told %q", says)
	}
	m.press(1, 3, mouse)
	m.right() // B
}

// deaf has a player without a stream, as on the way to one, press.
func deaf(t *testing.T, m *match) {
	s := m.players[2]
	s.do(protocol("Page.addScriptToEvaluateOnNewDocument", map[string]any{
		"source": `if (sessionStorage.getItem("deaf")) window.EventSource = class extends EventTarget {};`,
	}))
	m.open()
	s.read(`sessionStorage.setItem("deaf", "yes")`)
	s.do(chromedp.Reload())
	s.waits(`document.readyState === "complete" && document.querySelector("#buzz") !== null`)
	s.mouse("mousePressed")
	s.waits(`document.querySelector("#answer").textContent === "You have the floor!"`)
	s.mouse("mouseReleased")
	if live := s.read(`document.body.dataset.live`); live != "false" {
		t.Errorf("there was a stream: %s", live)
	}
	m.presses++
	s.read(`sessionStorage.removeItem("deaf")`)
	s.do(chromedp.Reload())
	m.everywhere(`document.body.dataset.live === "true" && ` + buzzes(1))
	m.right() // B
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
