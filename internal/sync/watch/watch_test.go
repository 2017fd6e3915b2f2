package watch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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

// wantChanges waits until exactly want has changed since the last commit, and
// commits that. On a loaded machine it may come in several batches.
func wantChanges(t testing.TB, w *Watcher, want ...string) {
	t.Helper()
	slices.Sort(want)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var got []string
	for {
		b, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("%v; changes so far %q, want %q", err, got, want)
		}
		if got = edits(b); slices.Equal(got, want) && b.Settle(ctx) == nil {
			b.Commit()
			return
		}
	}
}

func edits(b *Batch) []string {
	var s []string
	for _, c := range b.Changes {
		s = append(s, fmt.Sprintf("%s %s", c.Edit, c.Path))
	}
	slices.Sort(s)
	return s
}

// wantQuiet checks that nothing is reported.
func wantQuiet(t testing.TB, w *Watcher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
	defer cancel()
	if b, err := w.Next(ctx); err == nil {
		t.Fatalf("unexpected changes: %q", edits(b))
	}
}

func TestChanges(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"main.go": "a", "sub/x.go": "x", "old/y.go": "y", "old/deep/z.go": "z"})
	w := newWatcher(t, Options{Root: root})
	at := func(name string) string { return filepath.Join(root, name) }

	write(t, at("main.go"), "b")
	wantChanges(t, w, "changed main.go")

	must(t, os.Remove(at("sub/x.go")))
	wantChanges(t, w, "removed sub/x.go")

	// Folders with files in them at once: the first files have no event.
	files(t, root, map[string]string{"a/b/c/one.go": "1", "a/b/two.go": "2"})
	wantChanges(t, w, "added a/b/c/one.go", "added a/b/two.go")
	write(t, at("a/b/c/one.go"), "one")
	wantChanges(t, w, "changed a/b/c/one.go")

	must(t, os.Rename(at("old"), at("new")))
	wantChanges(t, w, "removed old/y.go", "removed old/deep/z.go", "added new/y.go", "added new/deep/z.go")
	write(t, at("new/deep/z.go"), "moved and still watched")
	wantChanges(t, w, "changed new/deep/z.go")

	// Another folder takes the place of one that is known.
	must(t, os.Rename(at("new"), at("newer")))
	files(t, root, map[string]string{"new/other.go": "o"})
	wantChanges(t, w, "removed new/y.go", "removed new/deep/z.go", "added newer/y.go", "added newer/deep/z.go", "added new/other.go")
	write(t, at("new/other.go"), "watched too")
	write(t, at("newer/deep/z.go"), "and this one")
	wantChanges(t, w, "changed new/other.go", "changed newer/deep/z.go")

	must(t, os.RemoveAll(at("a")))
	wantChanges(t, w, "removed a/b/c/one.go", "removed a/b/two.go")

	must(t, os.Rename(at("newer"), filepath.Join(t.TempDir(), "elsewhere")))
	wantChanges(t, w, "removed newer/y.go", "removed newer/deep/z.go")

	// A folder becomes a file, and a file a symbolic link.
	must(t, os.RemoveAll(at("new")))
	write(t, at("new"), "a file")
	must(t, os.Remove(at("main.go")))
	must(t, os.Symlink("new", at("main.go")))
	wantChanges(t, w, "removed new/other.go", "added new", "changed main.go")
}

