// Package watch tells what changed in a source tree, by content.
//
// A consumer starts to build at the first change that it is told of, without
// waiting for more: a build takes longer than the wait would. When newer
// content arrives meanwhile the batch is superseded, and the consumer starts
// again. Only before it ships does it wait until the tree is quiet.
//
// Folders are watched, not files. On macOS, whose kqueue needs a descriptor
// for each file in a watched folder, a tree of many files that are not ignored
// can exceed the limit of open files.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"
)

// Options say what to watch. Paths are relative to Root, with slashes.
type Options struct {
	Root string
	// Paths are the files and folders below Root to watch; none is all of it.
	// They need not exist yet. What is named here is watched even if a
	// .gitignore ignores it.
	Paths []string
	// Ignore has patterns as in a .gitignore at Root; they have the last word.
	Ignore []string
	// Before is the tree as it was last built, from Watcher.Snapshot. What
	// differs from it is the first batch. nil compares with nothing.
	Before Snapshot

	Quiet time.Duration // without events, before a batch is settled; 0 is 50 ms
	Limit time.Duration // longest wait when events never end; 0 is 2 s
}

// Snapshot holds a hash of the content of each watched file, by path.
type Snapshot map[string]string

// Edit says how a file changed.
type Edit string

const (
	Added   Edit = "added"
	Changed Edit = "changed"
	Removed Edit = "removed"
)

// Change is one file whose content differs from the last committed batch.
type Change struct {
	Path string // relative to Root, with slashes
	Edit Edit

	path string // in the tree
	sum  sum    // at the time of the batch
}

// Batch is what a consumer has to build.
type Batch struct {
	// Changes since the last batch that was committed, sorted by path. Empty
	// if a change that was told of before has been taken back.
	Changes []Change
	// Asked says that the batch is from Now: perhaps nothing changed.
	Asked bool
	// Loop names those files of Changes that also changed during each of the
	// last builds: most likely the build writes them. Batches of such files
	// alone come ever more slowly.
	Loop []string
	// Superseded is closed when newer content than this batch's was seen:
	// give up building it and call Next.
	Superseded <-chan struct{}
	// Settled is closed when the tree has been quiet, or has been busy for
	// too long to wait: what was built may be shipped. A batch that was
	// superseded does not settle.
	Settled <-chan struct{}

	w                   *Watcher
	superseded, settled chan struct{}
	timer               *time.Timer
}

// ErrSuperseded is the cause of a batch's context, and Settle's error, when
// newer content was seen.
var ErrSuperseded = errors.New("superseded by newer changes")

// Context returns a context that ends with cause ErrSuperseded when the batch
// is superseded. Build under it.
func (b *Batch) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := make(chan struct{})
	go func() {
		select {
		case <-b.Superseded:
			cancel(ErrSuperseded)
		case <-ctx.Done():
		case <-stop:
		}
	}()
	return ctx, sync.OnceFunc(func() {
		close(stop)
		cancel(context.Canceled)
	})
}

// Settle waits until the batch may be shipped. It returns ErrSuperseded if
// newer content makes that pointless, also if that came after the quiet.
func (b *Batch) Settle(ctx context.Context) error {
	select {
	case <-b.Superseded:
	case <-b.Settled:
	case <-ctx.Done():
	}
	// It may have settled long before one of the others came.
	select {
	case <-b.Superseded:
		return ErrSuperseded
	case <-ctx.Done():
		return context.Cause(ctx)
	default:
		return nil
	}
}

// Commit says that the batch's content was shipped: later batches do not tell
// its changes again. A batch that was not committed is told again, together
// with what came after it.
func (b *Batch) Commit() { b.CommitOnly(func(Change) bool { return true }) }

// CommitOnly is Commit of some of the batch's changes.
func (b *Batch) CommitOnly(which func(Change) bool) {
	var some []Change
	for _, c := range b.Changes {
		if which(c) {
			some = append(some, c)
		}
	}
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	b.w.tree.commit(some)
}

// Watcher watches one tree. Its methods may be called from any goroutine, but
// only one may be in Next or Now at a time.
type Watcher struct {
	opts     Options
	top      string // of the tree
	notifier notifier
	done     chan struct{} // closed when the loop has ended

	mu    sync.Mutex
	tree  *tree
	pace  pace
	batch *Batch        // the one that is out
	more  chan struct{} // closed and replaced when Next has to look again
	err   error         // why the watcher ended

	pending pending
}

// ErrClosed is Next's error after Close.
var ErrClosed = errors.New("the watcher is closed")

// New scans and watches a tree. It returns when every folder is watched, so
// no later change is missed.
func New(ctx context.Context, opts Options) (*Watcher, error) {
	n, err := newNotifier()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", opts.Root, err)
	}
	w, err := start(ctx, opts, n)
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("watch %s: %w", opts.Root, err)
	}
	return w, nil
}

func start(ctx context.Context, opts Options, n notifier) (*Watcher, error) {
	if opts.Quiet == 0 {
		opts.Quiet = 50 * time.Millisecond
	}
	if opts.Limit == 0 {
		opts.Limit = 2 * time.Second
	}
	root, err := filepath.Abs(opts.Root)
	if err != nil {
		return nil, err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return nil, err
	}
	opts.Root = root
	top, _ := newScope(root, opts.Paths)
	w := &Watcher{
		opts:     opts,
		top:      top,
		notifier: n,
		done:     make(chan struct{}),
		more:     make(chan struct{}),
		pace:     pace{quiet: opts.Quiet, limit: opts.Limit},
		pending:  pending{paths: make(map[string]bool), signal: make(chan struct{}, 1)},
	}
	go w.pump()
	w.tree, err = newTree(ctx, opts, n)
	if err != nil {
		return nil, err
	}
	if changes := w.tree.reconcile(opts.Before); len(changes) > 0 {
		w.pace.change(time.Now(), changes)
	}
	go w.loop()
	return w, nil
}

