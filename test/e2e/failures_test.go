package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
	"devbox/test/harness"
)

// failing is an edit whose version cannot be kept.
type failing struct {
	what, file, old, new string

	outcome string
	unit    string // that the failure names
	cause   string // part of the failure's text
	log     string // what the unit wrote itself
	tried   bool   // whether visitors may meet the new version before it is judged
}

var failures = []failing{
	{
		what: "does not compile", file: code, old: "func main() {", new: "func main() {\n\tnosuchthing()",
		outcome: deploy.BuildFailed, cause: "nosuchthing",
	},
	{
		what: "exits at once", file: code, old: "	sockets, err := systemd.Inherit()", new: `	if o.version != "" {
		return errors.New("the reactor is cold")
	}
	sockets, err := systemd.Inherit()`,
		outcome: protocol.RolledBack, unit: "bowl.service", cause: "exited with status 1", log: "the reactor is cold",
	},
	{
		what: "hangs before it is ready", file: code, old: "	sockets, err := systemd.Inherit()", new: `	log.Info("waiting for Godot")
	time.Sleep(time.Hour)
	sockets, err := systemd.Inherit()`,
		outcome: protocol.RolledBack, unit: "bowl.service", cause: "not ready within 4s", log: "waiting for Godot",
	},
	{
		what: "fails its health check", file: "internal/web/web.go", old: "	if err := h.Check(ctx); err != nil {", new: `	if err := errors.Join(h.Check(ctx), errors.New("a headache")); err != nil {`,
		outcome: protocol.RolledBack, unit: "bowl.service", cause: "answered 503", log: "a headache", tried: true,
	},
}

// testFailures saves what cannot work, while visitors hammer the page.
func testFailures(t *testing.T, p *harness.Project) {
	p.Edit(t, "devbox.yaml", "deadline: 10s", "deadline: 4s")
	w := p.Watch(t)
	serves := w.First.Version
	for _, f := range failures {
		t.Run(f.what, func(t *testing.T) {
			before := p.Status(t)
			visitors := p.Visitors(t)
			undo := p.Undo(t, f.file)
			t.Cleanup(undo) // in any case: what follows needs a version that works
			p.Edit(t, f.file, f.old, f.new)
			c := w.Next(t, f.file)
			f.check(t, c, before.Host.Current.ID)
			p.Answers(t, serves)
			if f.tried {
				visitors.Leave(t, []string{serves}, c.Version)
			} else {
				visitors.Leave(t, []string{serves})
			}
			if s := p.Status(t); s.Code != 0 || s.Host.Current.ID != before.Host.Current.ID {
				t.Errorf("status exits with %d, %s runs, not %s", s.Code, s.Serving(), before.Serving())
			}
			undo()
			p.Write(t, page, p.Read(t, page)+fmt.Sprintf("<!-- after what %s -->\n", f.what))
			c = next(t, w, protocol.Committed)
			serves = c.Version
			p.Answers(t, serves)
		})
	}
	t.Run("six in a row", func(t *testing.T) { serves = testSixFailures(t, p, w) })
	if code := w.Stop(t); code != 0 {
		t.Errorf("watch exits with %d on Ctrl-C\n%s", code, w.Said())
	}
	t.Run("in up", func(t *testing.T) { testFailingUp(t, p, serves) })
}

// next waits for a cycle of some outcome: two saved files may make one cycle
// or two, the first of them of no change.
func next(t *testing.T, w *harness.Watch, outcome string) deploy.Cycle {
	t.Helper()
	for {
		c := w.Next(t, "")
		if c.Outcome == outcome {
			return c
		}
		if c.Error != "" {
			t.Fatalf("%v: %s %s", c.Trigger, c.Outcome, c.Error)
		}
	}
}

func (f failing) check(t *testing.T, c deploy.Cycle, serving string) {
	t.Helper()
	if c.Outcome != f.outcome {
		t.Fatalf("the outcome is %s, not %s: %s", c.Outcome, f.outcome, c.Error)
	}
	if !strings.Contains(c.Error, f.cause) || !strings.Contains(c.Error, f.log) {
		t.Errorf("the error does not name %q and %q:\n%s", f.cause, f.log, c.Error)
	}
	if f.unit == "" {
		return
	}
	if c.Serving != serving {
		t.Errorf("it says that %s serves, not %s", c.Serving, serving)
	}
	if c.Failure == nil || c.Failure.Unit != f.unit || !strings.Contains(strings.Join(c.Failure.Log, "\n"), f.log) {
		t.Errorf("the failure is %+v, not one of %s with its log", c.Failure, f.unit)
	}
	t.Logf("%s: %s", c.Took.Round(time.Millisecond), c.Failure.Cause)
}

// testSixFailures takes away what keeps the example's unit from being locked:
// with systemd's own limit, starts that failed must not count against the
// version that comes back.
func testSixFailures(t *testing.T, p *harness.Project, w *harness.Watch) string {
	unit := units + "bowl.service"
	limited := p.Undo(t, unit)
	p.Edit(t, unit, "StartLimitIntervalSec=0", "StartLimitIntervalSec=10min\nStartLimitBurst=5")
	serves := w.Next(t, unit).Version
	if got := p.Inside(t, "systemctl show --value --property=StartLimitBurst bowl.service"); got != "5" {
		t.Fatalf("the unit has StartLimitBurst=%s", got)
	}
	visitors := p.Visitors(t)
	undo := p.Undo(t, code)
	t.Cleanup(undo)
	bad := failures[1]
	p.Edit(t, code, bad.old, bad.new)
	for n := range 6 {
		if n > 0 {
			p.Write(t, code, p.Read(t, code)+fmt.Sprintf("\nvar _ = %q\n\nfunc init() { println(%d) }\n", "again", n))
		}
		bad.check(t, w.Next(t, code), p.Status(t).Host.Current.ID)
	}
	visitors.Leave(t, []string{serves})
	p.Answers(t, serves)
	undo()
	limited()
	next(t, w, protocol.Committed)
	p.Write(t, page, p.Read(t, page)+"<!-- after six -->\n")
	serves = next(t, w, protocol.Committed).Version
	p.Answers(t, serves)
	return serves
}

func testFailingUp(t *testing.T, p *harness.Project, serves string) {
	before := p.Status(t)
	for _, f := range []failing{failures[0], failures[1]} {
		undo := p.Undo(t, f.file)
		t.Cleanup(undo)
		p.Edit(t, f.file, f.old, f.new)
		r := p.Run(t, "up")
		want := 3
		if f.outcome == deploy.BuildFailed {
			want = 1
		}
		if r.Code != want || !strings.Contains(r.Stderr, f.cause) || !strings.Contains(r.Stderr, f.log) {
			t.Errorf("%s: want exit %d, %q and %q of: %s\n%s", f.what, want, f.cause, f.log, r, p.Inside(t, "journalctl --no-pager -o short-precise -n 80"))
		}
		r = p.Run(t, "up", "--json")
		if c := r.Cycle(t); r.Code != want || c.Outcome != f.outcome || !strings.Contains(c.Error, f.cause) {
			t.Errorf("%s, with --json: want exit %d, %s and %q of: %s", f.what, want, f.outcome, f.cause, r)
		}
		p.Answers(t, serves)
		undo()
	}
	p.Must(t, "up")
	if s := p.Status(t); s.Code != 0 || s.Host.Current.ID != before.Host.Current.ID {
		t.Errorf("%s runs, not %s", s.Serving(), before.Serving())
	}
}
