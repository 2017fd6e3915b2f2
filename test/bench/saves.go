package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
)

// kind is a kind of save.
type kind struct {
	Name   string
	File   string // of the app, relative
	Reload bool   // a unit file changes
	Target time.Duration
	change func(text string, n int) string
}

// kinds are the saves that are measured. Each changes what the app's first
// source has, so that round n leaves nothing of round n-1.
var kinds = []kind{
	{Name: "template", File: "share/templates/page.html", Target: 400 * time.Millisecond, change: markPage},
	{Name: "code", File: "internal/web/web.go", Target: 400 * time.Millisecond, change: addCode},
	{Name: "unit file", File: "deployment/portable/usr/lib/systemd/system/bowl.service", Reload: true, Target: 700 * time.Millisecond,
		change: func(text string, n int) string {
			return strings.Replace(text, "\nDescription=", fmt.Sprintf("\nDescription=(edit %d) ", n), 1)
		}},
}

// mark is what markPage puts on the page.
func mark(n int) string { return fmt.Sprintf(`<meta name="edit" content="%d">`, n) }

func markPage(text string, n int) string {
	return strings.Replace(text, "<title>", mark(n)+"<title>", 1)
}

// addCode adds n calls to a function in the middle of the program, so that all
// code behind it moves, as it does after a real edit.
func addCode(text string, n int) string {
	var calls strings.Builder
	for i := range n + 1 {
		fmt.Fprintf(&calls, "\t\to.Log.Info(\"edit %d\")\n", i)
	}
	return strings.Replace(text, "\tmux := http.NewServeMux()\n", "\tif o.Log == nil {\n"+calls.String()+"\t}\n\tmux := http.NewServeMux()\n", 1)
}

// saver writes the edits of one kind into one copy of the app.
type saver struct {
	kind
	path, original string
}

func (k kind) in(dir string) (*saver, error) {
	s := &saver{kind: k, path: filepath.Join(dir, k.File)}
	data, err := os.ReadFile(s.path)
	if err != nil {
		return nil, err
	}
	if s.original = string(data); k.change(s.original, 1) == s.original {
		return nil, fmt.Errorf("%s is not as the benchmark knows it", k.File)
	}
	return s, nil
}

// save writes edit n and says when.
func (s *saver) save(n int) (time.Time, error) {
	text := []byte(s.change(s.original, n))
	at := time.Now()
	return at, os.WriteFile(s.path, text, 0o644)
}

// saved is what became of all saves of one kind.
type saved struct {
	kind
	Total  samples // from the save to the answer of the new version
	Build  samples // of that, the user's build command
	Beyond samples // the rest
	Wire   samples // bytes sent, as numbers
	Phases []phase // beyond the build, in the order they ran
	Other  samples // of Beyond, what no phase before the answer has
	Floor  samples // systemd by hand, on the same two images
}

type phase struct {
	Name string
	Took samples
}

// settleTime is between two measurements: the host prepares the next image
// then, and a person does not save faster either.
const settleTime = 500 * time.Millisecond

// measureSaves does one save of each kind a round, and after each what systemd
// takes for the same by hand, so that noise of the computer hits both.
func (b *bench) measureSaves(ctx context.Context, r *report) error {
	w, err := b.watch(ctx, b.project)
	if err != nil {
		return err
	}
	defer w.stop()
	c, err := w.cycle(ctx)
	if err != nil {
		return err
	}
	b.version = c.Version
	savers := make([]*saver, len(kinds))
	for i, k := range kinds {
		if savers[i], err = k.in(b.project); err != nil {
			return err
		}
		r.Saves = append(r.Saves, &saved{kind: k})
	}
	for n := range b.rounds + 1 {
		for i, s := range savers {
			into := r.Saves[i]
			if n == 0 {
				into = &saved{kind: s.kind} // the first of each warms caches up
			}
			before := b.version
			if err := b.measureSave(ctx, w, s, n, into); err != nil {
				return fmt.Errorf("round %d, %s: %w", n, s.Name, err)
			}
			if err := pause(ctx); err != nil {
				return err
			}
			if err := b.measureFloor(ctx, into, before); err != nil {
				return fmt.Errorf("round %d, %s by hand: %w", n, s.Name, err)
			}
			if err := pause(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func pause(ctx context.Context) error { return wait(ctx, settleTime) }

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (b *bench) measureSave(ctx context.Context, w *watching, s *saver, n int, into *saved) error {
	begin, err := s.save(n)
	if err != nil {
		return err
	}
	at, version, err := b.untilVersion(ctx, b.version)
	if err != nil {
		return err
	}
	c, err := w.cycle(ctx)
	if err != nil {
		return err
	}
	if version != c.Version {
		return fmt.Errorf("version %s answers, devbox delivered %s", version, c.Version)
	}
	reloaded := slices.ContainsFunc(c.Phases, func(p protocol.Phase) bool { return p.Name == "reload" })
	if reloaded != s.Reload {
		return fmt.Errorf("unit files reloaded: %t, expected %t", reloaded, s.Reload)
	}
	b.version = version
	into.add(at.Sub(begin), c)
	return nil
}

// after are the phases that end when the new version answers already.
var after = []string{"health", "commit"}

func (s *saved) add(total time.Duration, c *deploy.Cycle) {
	rest := total
	for _, p := range c.Phases {
		if p.Name == "build" {
			s.Build.add(p.Took)
			s.Total.add(total)
			s.Beyond.add(total - p.Took)
		} else {
			s.phase(p.Name).add(p.Took)
		}
		if !slices.Contains(after, p.Name) && p.Name != "receive" {
			rest -= p.Took // receive is on the host and within ship
		}
	}
	s.Other.add(rest)
	s.Wire.add(time.Duration(c.Wire))
}

func (s *saved) phase(name string) *samples {
	for i := range s.Phases {
		if s.Phases[i].Name == name {
			return &s.Phases[i].Took
		}
	}
	s.Phases = append(s.Phases, phase{Name: name})
	return &s.Phases[len(s.Phases)-1].Took
}