func TestSavesOfEditors(t *testing.T) {
	saves := map[string]func(t *testing.T, dir, name, text string){
		"write in place": func(t *testing.T, dir, name, text string) {
			write(t, filepath.Join(dir, name), text)
		},
		"vim": func(t *testing.T, dir, name, text string) {
			p := filepath.Join(dir, name)
			write(t, filepath.Join(dir, "."+name+".swp"), "swap")
			write(t, filepath.Join(dir, "4913"), "")
			must(t, os.Remove(filepath.Join(dir, "4913")))
			must(t, os.Rename(p, p+"~"))
			write(t, p, text)
			must(t, os.Chmod(p, 0o644))
			must(t, os.Remove(p+"~"))
		},
		"JetBrains": func(t *testing.T, dir, name, text string) {
			p := filepath.Join(dir, name)
			write(t, p+"___jb_tmp___", text)
			must(t, os.Rename(p, p+"___jb_old___"))
			must(t, os.Rename(p+"___jb_tmp___", p))
			must(t, os.Remove(p+"___jb_old___"))
		},
		"temporary name of its own": func(t *testing.T, dir, name, text string) {
			write(t, filepath.Join(dir, ".#lock"), "")
			tmp := filepath.Join(dir, name+"~")
			write(t, tmp, text)
			must(t, os.Rename(tmp, filepath.Join(dir, name)))
			must(t, os.Remove(filepath.Join(dir, ".#lock")))
		},
	}
	for editor, save := range saves {
		t.Run(editor, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			files(t, root, map[string]string{"pkg/main.go": "a", "pkg/other.go": "o"})
			w := newWatcher(t, Options{Root: root})
			for i := range 3 {
				save(t, filepath.Join(root, "pkg"), "main.go", fmt.Sprint("version ", i))
				wantChanges(t, w, "changed pkg/main.go")
			}
			wantQuiet(t, w)
		})
	}
}

func TestNoChange(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"main.go": "same", "dir/": ""})
	main := filepath.Join(root, "main.go")
	w := newWatcher(t, Options{Root: root})

	must(t, os.Chmod(main, 0o600))
	write(t, main, "same")
	must(t, os.Chtimes(main, time.Now(), time.Now().Add(time.Hour)))
	must(t, os.Mkdir(filepath.Join(root, "empty"), 0o755))
	write(t, filepath.Join(root, "gone.go"), "1")
	must(t, os.Remove(filepath.Join(root, "gone.go")))
	must(t, syscall.Mkfifo(filepath.Join(root, "pipe"), 0o600))
	// gone.go may have been seen while it was there; then it was taken back.
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		b, err := w.Next(ctx)
		cancel()
		if err != nil {
			break
		}
		for _, c := range b.Changes {
			if c.Path != "gone.go" {
				t.Errorf("reported %q", edits(b))
			}
		}
	}

	// Content that changes under the same size and time of modification is seen.
	info, err := os.Stat(main)
	must(t, err)
	write(t, main, "EMAS")
	must(t, os.Chtimes(main, info.ModTime(), info.ModTime()))
	wantChanges(t, w, "changed main.go")
}

func TestIgnoreRules(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{
		".gitignore":              "*.log\n/build/\nnode_modules/\n",
		".git/HEAD":               "ref",
		".git/info/exclude":       "private.txt\n",
		"main.go":                 "m",
		"x.log":                   "l",
		"private.txt":             "p",
		"build/out/bin":           "b",
		"web/node_modules/a/b.js": "n",
		"web/.gitignore":          "!keep.log\n",
		"web/keep.log":            "k",
		"docs/a.md":               "d",
	})
	w := newWatcher(t, Options{Root: root, Ignore: []string{"docs/"}})
	if folders, n := w.Watched(); folders != 2 || n != 4 {
		t.Errorf("%d folders and %d files are watched, want 2 and 4", folders, n)
	}
	files(t, root, map[string]string{
		"x.log": "2", "private.txt": "2", "build/out/bin": "2", "web/node_modules/a/b.js": "2", "docs/a.md": "2", ".git/HEAD": "2",
		"web/keep.log": "2",
	})
	wantChanges(t, w, "changed web/keep.log")

	// The rules change: what is no longer ignored appears, what is now
	// ignored is no longer followed.
	write(t, filepath.Join(root, ".gitignore"), "*.log\nnode_modules/\nmain.go\n")
	wantChanges(t, w, "changed .gitignore", "added build/out/bin")
	write(t, filepath.Join(root, "main.go"), "2")
	write(t, filepath.Join(root, "build/out/bin"), "3")
	wantChanges(t, w, "changed build/out/bin")

	must(t, os.Remove(filepath.Join(root, "web/.gitignore")))
	wantChanges(t, w, "removed web/.gitignore")
	write(t, filepath.Join(root, "web/keep.log"), "3")
	wantQuiet(t, w)
}

