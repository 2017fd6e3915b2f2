package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"devbox/internal/hint"
)

// fakeNotifier is a kernel that a test controls.
type fakeNotifier struct {
	full   syscall.Errno // when there is no room; 0 is ENOSPC
	room   int           // watches that it has
	events chan event
	errs   chan error

	mu      sync.Mutex
	watched map[string]bool
	close   sync.Once
}

func newFake(room int) *fakeNotifier {
	return &fakeNotifier{room: room, events: make(chan event), errs: make(chan error), watched: make(map[string]bool)}
}

func (f *fakeNotifier) Add(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.watched[dir] && len(f.watched) == f.room {
		return cmp.Or(f.full, syscall.ENOSPC)
	}
	f.watched[dir] = true
	return nil
}

func (f *fakeNotifier) Remove(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watched, dir)
	return nil
}

func (f *fakeNotifier) Events() <-chan event { return f.events }
func (f *fakeNotifier) Errors() <-chan error { return f.errs }
func (f *fakeNotifier) Close() error {
	f.close.Do(func() { close(f.events) })
	return nil
}

func startFake(t *testing.T, root string, f *fakeNotifier) (*Watcher, error) {
	t.Helper()
	w, err := start(context.Background(), Options{Root: root}, f)
	if err == nil {
		t.Cleanup(func() { w.Close() })
	} else {
		f.Close()
	}
	return w, err
}

func TestOverflowRescans(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"a.go": "1", "gone/b.go": "1", "sub/c.go": "1"})
	f := newFake(100)
	w, err := startFake(t, root, f)
	must(t, err)
	for i, loss := range []error{errors.New("queue overflow"), errors.New("anything else")} {
		files(t, root, map[string]string{"a.go": fmt.Sprint("edit ", i), fmt.Sprintf("new%d/deep/d.go", i): "1"})
		f.errs <- loss
		wantChanges(t, w, "changed a.go", fmt.Sprintf("added new%d/deep/d.go", i))
		if !f.watched[filepath.Join(w.top, fmt.Sprintf("new%d/deep", i))] {
			t.Error("the rescan did not watch a new folder")
		}
	}
}

func TestOutOfWatches(t *testing.T) {
	root := t.TempDir()
	tree := map[string]string{"src/a/": "", "src/b/": "", "docs/": ""}
	for i := range 30 {
		tree[fmt.Sprintf("web/node_modules/p%d/lib/", i)] = ""
	}
	files(t, root, tree)
	_, err := startFake(t, root, newFake(10))
	if err == nil {
		t.Fatal("a tree without enough watches is watched")
	}
	// All 67 folders are counted, though only 10 could be watched.
	for _, want := range []string{"no inotify watches left", "are in use of", "needs 67", "web/node_modules (61), src (3), docs (1)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	if cure := hint.Of(err); !strings.Contains(cure, "watch.ignore") || !strings.Contains(cure, "sudo sysctl fs.inotify.max_user_watches=") {
		t.Errorf("the cure is %q", cure)
	}
}

// On macOS each watched file takes a descriptor.
func TestOutOfFiles(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"src/a.go": "1", "web/b.js": "1", "web/deep/c.js": "1"})
	f := newFake(3)
	f.full = syscall.EMFILE
	_, err := startFake(t, root, f)
	if !errors.Is(err, syscall.EMFILE) || !strings.Contains(err.Error(), "after 3 folders with 2 files, most of them in ") {
		t.Errorf("got %v", err)
	}
	if cure := hint.Of(err); !strings.Contains(cure, "watch.ignore") || !strings.Contains(cure, "kern.maxfilesperproc") {
		t.Errorf("the cure is %q", cure)
	}
}

func TestOutOfWatchesLater(t *testing.T) {
	root := t.TempDir()
	f := newFake(2)
	w, err := startFake(t, root, f)
	must(t, err)
	files(t, root, map[string]string{"one/two/three/": ""})
	f.events <- event{path: filepath.Join(w.top, "one")}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := w.Next(ctx); err == nil || !strings.Contains(err.Error(), "no inotify watches left") {
		t.Errorf("Next returned %v", err)
	}
}

// A folder that moves must lose its watch under the old name before it gets
// one under the new: to the kernel both are the same watch.
func TestMoveReleasesFirst(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"zz/sub/x.go": "x"})
	log := &loggingNotifier{fakeNotifier: newFake(100)}
	w, err := start(context.Background(), Options{Root: root}, log)
	must(t, err)
	defer w.Close()
	w.mu.Lock()
	log.calls = nil
	w.mu.Unlock()
	must(t, syscall.Rename(filepath.Join(root, "zz"), filepath.Join(root, "aa")))
	w.mu.Lock()
	_, _, err = w.tree.look(context.Background(), []string{"aa", "zz"}, false)
	w.mu.Unlock()
	must(t, err)
	if got, want := strings.Join(log.calls, " "), "-zz -zz/sub +aa +aa/sub"; got != want {
		t.Errorf("calls %q, want %q", got, want)
	}
}

type loggingNotifier struct {
	*fakeNotifier
	calls []string
	top   string
}

func (l *loggingNotifier) rel(dir string) string {
	if l.top == "" {
		l.top = dir
	}
	return strings.TrimPrefix(dir, l.top+"/")
}

func (l *loggingNotifier) Add(dir string) error {
	l.calls = append(l.calls, "+"+l.rel(dir))
	return l.fakeNotifier.Add(dir)
}

func (l *loggingNotifier) Remove(dir string) error {
	l.calls = append(l.calls, "-"+l.rel(dir))
	return l.fakeNotifier.Remove(dir)
}
