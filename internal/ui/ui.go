// Package ui is how devbox talks to a person and to a script.
//
// The rules: results go to stdout and everything else to stderr, so a pipe
// sees results only. Lines are lower case without a full stop. An error is one
// line `error: …`, its cure a second line `hint: …` with something to type.
// On a terminal a running step shows its elapsed time in place; elsewhere each
// step is one plain line when it ends. With --json, stdout carries one JSON
// value a line and nothing else.
package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"devbox/internal/hint"

	"golang.org/x/term"
)

// UI writes to one pair of streams. Its methods may be called from any
// goroutine.
type UI struct {
	out, err io.Writer
	json     bool
	tty      bool

	// width asks for the terminal's columns: a line that wraps cannot be redrawn.
	width func() int

	mu     sync.Mutex
	live   *Step // the step whose line is being redrawn, if any
	asking int   // questions that are open: nothing is drawn over them
}

// Options choose how a UI speaks.
type Options struct {
	JSON bool // results are JSON lines
	TTY  bool // stderr is a terminal that understands carriage return and erase
}

// New returns a UI that writes results to out and all else to errw.
func New(out, errw io.Writer, o Options) *UI {
	return &UI{out: out, err: errw, json: o.JSON, tty: o.TTY && !o.JSON, width: func() int { return columns(errw) }}
}

// columns of the terminal that w is, or of an ordinary one.
func columns(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
			return n
		}
	}
	return 80
}

// IsTerminal tells whether f is a terminal that can redraw a line.
func IsTerminal(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// JSON tells whether results are to be JSON.
func (u *UI) JSON() bool { return u.json }

// TTY tells whether a person watches.
func (u *UI) TTY() bool { return u.tty }

// Result prints a line of result to stdout.
func (u *UI) Result(format string, args ...any) {
	u.write(u.out, fmt.Sprintf(format, args...)+"\n")
}

// Value prints v as one line of JSON to stdout. v is one of devbox's own
// types, so that it cannot be encoded is a defect and panics.
func (u *UI) Value(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("ui: encode %T: %v", v, err))
	}
	u.write(u.out, string(b)+"\n")
}

// Say prints a line to stderr.
func (u *UI) Say(format string, args ...any) {
	u.write(u.err, fmt.Sprintf(format, args...)+"\n")
}

// Error prints err and, where it has some, its cures.
func (u *UI) Error(err error) {
	text := "error: " + err.Error() + "\n"
	for _, cure := range hint.All(err) {
		text += "hint: " + cure + "\n"
	}
	u.write(u.err, text)
}

// write keeps lines whole: a step's live line is cleared first and drawn again after.
func (u *UI) write(w io.Writer, text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	live := u.live != nil && u.asking == 0
	if live {
		io.WriteString(u.err, "\r\x1b[K")
	}
	io.WriteString(w, text)
	if live {
		io.WriteString(u.err, u.live.line())
	}
}

// Ask makes room for a question on the terminal, until the returned function is
// called: the line of a running step is taken away and not drawn meanwhile.
func (u *UI) Ask() (answered func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.live != nil && u.asking == 0 {
		io.WriteString(u.err, "\r\x1b[K")
	}
	u.asking++
	return func() {
		u.mu.Lock()
		u.asking--
		u.mu.Unlock()
	}
}

// A Step is a piece of work that a person waits for.
type Step struct {
	ui    *UI
	name  string
	note  string
	start time.Time
	stop  chan struct{}
	idle  chan struct{} // closed when the redrawing goroutine has ended
}

// slow is how long a step runs before a plain log is told that it started, and
// still how often it is told what that is busy with.
const (
	slow  = 2 * time.Second
	still = 30 * time.Second
)

// Step starts a step. End it with Done or Fail.
func (u *UI) Step(format string, args ...any) *Step {
	s := &Step{ui: u, name: fmt.Sprintf(format, args...), start: time.Now(), stop: make(chan struct{}), idle: make(chan struct{})}
	go s.run()
	return s
}

// run redraws the line ten times a second on a terminal; on a plain log it
// says now and then what a slow step is busy with, so that a log never hangs
// silently.
func (s *Step) run() {
	defer close(s.idle)
	if !s.ui.tty {
		s.log(slow, still)
		return
	}
	s.ui.mu.Lock()
	s.ui.live = s
	s.ui.mu.Unlock()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		s.ui.mu.Lock()
		if s.ui.asking == 0 {
			io.WriteString(s.ui.err, "\r\x1b[K"+s.line())
		}
		s.ui.mu.Unlock()
		select {
		case <-tick.C:
		case <-s.stop:
			s.ui.mu.Lock()
			io.WriteString(s.ui.err, "\r\x1b[K")
			s.ui.live = nil
			s.ui.mu.Unlock()
			return
		}
	}
}

func (s *Step) log(first, every time.Duration) {
	select {
	case <-s.stop:
		return
	case <-time.After(first):
		s.ui.Say("… %s", s.name)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			s.ui.mu.Lock()
			text := s.text()
			s.ui.mu.Unlock()
			s.ui.Say("%s (%s)", text, Seconds(time.Since(s.start)))
		}
	}
}

func (s *Step) text() string {
	if s.note == "" {
		return "… " + s.name
	}
	return "… " + s.name + ": " + s.note
}

func (s *Step) line() string {
	text := s.text()
	took := " (" + Seconds(time.Since(s.start)) + ")"
	// The last column stays free: some terminals wrap when it is written to.
	return clip(text, max(s.ui.width()-len(took)-1, 1)) + took
}

// Note replaces what the step is busy with, for a person who watches.
func (s *Step) Note(format string, args ...any) {
	s.ui.mu.Lock()
	s.note = fmt.Sprintf(format, args...)
	s.ui.mu.Unlock()
}

// Done ends the step well; result, if not empty, says what came of it.
func (s *Step) Done(result string) { s.end("✓", result) }

// Fail ends the step badly; the error itself is printed by whoever gets it.
func (s *Step) Fail() { s.end("✗", "") }

// End is Done for a nil err and Fail otherwise; it returns err.
func (s *Step) End(err error, result string) error {
	if err != nil {
		s.Fail()
		return err
	}
	s.Done(result)
	return nil
}

func (s *Step) end(mark, result string) {
	close(s.stop)
	<-s.idle
	text := mark + " " + s.name
	if result != "" {
		text += ": " + result
	}
	s.ui.Say("%s (%s)", text, Seconds(time.Since(s.start)))
}

// Seconds formats a duration as people read it: "82ms", "1.4s", "2m05s".
func Seconds(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	default:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
}

// Bytes formats a size in bytes as people read it: "812 B", "4.2 kB", "52 MB".
func Bytes(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 10_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1_000_000:
		return fmt.Sprintf("%d kB", n/1000)
	case n < 10_000_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	default:
		return fmt.Sprintf("%d MB", n/1_000_000)
	}
}

func clip(s string, n int) string {
	r := []rune(strings.ReplaceAll(s, "\n", " "))
	if len(r) <= n {
		return string(r)
	}
	return string(r[:n-1]) + "…"
}

// Progress returns a function that notes what the step is busy with.
func (s *Step) Progress() func(string) {
	return func(what string) { s.Note("%s", what) }
}
