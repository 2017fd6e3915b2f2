package deploy

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/sync/watch"
	"devbox/internal/ui"
	"devbox/internal/vm"
)

// Key is what a person asks of a running watch.
type Key int

const (
	KeyRebuild Key = iota // build and deliver now
	KeyPause              // stop following, or go on
	KeyQuit
)

// WatchEvent is one thing that happened. One field is set.
type WatchEvent struct {
	Cycle *Cycle   `json:"cycle,omitempty"`
	Log   *LogLine `json:"log,omitempty"`
	Note  string   `json:"note,omitempty"` // for a person: paused, connection lost, …
}

// WatchOptions are a watch's two ends. Report may be called from any goroutine.
type WatchOptions struct {
	Keys   <-chan Key
	Report func(WatchEvent)
	// Reload reads and checks devbox.yaml and the files it names again.
	Reload func() (*Project, error)
}

// Watch brings the machine up, delivers the source as it is and then follows
// every save until ctx ends or a person quits, both of which return nil.
// What fails on the way is reported and the previous release serves on; an
// error comes back only when following cannot go on. When devbox.yaml or the
// cloud-config has changed, it returns the project as it is now, to be watched
// in place of this one.
func (p *Project) Watch(ctx context.Context, u *ui.UI, o WatchOptions) (changed *Project, err error) {
	paths := p.Config.Watch.Paths
	if len(paths) > 0 { // else all is watched
		paths = slices.Concat(paths, p.settingsFiles())
	}
	w, err := watch.New(ctx, watch.Options{Root: p.Config.Dir, Paths: paths, Ignore: p.Config.Watch.Ignore})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	h, err := p.Up(ctx, u)
	if err != nil {
		return nil, err
	}
	f := &follower{project: p, ui: u, watcher: w, host: h, opts: o}
	defer func() { f.host.Close() }()
	if err := f.skipLogs(ctx); err != nil {
		return nil, err
	}
	stopLogs := f.followLogs(ctx)
	defer func() { stopLogs() }()

	folders, files := w.Watched()
	f.note("watching %d files in %d folders of %s", files, folders, p.Config.Dir)
	err = f.run(ctx, &stopLogs)
	if errors.Is(err, errQuit) || errors.Is(err, errChanged) {
		return f.changed, nil
	}
	return nil, err
}

// settingsFiles say how to watch and what the machine is, relative to the
// project.
func (p *Project) settingsFiles() []string {
	return []string{config.FileName, path.Clean(p.Config.CloudInit)}
}

var (
	errQuit    = errors.New("quit")
	errChanged = errors.New("devbox.yaml or the cloud-config has changed")
)

// follower is a running watch.
type follower struct {
	project *Project
	ui      *ui.UI
	watcher *watch.Watcher
	host    *Host
	opts    WatchOptions
	paused  bool
	changed *Project // what devbox.yaml says now, with errChanged
	cursor  string   // of the last entry of the journal that was reported
}

func (f *follower) note(format string, args ...any) {
	f.opts.Report(WatchEvent{Note: fmt.Sprintf(format, args...)})
}

// lostLimit is how often in a row a cycle may lose the host.
const lostLimit = 3

// run delivers the source as it is, then one batch of changes after another.
func (f *follower) run(ctx context.Context, stopLogs *func()) error {
	var batch *watch.Batch // nil: deliver what is there
	for losses := 0; ; {
		if f.host.Conn.Err() != nil {
			(*stopLogs)()
			if err := f.reconnect(ctx); err != nil {
				return err
			}
			*stopLogs = f.followLogs(ctx)
		}
		err := f.cycle(ctx, batch)
		if ctx.Err() != nil {
			return errQuit
		}
		if errors.Is(err, errChanged) {
			return err
		}
		if Lost(err) {
			if losses++; losses == lostLimit {
				return err
			}
			f.host.Close()
			continue // the same again: what the host did of it is found out there
		}
		losses = 0
		stop := f.prepare(ctx)
		batch, err = f.next(ctx)
		stop()
		if err != nil {
			if ctx.Err() != nil {
				return errQuit
			}
			return err
		}
	}
}

// prepare makes the next build quicker while nobody waits, until the returned
// function is called. Without it the next image is packed whole: slower, no more.
func (f *follower) prepare(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { _ = f.project.prepareNext(ctx) })
	return func() {
		cancel()
		done.Wait()
	}
}

// next waits for changes, for a person who wants a build without any, or for
// the connection to end: a nil batch in both of these cases.
func (f *follower) next(ctx context.Context) (*watch.Batch, error) {
	for {
		b, err := f.nextBatch(ctx)
		if err != nil || b == nil || !f.paused {
			return b, err
		}
		// Paused: keep what came until a person goes on, or newer content comes.
		select {
		case <-b.Superseded:
		case <-f.host.done:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case k := <-f.opts.Keys:
			if now, err := f.press(k); now || err != nil || !f.paused {
				return b, err
			}
		}
	}
}

