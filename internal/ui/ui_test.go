package ui

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"devbox/internal/hint"
)

func TestErrorShowsTheCureOnALineOfItsOwn(t *testing.T) {
	var out, errw bytes.Buffer
	u := New(&out, &errw, Options{})
	u.Error(hint.Wrap(errors.New("open devbox.yaml: no such file"), "run `devbox init`"))
	if got, want := errw.String(), "error: open devbox.yaml: no such file\nhint: run `devbox init`\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if out.Len() != 0 {
		t.Errorf("stdout got %q", out.String())
	}
}

func TestErrorShowsEachCureOfJoinedErrorsOnce(t *testing.T) {
	var errw bytes.Buffer
	u := New(&bytes.Buffer{}, &errw, Options{})
	cure := "run `make build`"
	u.Error(errors.Join(hint.Errorf(cure, "no amd64"), hint.Errorf(cure, "no arm64"), hint.Errorf("add a port", "no port")))
	want := "error: no amd64\nno arm64\nno port\nhint: run `make build`\nhint: add a port\n"
	if got := errw.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestResultsAndProgressDoNotMix(t *testing.T) {
	var out, errw bytes.Buffer
	u := New(&out, &errw, Options{JSON: true, TTY: true})
	s := u.Step("build")
	u.Value(map[string]int{"n": 1})
	s.Done("12 MB")
	if got := out.String(); got != "{\"n\":1}\n" {
		t.Errorf("stdout %q", got)
	}
	if got := errw.String(); !strings.HasPrefix(got, "✓ build: 12 MB (") || strings.Contains(got, "\x1b") {
		t.Errorf("stderr %q", got)
	}
}

func TestLiveLineIsClearedAroundOtherLines(t *testing.T) {
	var errw bytes.Buffer
	u := New(&bytes.Buffer{}, &errw, Options{TTY: true})
	s := u.Step("boot")
	time.Sleep(20 * time.Millisecond)
	u.Say("hello")
	s.Fail()
	if !strings.Contains(errw.String(), "\r\x1b[Khello\n… boot") {
		t.Errorf("stderr %q", errw.String())
	}
	if !strings.Contains(errw.String(), "✗ boot (") {
		t.Errorf("stderr %q", errw.String())
	}
}

// A log that is no terminal is told what a long step is at.
func TestALogHearsOfALongStep(t *testing.T) {
	var errw bytes.Buffer
	s := &Step{ui: New(&bytes.Buffer{}, &errw, Options{}), name: "build", start: time.Now(), stop: make(chan struct{})}
	s.Note("litestream")
	time.AfterFunc(60*time.Millisecond, func() { close(s.stop) })
	s.log(time.Millisecond, 20*time.Millisecond)
	first, rest, _ := strings.Cut(errw.String(), "\n")
	if first != "… build" || !strings.HasPrefix(rest, "… build: litestream (") {
		t.Errorf("stderr %q", errw.String())
	}
}

// A question stays on the terminal until it is answered.
func TestNothingIsDrawnOverAQuestion(t *testing.T) {
	var errw bytes.Buffer
	u := New(&bytes.Buffer{}, &errw, Options{TTY: true})
	s := u.Step("boot")
	time.Sleep(20 * time.Millisecond)
	answered := u.Ask()
	u.mu.Lock()
	asked := errw.Len()
	u.mu.Unlock()
	time.Sleep(250 * time.Millisecond) // it would be drawn twice
	u.mu.Lock()
	drawn := errw.String()[asked:]
	u.mu.Unlock()
	if drawn != "" {
		t.Errorf("over the question: %q", drawn)
	}
	answered()
	time.Sleep(250 * time.Millisecond)
	s.Done("")
	if after := errw.String()[asked:]; !strings.Contains(after, "… boot") {
		t.Errorf("after the answer: %q", after)
	}
}

// One that wraps is not cleared by the next: the terminal would fill with it.
func TestLiveLineFitsTheTerminal(t *testing.T) {
	var errw bytes.Buffer
	u := New(&bytes.Buffer{}, &errw, Options{TTY: true})
	u.width = func() int { return 40 }
	s := u.Step("boot the machine")
	s.Note("slowly: no KVM (open /dev/kvm: permission denied), the processor is emulated")
	time.Sleep(250 * time.Millisecond)
	s.Fail()
	lines := strings.Split(errw.String(), "\r\x1b[K")
	noted := 0
	for _, l := range lines[:len(lines)-1] { // the last one is the end, which may wrap
		if n := utf8.RuneCountInString(l); n >= 40 {
			t.Errorf("%d columns: %q", n, l)
		}
		if strings.HasPrefix(l, "… boot the machine: slowly") && strings.HasSuffix(l, "ms)") {
			noted++
		}
	}
	if noted == 0 {
		t.Errorf("drew %q", lines)
	}
}

func TestSecondsAndBytes(t *testing.T) {
	for d, want := range map[time.Duration]string{82 * time.Millisecond: "82ms", 1400 * time.Millisecond: "1.4s", 125 * time.Second: "2m05s"} {
		if got := Seconds(d); got != want {
			t.Errorf("Seconds(%v) = %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{812: "812 B", 4200: "4.2 kB", 52_000_000: "52 MB", 990_000: "990 kB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestPercentile(t *testing.T) {
	ms := func(n ...int) (d []time.Duration) {
		for _, x := range n {
			d = append(d, time.Duration(x)*time.Millisecond)
		}
		return d
	}
	for _, c := range []struct {
		in   []time.Duration
		p    float64
		want time.Duration
	}{
		{nil, 0.5, 0},
		{ms(7), 0.95, 7 * time.Millisecond},
		{ms(4, 1, 3, 2), 0.5, 2 * time.Millisecond},
		{ms(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), 0.95, 10 * time.Millisecond},
	} {
		if got := Percentile(c.in, c.p); got != c.want {
			t.Errorf("Percentile(%v, %v) = %v, want %v", c.in, c.p, got, c.want)
		}
	}
}

func TestWaterfallLeavesOutNothingBigAndShowsNothingTiny(t *testing.T) {
	got := Waterfall([]Span{{"build", 300 * time.Millisecond}, {"pack", 100 * time.Millisecond}, {"plan", 10 * time.Microsecond}}, 8)
	if want := "build ▆▆▆▆▆▆ 300ms · pack ▆▆ 100ms"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
