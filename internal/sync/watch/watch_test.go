package watch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen, on a loaded machine.
const patience = 20 * time.Second

// files makes a tree: path -> content; a path that ends in a slash is a folder.
func files(t testing.TB, root string, content map[string]string) {
	t.Helper()
	for name, text := range content {
		p := filepath.Join(root, name)
		dir := filepath.Dir(p)
		if strings.HasSuffix(name, "/") {
			dir = p
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if dir != p {
			write(t, p, text)
		}
	}
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWatcher(t testing.TB, opts Options) *Watcher {
	t.Helper()
	w, err := New(context.Background(), opts)
	must(t, err)
	t.Cleanup(func() { w.Close() })
	return w
}

func next(t testing.TB, w *Watcher) *Batch {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b, err := w.Next(ctx)
	must(t, err)
	return b
}

// settled returns the next batch that settles, committed.
func settled(t testing.TB, w *Watcher) *Batch {
	t.Helper()
	for {
		b := next(t, w)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := b.Settle(ctx)
		cancel()
		if errors.Is(err, ErrSuperseded) {
			continue
		}
		must(t, err)
		b.Commit()
		return b
	}
}

func list(b *Batch) string {
	var s []string
	for _, c := range b.Changes {
		s = append(s, fmt.Sprintf("%s %s", c.Edit, c.Path))
	}
	return strings.Join(s, ", ")
}

func wantChanges(t testing.TB, w *Watcher, want ...string) {
	t.Helper()
	slices.Sort(want)
	b := settled(t, w)
	var got []string
	for _, c := range b.Changes {
		got = append(got, fmt.Sprintf("%s %s", c.Edit, c.Path))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("changes %q, want %q", got, want)
	}
}

// wantQuiet checks that nothing is reported.
func wantQuiet(t testing.TB, w *Watcher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
	defer cancel()
	if b, err := w.Next(ctx); err == nil {
		t.Fatalf("unexpected changes: %s", list(b))
	}
}

func TestFileChanges(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"main.go": "a", "sub/x.go": "x", "old/y.go": "y"})
	w := newWatcher(t, Options{Root: root})

	write(t, filepath.Join(root, "main.go"), "b")
	wantChanges(t, w, "changed main.go")

	must(t, os.Remove(filepath.Join(root, "sub/x.go")))
	wantChanges(t, w, "removed sub/x.go")

	files(t, root, map[string]string{"a/b/c/one.go": "1", "a/b/two.go": "2"})
	wantChanges(t, w, "added a/b/c/one.go", "added a/b/two.go")

	must(t, os.Rename(filepath.Join(root, "old"), filepath.Join(root, "new")))
	wantChanges(t, w, "removed old/y.go", "added new/y.go")
	write(t, filepath.Join(root, "new/y.go"), "moved")
	wantChanges(t, w, "changed new/y.go")

	must(t, os.RemoveAll(filepath.Join(root, "a")))
	wantChanges(t, w, "removed a/b/c/one.go", "removed a/b/two.go")
}
