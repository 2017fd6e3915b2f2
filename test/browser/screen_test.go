package browser

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

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

// sentTo counts the presses that a page has sent since it was loaded.
const sentTo = `performance.getEntriesByType("resource").filter((e) => e.name.endsWith("/press")).length`

func (s *screen) sent() int {
	s.t.Helper()
	n, err := strconv.Atoi(s.read(sentTo))
	if err != nil {
		s.fail(err)
	}
	return n
}

// way is how a person presses.
type way struct {
	name     string
	down, up func(*screen)
}

var (
	mouse = way{"mouse", func(s *screen) { s.mouse("mousePressed") }, func(s *screen) { s.mouse("mouseReleased") }}
	touch = way{"touch", func(s *screen) { s.touch("touchStart") }, func(s *screen) { s.touch("touchEnd") }}
	// Where nothing has the focus, and where the button has it.
	space = way{"space bar", func(s *screen) { s.focus("body"); s.key("keyDown", "Space", false) }, func(s *screen) { s.key("keyUp", "Space", false) }}
	enter = way{"Enter", func(s *screen) { s.focus("#buzz"); s.key("keyDown", "Enter", false) }, func(s *screen) { s.key("keyUp", "Enter", false) }}
)

// protocol is a command of the DevTools protocol that chromedp has no action for.
func protocol(method string, params map[string]any) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error { return t.Call(ctx, method, params, nil) })
}

// middle is where the player's button is.
func (s *screen) middle() (x, y float64) {
	s.t.Helper()
	at := s.read(`(() => {
		const e = document.querySelector("#buzz");
		e.scrollIntoView({ block: "center" });
		const b = e.getBoundingClientRect();
		return (b.x + b.width / 2) + " " + (b.y + b.height / 2);
	})()`)
	if _, err := fmt.Sscan(at, &x, &y); err != nil {
		s.fail(fmt.Errorf("%q: %w", at, err))
	}
	return x, y
}

func (s *screen) mouse(what string) {
	s.t.Helper()
	x, y := s.middle()
	s.do(protocol("Input.dispatchMouseEvent", map[string]any{"type": what, "x": x, "y": y, "button": "left", "clickCount": 1}))
}

func (s *screen) touch(what string) {
	s.t.Helper()
	points := []map[string]any{}
	if what == "touchStart" {
		x, y := s.middle()
		points = append(points, map[string]any{"x": x, "y": y})
	}
	s.do(protocol("Input.dispatchTouchEvent", map[string]any{"type": what, "touchPoints": points}))
}

func (s *screen) key(what, code string, again bool) {
	s.t.Helper()
	key := map[string]any{"type": what, "code": code, "autoRepeat": again}
	switch code {
	case "Space":
		key["key"], key["text"], key["windowsVirtualKeyCode"] = " ", " ", 32
	case "Enter":
		key["key"], key["text"], key["windowsVirtualKeyCode"] = "Enter", "\r", 13
	}
	if what == "keyUp" {
		delete(key, "text")
	}
	s.do(protocol("Input.dispatchKeyEvent", key))
}

func (s *screen) focus(selector string) {
	s.t.Helper()
	s.read(fmt.Sprintf(`(document.activeElement.blur(), document.querySelector(%q).focus())`, selector))
}

// fits checks that nobody has to scroll sideways.
func (s *screen) fits(when string) {
	s.t.Helper()
	if wide := s.read(`document.documentElement.scrollWidth > window.innerWidth`); wide != "false" {
		s.t.Errorf("%s has to scroll sideways %s", s.name, when)
	}
}

// dark is one look at a screen whose person likes it dark.
func dark(s *screen) {
	s.t.Helper()
	s.do(protocol("Emulation.setEmulatedMedia", map[string]any{
		"features": []map[string]any{{"name": "prefers-color-scheme", "value": "dark"}},
	}))
	light := func(of string) (sum int) {
		s.t.Helper()
		var r, g, b int
		color := s.read(`getComputedStyle(document.body).` + of)
		if _, err := fmt.Sscanf(color, "rgb(%d, %d, %d)", &r, &g, &b); err != nil {
			s.fail(fmt.Errorf("%s: %w", color, err))
		}
		return r + g + b
	}
	if paper, ink := light("backgroundColor"), light("color"); paper > 3*64 || ink < 3*192 {
		s.t.Errorf("in the dark, the paper has %d of 765 and the ink %d", paper, ink)
	}
	s.picture("dark")
}
