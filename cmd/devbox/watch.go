package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
	"devbox/internal/ui"

	"github.com/spf13/cobra"
)

type watchOptions struct {
	quiet bool
}

func newWatch(a *app) *cobra.Command {
	var o watchOptions
	c := &cobra.Command{
		Use:   "watch",
		Short: "build, ship and restart what changed, at every save",
		Long: `watch brings the machine up like devbox up, then follows the source: every save is
built, packed, shipped as a delta and activated, and only the units that it concerns
restart. A version that does not build, start or answer makes way for the previous one.

Keys: r builds now, p pauses and goes on, q quits. With --json every event is one line.`,
		RunE: func(c *cobra.Command, _ []string) error { return a.watch(c.Context(), o) },
	}
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "do not show what the app writes to its journal")
	return c
}

func (a *app) watch(ctx context.Context, o watchOptions) error {
	load := func() (*deploy.Project, error) {
		p, err := a.project()
		if err != nil {
			return nil, err
		}
		if err := p.CheckFiles(); err != nil {
			return nil, badInput{err}
		}
		return p, nil
	}
	p, err := load()
	if err != nil {
		return err
	}
	reload := func(ctx context.Context) (*deploy.Project, error) {
		p, err := load()
		if err != nil {
			return nil, err
		}
		h, err := p.Up(ctx, a.ui)
		if err != nil {
			return nil, err
		}
		h.Close()
		return p, nil
	}
	keys, restore := readKeys(ctx, a.stdin)
	defer restore()
	t := &transcript{app: a, quiet: o.quiet}
	for p != nil && err == nil {
		p, err = p.Watch(ctx, a.ui, deploy.WatchOptions{Keys: keys, Report: t.report, Reload: reload})
	}
	t.summary()
	return err
}

// transcript prints what a watch reports and keeps how long cycles took.
type transcript struct {
	app   *app
	quiet bool

	mu   sync.Mutex
	took []time.Duration // of the saves that were kept
	bad  int             // saves that were not
}

func (t *transcript) report(e deploy.WatchEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := e.Cycle; c != nil {
		if c.Error != "" {
			t.bad++
		} else if len(c.Trigger) > 0 {
			t.took = append(t.took, c.Took)
		}
	}
	switch {
	case t.quiet && e.Log != nil:
	case t.app.json:
		t.app.ui.Value(e)
	case e.Cycle != nil:
		t.app.ui.Result("%s", cycleLine(e.Cycle))
		if e.Cycle.Error != "" {
			t.app.ui.Say("error: %s", e.Cycle.Error)
			if e.Cycle.Hint != "" {
				t.app.ui.Say("hint: %s", e.Cycle.Hint)
			}
		}
	case e.Log != nil:
		t.app.ui.Result("%s", logLine(e.Log))
	default:
		t.app.ui.Say("%s", e.Note)
	}
}

func (t *transcript) summary() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.took)+t.bad == 0 {
		return
	}
	p50, p95 := ui.Percentile(t.took, 0.5), ui.Percentile(t.took, 0.95)
	if t.app.json {
		t.app.ui.Value(struct {
			Kept   int           `json:"kept"`
			Failed int           `json:"failed"`
			P50    time.Duration `json:"p50"`
			P95    time.Duration `json:"p95"`
		}{len(t.took), t.bad, p50, p95})
		return
	}
	line := fmt.Sprintf("%d saves kept, %d failed", len(t.took), t.bad)
	if len(t.took) > 0 {
		line += fmt.Sprintf("; from save to running: p50 %s, p95 %s", ui.Seconds(p50), ui.Seconds(p95))
	}
	t.app.ui.Say("%s", line)
}

// cycleLine is the one line of a cycle: outcome, what triggered it, which units
// restarted and why the others did not, where the time went.
func cycleLine(c *deploy.Cycle) string {
	var b strings.Builder
	mark := "✓"
	if c.Error != "" {
		mark = "✗"
	}
	fmt.Fprintf(&b, "%s %s %s", c.At.Format("15:04:05"), mark, ui.Seconds(c.Took))
	if c.Release != "" {
		fmt.Fprintf(&b, " %s", c.Release)
	}
	fmt.Fprintf(&b, "  %s: ", trigger(c.Trigger))
	switch c.Outcome {
	case protocol.Committed:
		fmt.Fprintf(&b, "%s", restarts(c))
	case protocol.Unchanged:
		b.WriteString("the image is the same, nothing restarted")
	case deploy.BuildFailed, deploy.BadImage, deploy.BadSettings:
		b.WriteString(c.Outcome + ", the running release serves on")
	case protocol.RolledBack:
		fmt.Fprintf(&b, "rolled back, %s serves on", c.Serving)
	default:
		b.WriteString(c.Outcome)
	}
	if planned := len(c.Restart)+len(c.Stay)+len(c.Remove) > 0; planned && c.Error != "" {
		fmt.Fprintf(&b, "; %s", restarts(c))
	}
	if w := ui.Waterfall(spans(c.Phases), 12); w != "" {
		fmt.Fprintf(&b, "  │ %s", w)
	}
	return b.String()
}

// trigger names the files that a cycle is for: none if it was for no change,
// an empty list if the change was taken back meanwhile.
func trigger(paths []string) string {
	const most = 3
	switch {
	case paths == nil:
		return "all"
	case len(paths) == 0:
		return "as it was before"
	case len(paths) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(paths[:most], ", "), len(paths)-most)
	default:
		return strings.Join(paths, ", ")
	}
}

func restarts(c *deploy.Cycle) string {
	var parts []string
	for _, x := range c.Restart {
		parts = append(parts, fmt.Sprintf("restarted %s (%s)", x.Unit, x.Why))
	}
	for _, x := range c.Remove {
		parts = append(parts, fmt.Sprintf("removed %s", x.Unit))
	}
	if len(parts) == 0 {
		parts = append(parts, "no unit had to restart")
	}
	for _, x := range c.Stay {
		parts = append(parts, fmt.Sprintf("%s stays (%s)", x.Unit, x.Why))
	}
	return strings.Join(parts, "; ")
}

// logLine marks a line with its unit and the start of its invocation's id, so
// that one can see where a restart lies between two lines.
func logLine(l *deploy.LogLine) string {
	return fmt.Sprintf("%s[%.4s] │ %s", strings.TrimSuffix(l.Unit, ".service"), l.Invocation, l.Message)
}
