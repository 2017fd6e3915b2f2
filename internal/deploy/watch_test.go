package deploy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"devbox/internal/sync/watch"
)

// following is a follower of a real folder, with a host that is only there.
func following(t *testing.T) (f *follower, dir string, keys chan Key, hangUp func()) {
	dir = t.TempDir()
	w, err := watch.New(t.Context(), watch.Options{Root: dir, Quiet: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	done := make(chan struct{})
	keys = make(chan Key)
	f = &follower{watcher: w, host: &Host{done: done}, opts: WatchOptions{Keys: keys, Report: func(WatchEvent) {}}}
	return f, dir, keys, func() { close(done) }
}

// save writes a file whole or not at all, however busy this computer is.
func save(t *testing.T, dir, name, text string) {
	t.Helper()
	fresh := filepath.Join(t.TempDir(), "fresh")
	if err := errors.Join(os.WriteFile(fresh, []byte(text), 0o644), os.Rename(fresh, filepath.Join(dir, name))); err != nil {
		t.Fatal(err)
	}
}

type nextAnswer struct {
	batch *watch.Batch
	err   error
}

// nextOf calls next in the background.
func nextOf(ctx context.Context, f *follower) <-chan nextAnswer {
	got := make(chan nextAnswer, 1)
	go func() {
		b, err := f.next(ctx)
		got <- nextAnswer{b, err}
	}()
	return got
}

func within(t *testing.T, got <-chan nextAnswer) nextAnswer {
	t.Helper()
	select {
	case a := <-got:
		return a
	case <-time.After(10 * time.Second):
		t.Fatal("next did not return")
		panic("unreachable")
	}
}

func TestNextTellsOfASave(t *testing.T) {
	f, dir, _, _ := following(t)
	got := nextOf(t.Context(), f)
	save(t, dir, "a.go", "1")
	a := within(t, got)
	if a.err != nil || a.batch == nil || !slices.Equal(names(a.batch.Changes), []string{"a.go"}) {
		t.Errorf("got %+v", a)
	}
}

func TestNextMindsKeysAndTheConnection(t *testing.T) {
	stop := errors.New("stop")
	for _, c := range []struct {
		name string
		do   func(keys chan Key, hangUp func(), cancel context.CancelCauseFunc)
		want error
	}{
		{"r builds without a change", func(keys chan Key, _ func(), _ context.CancelCauseFunc) { keys <- KeyRebuild }, nil},
		{"r builds while paused", func(keys chan Key, _ func(), _ context.CancelCauseFunc) { keys <- KeyPause; keys <- KeyRebuild }, nil},
		{"q quits", func(keys chan Key, _ func(), _ context.CancelCauseFunc) { keys <- KeyQuit }, errQuit},
		{"a lost connection is for run to see", func(_ chan Key, hangUp func(), _ context.CancelCauseFunc) { hangUp() }, nil},
		{"the end of ctx", func(_ chan Key, _ func(), cancel context.CancelCauseFunc) { cancel(stop) }, stop},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, _, keys, hangUp := following(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			got := nextOf(ctx, f)
			c.do(keys, hangUp, cancel)
			if a := within(t, got); !errors.Is(a.err, c.want) || a.err == nil && !a.batch.Asked {
				t.Errorf("got %+v, want %v", a, c.want)
			}
		})
	}
}

func TestASaveWhilePausedWaitsForTheKey(t *testing.T) {
	for _, c := range []struct {
		name  string
		press Key
		err   error
		still bool // paused after that
	}{
		{"p goes on", KeyPause, nil, false},
		{"r builds it and stays paused", KeyRebuild, nil, true},
		{"q quits", KeyQuit, errQuit, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, dir, keys, _ := following(t)
			got := nextOf(t.Context(), f)
			keys <- KeyPause
			save(t, dir, "a.go", "1")
			time.Sleep(100 * time.Millisecond)
			save(t, dir, "b.go", "1") // supersedes what is held back
			select {
			case a := <-got:
				t.Fatalf("paused, but next returned %+v", a)
			case <-time.After(200 * time.Millisecond):
			}
			keys <- c.press
			a := within(t, got)
			if !errors.Is(a.err, c.err) || f.paused != c.still {
				t.Fatalf("got %+v, paused %t", a, f.paused)
			}
			if c.err == nil && (a.batch == nil || !slices.Equal(names(a.batch.Changes), []string{"a.go", "b.go"})) {
				t.Errorf("got %+v, want both files", a.batch)
			}
		})
	}
}

func TestWhatAKeyInterruptedIsToldAgain(t *testing.T) {
	f, dir, keys, _ := following(t)
	got := nextOf(t.Context(), f)
	keys <- KeyRebuild
	within(t, got)
	save(t, dir, "a.go", "1")
	if a := within(t, nextOf(t.Context(), f)); a.err != nil || a.batch == nil || !slices.Equal(names(a.batch.Changes), []string{"a.go"}) {
		t.Errorf("got %+v", a)
	}
}