// nextBatch asks the watcher for changes and minds the keys meanwhile.
func (f *follower) nextBatch(ctx context.Context) (*watch.Batch, error) {
	ctx, cancel := context.WithCancel(ctx)
	type answer struct {
		batch *watch.Batch
		err   error
	}
	got := make(chan answer, 1)
	go func() {
		b, err := f.watcher.Next(ctx)
		got <- answer{b, err}
	}()
	leave := func(err error) (*watch.Batch, error) {
		cancel()
		<-got // only one may be in Next; what it brings is told again
		return nil, err
	}
	for {
		select {
		case a := <-got:
			cancel()
			return a.batch, a.err
		case <-f.host.done:
			return leave(nil)
		case k := <-f.opts.Keys:
			if now, err := f.press(k); now || err != nil {
				return leave(err)
			}
		}
	}
}

// press does what a key asks for; now says that it asks for a build.
func (f *follower) press(k Key) (now bool, err error) {
	switch k {
	case KeyQuit:
		return false, errQuit
	case KeyPause:
		f.paused = !f.paused
		if f.paused {
			f.note("paused; p goes on")
		} else {
			f.note("following again")
		}
	case KeyRebuild:
		return true, nil
	}
	return false, nil
}

// cycle builds and delivers once. It returns the error of a lost host, and
// errChanged; all others are reported.
func (f *follower) cycle(ctx context.Context, batch *watch.Batch) error {
	begin := time.Now()
	c := &Cycle{At: begin}
	if batch != nil {
		c.Trigger = names(batch.Changes)
		for _, path := range batch.Loop {
			f.note("%s changes during every build: the build writes it; add it to watch.ignore in devbox.yaml", path)
		}
	}
	err := f.reload(ctx, batch)
	if errors.Is(err, errChanged) {
		f.note("%s changed: setting up by it", strings.Join(c.Trigger, ", "))
		return err
	}
	if err == nil {
		err = f.deliver(ctx, batch, c)
	} else if !errors.Is(err, watch.ErrSuperseded) {
		c.Outcome = BadSettings
	}
	if errors.Is(err, watch.ErrSuperseded) || ctx.Err() != nil && c.Outcome == "" {
		return nil
	}
	c.Took = time.Since(begin)
	if err != nil {
		c.fail(err)
	} else if batch != nil {
		batch.Commit()
	}
	f.opts.Report(WatchEvent{Cycle: c})
	if Lost(err) {
		return err
	}
	return nil
}

// reload reads the settings again if they are what changed.
func (f *follower) reload(ctx context.Context, batch *watch.Batch) error {
	if batch == nil || !slices.ContainsFunc(batch.Changes, func(c watch.Change) bool {
		return slices.Contains(f.project.settingsFiles(), c.Path)
	}) {
		return nil
	}
	if err := batch.Settle(ctx); err != nil {
		return err
	}
	changed, err := f.opts.Reload()
	if err != nil {
		return err
	}
	f.changed = changed
	return errChanged
}

func (f *follower) deliver(ctx context.Context, batch *watch.Batch, c *Cycle) error {
	bctx := ctx
	if batch != nil {
		var cancel context.CancelFunc
		bctx, cancel = batch.Context(ctx)
		defer cancel()
	}
	a, err := f.project.Build(bctx, f.host.Welcome.Arch)
	if err == nil {
		defer a.Close()
	}
	if batch != nil {
		// Before an error is believed, too: a half-saved set of files may not build.
		if err := batch.Settle(ctx); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	return f.host.Deliver(ctx, a, c, f.note)
}

func names(changes []watch.Change) []string {
	names := make([]string, len(changes))
	for i, c := range changes {
		names[i] = c.Path
	}
	return names
}

// fail notes in c why a cycle did not bring its release up.
func (c *Cycle) fail(err error) {
	var (
		build    *BuildError
		problems Problems
		rolled   *RolledBackError
	)
	switch {
	case c.Outcome == BadSettings:
	case errors.As(err, &rolled):
		// the outcome is the host's own
	case errors.As(err, &build):
		c.Outcome = BuildFailed
	case errors.As(err, &problems):
		c.Outcome = BadImage
	case Lost(err):
		c.Outcome = HostLost
	default:
		c.Outcome = protocol.Failed
	}
	c.Error, c.Hint = err.Error(), hint.Of(err)
}

// reconnect comes back to the machine after the connection was lost: as long as
// it runs, it is only a matter of time.
func (f *follower) reconnect(ctx context.Context) error {
	f.note("connection to the machine lost, connecting again")
	begin := time.Now()
	for {
		m, _, err := f.project.Machine(ctx)
		if err != nil {
			return err
		}
		st, err := m.Status(ctx)
		if err != nil {
			return err
		}
		if st.State != vm.Running {
			return hint.Errorf("run `devbox watch` to bring it up again", "machine %s is %s", f.project.Config.Name, st.State)
		}
		h, err := f.project.Connect(ctx)
		if err == nil {
			f.host = h
			f.note("connected again after %s", ui.Seconds(time.Since(begin)))
			if h.Welcome.Recovered != "" {
				f.note("%s", h.Welcome.Recovered)
			}
			return nil
		}
		if time.Since(begin) > time.Minute {
			return fmt.Errorf("connect to the machine again: gave up after a minute: %w", err)
		}
		select {
		case <-ctx.Done():
			return errQuit
		case <-time.After(500 * time.Millisecond):
		}
	}
}