func TestPaths(t *testing.T) {
	top := t.TempDir()
	root := filepath.Join(top, "app")
	files(t, top, map[string]string{
		"app/cmd/main.go":  "m",
		"app/other/x.go":   "x",
		"app/go.mod":       "g",
		"app/.gitignore":   "gen/\n",
		"app/gen/a.go":     "a",
		"app/.git/HEAD":    "ref",
		"shared/lib.go":    "l",
		"unrelated/big.go": "b",
	})
	w := newWatcher(t, Options{Root: root, Paths: []string{"cmd", "go.mod", "gen", "later/deep", "../shared"}})
	files(t, top, map[string]string{
		"app/cmd/main.go": "2", "app/other/x.go": "2", "app/go.mod": "2", "app/gen/a.go": "2",
		"shared/lib.go": "2", "unrelated/big.go": "2", "app/later/deep/z.go": "new", "app/later/no.go": "new",
	})
	wantChanges(t, w, "changed cmd/main.go", "changed go.mod", "changed gen/a.go", "changed ../shared/lib.go", "added later/deep/z.go")
}

func TestSubfolderOfRepository(t *testing.T) {
	top := t.TempDir()
	files(t, top, map[string]string{
		".git/HEAD": "ref", ".gitignore": "*.tmp\n/app/dist/\n", "app/main.go": "m", "app/dist/x": "x", "app/a.tmp": "t",
	})
	w := newWatcher(t, Options{Root: filepath.Join(top, "app")})
	if _, n := w.Watched(); n != 1 {
		t.Errorf("%d files are watched, want main.go alone", n)
	}
}

func TestReconcile(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"same.go": "s", "edited.go": "1", "removed.go": "r"})
	w := newWatcher(t, Options{Root: root})
	before := w.Snapshot()
	must(t, w.Close())

	write(t, filepath.Join(root, "edited.go"), "2")
	write(t, filepath.Join(root, "added.go"), "a")
	must(t, os.Remove(filepath.Join(root, "removed.go")))
	w = newWatcher(t, Options{Root: root, Before: before})
	b := next(t, w)
	if got, want := edits(b), []string{"added added.go", "changed edited.go", "removed removed.go"}; !slices.Equal(got, want) {
		t.Errorf("changes %q, want %q", got, want)
	}
	if got := w.Snapshot(); !maps.Equal(got, before) {
		t.Errorf("before the commit the snapshot is %v, want %v", got, before)
	}
	b.Commit()
	if got := w.Snapshot(); maps.Equal(got, before) || len(got) != 3 {
		t.Errorf("after the commit the snapshot is %v", got)
	}
	must(t, w.Close())
	wantQuiet(t, newWatcher(t, Options{Root: root, Before: w.Snapshot()}))
}

func TestManyFilesAtOnce(t *testing.T) {
	root := t.TempDir()
	w := newWatcher(t, Options{Root: root})
	var want []string
	for i := range 400 {
		name := fmt.Sprintf("pkg%d/sub%d/f%d.go", i%7, i%13, i)
		files(t, root, map[string]string{name: name})
		want = append(want, "added "+name)
	}
	wantChanges(t, w, want...)
}

func TestSupersede(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"a.go": "1", "b.go": "1"})
	w := newWatcher(t, Options{Root: root, Quiet: 200 * time.Millisecond, Limit: time.Hour})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	// The first batch comes before it is quiet, unless this process slept
	// for as long.
	var first *Batch
	for i := 0; ; i++ {
		write(t, filepath.Join(root, "a.go"), fmt.Sprint("edit ", i))
		first = next(t, w)
		write(t, filepath.Join(root, "b.go"), fmt.Sprint("edit ", i))
		select {
		case <-first.Superseded:
		case <-first.Settled:
			if i < 10 {
				continue
			}
			t.Fatal("batches come only once it is quiet")
		}
		break
	}
	build, stop := first.Context(ctx)
	defer stop()
	<-build.Done()
	if err := context.Cause(build); !errors.Is(err, ErrSuperseded) {
		t.Fatalf("the build ended by %v", err)
	}
	if err := first.Settle(ctx); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Settle returned %v", err)
	}

	second := next(t, w)
	if got, want := edits(second), []string{"changed a.go", "changed b.go"}; !slices.Equal(got, want) {
		t.Errorf("the second batch has %q, want %q", got, want)
	}
	must(t, second.Settle(ctx))
	second.Commit()

	a, err := os.ReadFile(filepath.Join(root, "a.go"))
	must(t, err)
	// What is taken back ends the build of it, and there is nothing to tell.
	write(t, filepath.Join(root, "a.go"), "3")
	third := next(t, w)
	write(t, filepath.Join(root, "a.go"), string(a))
	<-third.Superseded
	if b := next(t, w); len(b.Changes) != 0 {
		t.Errorf("after taking back: %q", edits(b))
	}
}