// Close ends the watcher; a Next that waits returns ErrClosed.
func (w *Watcher) Close() error {
	err := w.notifier.Close()
	<-w.done
	return err
}

// Snapshot is the tree as of the last committed batch.
func (w *Watcher) Snapshot() Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tree.snapshot()
}

// Watched returns how many folders and files are watched.
func (w *Watcher) Watched() (folders, files int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tree.count()
}

// Next waits for the next batch and returns it at once when something has
// changed. Calling it, or Now, says that the consumer is done with the batch before.
// It fails when ctx ends, when the watcher was closed or cannot go on.
func (w *Watcher) Next(ctx context.Context) (*Batch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finish()
	for {
		if w.err != nil {
			return nil, w.err
		}
		now := time.Now()
		var late <-chan time.Time
		if at, ok := w.pace.deliverAt(now, w.tree.changedPaths()); ok && !at.After(now) {
			return w.deliver(now), nil
		} else if ok {
			timer := time.NewTimer(at.Sub(now))
			defer timer.Stop()
			late = timer.C
		}
		more := w.more
		w.mu.Unlock()
		var err error
		select {
		case <-more:
		case <-late:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		w.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
}

// Now is Next without the waiting: it hands out the tree as it is, whether or
// not anything has changed.
func (w *Watcher) Now() (*Batch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finish()
	if w.err != nil {
		return nil, w.err
	}
	b := w.deliver(time.Now())
	b.Asked = true
	return b, nil
}

// finish takes back the batch that is out. w.mu is held.
func (w *Watcher) finish() {
	w.pace.finish(time.Now())
	if w.batch != nil {
		w.batch.timer.Stop()
		w.batch = nil
	}
}

// deliver hands out all that differs from the last commit.
func (w *Watcher) deliver(now time.Time) *Batch {
	b := &Batch{w: w, superseded: make(chan struct{}), settled: make(chan struct{})}
	b.Superseded, b.Settled = b.superseded, b.settled
	b.Changes = w.tree.changes()
	for _, p := range w.pace.looping(w.tree.changedPaths()) {
		b.Loop = append(b.Loop, w.tree.name(p))
	}
	w.pace.deliver()
	w.batch = b
	b.timer = time.AfterFunc(w.pace.settleAt().Sub(now), func() { w.settle(b) })
	return b
}

// settle closes b's Settled, or sets its timer anew if there was activity.
func (w *Watcher) settle(b *Batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.batch != b || w.pace.superseded {
		return
	}
	if wait := time.Until(w.pace.settleAt()); wait > 0 {
		b.timer.Reset(wait)
		return
	}
	close(b.settled)
}

// wake makes Next look again. w.mu is held.
func (w *Watcher) wake() {
	close(w.more)
	w.more = make(chan struct{})
}

// Events of one save come within a millisecond or two of each other. They are
// looked at together, so that a save by rename is one change.
const (
	gather      = 5 * time.Millisecond
	gatherLimit = 25 * time.Millisecond
)

// loop looks at what the pump noted.
func (w *Watcher) loop() {
	defer close(w.done)
	for range w.pending.signal {
		for start := time.Now(); time.Since(start) < gatherLimit; {
			before := w.pending.count()
			time.Sleep(gather)
			if w.pending.count() == before {
				break
			}
		}
		paths, all, err := w.pending.take()
		w.mu.Lock()
		if err == nil {
			err = w.look(paths, all)
		}
		if err != nil {
			w.err = err
			w.wake()
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
	}
}

// look compares what may have changed with what is known. w.mu is held.
func (w *Watcher) look(paths []string, all bool) error {
	changed, relevant, err := w.tree.look(context.Background(), paths, all)
	if err != nil {
		return fmt.Errorf("watch %s: %w", w.opts.Root, err)
	}
	if relevant {
		w.pace.touch(time.Now())
	}
	if len(changed) == 0 {
		return nil
	}
	if w.pace.change(time.Now(), changed) {
		close(w.batch.superseded)
		w.batch.timer.Stop()
	}
	w.wake()
	return nil
}

// pending is what may have changed but was not looked at yet.
type pending struct {
	mu     sync.Mutex
	paths  map[string]bool
	events int
	all    bool // events were lost: look at everything
	err    error
	signal chan struct{}
}

func (p *pending) note(do func()) {
	p.mu.Lock()
	do()
	p.events++
	p.mu.Unlock()
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

func (p *pending) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.events
}

func (p *pending) take() (paths []string, all bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for path := range p.paths {
		paths = append(paths, path)
	}
	all, err = p.all, p.err
	clear(p.paths)
	p.all = false
	return paths, all, err
}

// pump takes events as they come, so that the kernel's queue does not fill
// while files are compared.
func (w *Watcher) pump() {
	events, errs := w.notifier.Events(), w.notifier.Errors()
	for events != nil {
		select {
		case e, ok := <-events:
			if !ok {
				events = nil
				break
			}
			if path, relevant := w.relevant(e); relevant {
				w.pending.note(func() { w.pending.paths[path] = true })
			}
		case _, ok := <-errs:
			if !ok {
				errs = nil
				break
			}
			// An overflow or any other error: events may be lost.
			w.pending.note(func() { w.pending.all = true })
		}
	}
	w.pending.note(func() { w.pending.err = ErrClosed })
}

// relevant returns an event's path below Root. Changes of mode alone are not
// relevant.
func (w *Watcher) relevant(e event) (string, bool) {
	if e.modeOnly {
		return "", false
	}
	rel, err := filepath.Rel(w.top, e.path)
	if err != nil || !fs.ValidPath(filepath.ToSlash(rel)) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}