// A save that comes while what was built is packed: the tree had been quiet.
func TestSupersedeAfterQuiet(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"a.go": "1"})
	w := newWatcher(t, Options{Root: root})
	for i := range 20 { // a select takes either of two that are ready
		write(t, filepath.Join(root, "a.go"), fmt.Sprint("edit ", i))
		b := next(t, w)
		<-b.Settled
		write(t, filepath.Join(root, "a.go"), fmt.Sprint("newer ", i))
		<-b.Superseded
		if err := b.Settle(t.Context()); !errors.Is(err, ErrSuperseded) {
			t.Fatalf("Settle returned %v", err)
		}
		next(t, w).Commit()
	}
}

func TestClose(t *testing.T) {
	w := newWatcher(t, Options{Root: t.TempDir()})
	failed := make(chan error)
	go func() {
		_, err := w.Next(context.Background())
		failed <- err
	}()
	must(t, w.Close())
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("Next returned %v", err)
	}
}

// A build that writes into the tree differently each time must neither keep
// the builds from ending nor follow itself at full speed, and gets a name.
func TestLoop(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"main.go": "1"})
	w := newWatcher(t, Options{Root: root})
	write(t, filepath.Join(root, "main.go"), "2")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i := range 20 {
		b, err := w.Next(ctx)
		must(t, err)
		if len(b.Loop) > 0 {
			if got := strings.Join(b.Loop, " "); got != "stamp.txt" {
				t.Errorf("the loop is blamed on %q", got)
			}
			return
		}
		write(t, filepath.Join(root, "stamp.txt"), fmt.Sprint(i))
		select { // the change is seen while the build goes on
		case <-b.Superseded:
		case <-b.Settled:
			time.Sleep(50 * time.Millisecond)
		}
	}
	t.Error("no loop was reported")
}

// After any sequence of operations the watcher knows the tree as a fresh scan
// does.
func TestRandomOperations(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			root := t.TempDir()
			w := newWatcher(t, Options{Root: root})
			name := func() string { // one to three levels deep, few names: they meet
				p := root
				for range 1 + rng.IntN(3) {
					p = filepath.Join(p, string(rune('a'+rng.IntN(4))))
				}
				return p
			}
			for round := range 6 {
				for i := range 40 {
					switch rng.IntN(6) {
					case 0, 1:
						_ = os.MkdirAll(name(), 0o755) // any of these may fail: that is part of it
					case 2, 3:
						p := name()
						_ = os.MkdirAll(filepath.Dir(p), 0o755)
						_ = os.WriteFile(p, fmt.Append(nil, round, i), 0o644)
					case 4:
						_ = os.Rename(name(), name())
					case 5:
						_ = os.RemoveAll(name())
					}
					if rng.IntN(10) == 0 {
						time.Sleep(time.Duration(rng.IntN(15)) * time.Millisecond)
					}
				}
				write(t, filepath.Join(root, "last"), fmt.Sprint(round))
				waitForSameAsFresh(t, w, root)
			}
		})
	}
}

func waitForSameAsFresh(t *testing.T, w *Watcher, root string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fresh, err := New(ctx, Options{Root: root})
	must(t, err)
	defer fresh.Close()
	want := fresh.Snapshot()
	for {
		b, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("%v: known are %v, there are %v", err, w.Snapshot(), want)
		}
		b.Commit()
		if maps.Equal(w.Snapshot(), want) {
			return
		}
	}
}

func TestDefaultWaits(t *testing.T) {
	w, err := New(t.Context(), Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if w.pace.quiet != 50*time.Millisecond || w.pace.limit != 2*time.Second {
		t.Errorf("quiet for %s, at most %s", w.pace.quiet, w.pace.limit)
	}
}
