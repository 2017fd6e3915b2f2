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
	// Reload reads devbox.yaml and the files it names again and brings the
	// machine up by them.
	Reload func(context.Context) (*Project, error)
}

// Watch brings the machine up, delivers the source as it is and then follows
// every save until ctx ends or a person quits, both of which return nil.
// What fails on the way is reported and the previous release serves on; an
// error comes back only when following cannot go on. When devbox.yaml or the
// cloud-config has changed, it returns the project as it is now, to be watched
// in place of this one.
func (p *Project) Watch(ctx context.Context, u *ui.UI, o WatchOptions) (changed *Project, err error) {
	w, err := watch.New(ctx, p.watched())
	if err != nil {
		return nil, err
	}
	defer w.Close()
	h, err := p.Up(ctx, u)
	if err != nil {
		return nil, err
	}
	f := &follower{project: p, watcher: w, host: h, opts: o}
	defer func() { f.host.Close() }()
	if err := f.skipLogs(ctx); err != nil {
		return nil, err
	}
	f.stopLogs = f.followLogs(ctx)
	defer func() { f.stopLogs() }()

	folders, files := w.Watched()
	f.note("watching %d files in %d folders of %s", files, folders, p.Config.Dir)
	err = f.run(ctx)
	if errors.Is(err, errQuit) || errors.Is(err, errChanged) || ctx.Err() != nil {
		return f.changed, nil
	}
	return nil, err
}

// watched is what devbox.yaml says to watch, and itself.
func (p *Project) watched() watch.Options {
	c := p.Config
	o := watch.Options{Root: c.Dir, Paths: c.Watch.Paths, Ignore: c.Watch.Ignore}
	if len(o.Paths) > 0 { // else all is watched
		o.Paths = slices.Concat(o.Paths, p.settingsFiles())
	}
	return o
}

// settingsFiles say how to watch and what the machine is, relative to the
// project.
func (p *Project) settingsFiles() []string {
	return []string{config.FileName, path.Clean(p.Config.CloudInit)}
}

var errChanged = errors.New("devbox.yaml or the cloud-config has changed")

// follower is a running watch.
type follower struct {
	project  *Project
	watcher  *watch.Watcher
	host     *Host
	opts     WatchOptions
	paused   bool
	changed  *Project // what devbox.yaml says now, with errChanged
	cursor   string   // of the last entry of the journal that was reported
	stopLogs func()   // of followLogs
}

func (f *follower) note(format string, args ...any) {
	f.opts.Report(WatchEvent{Note: fmt.Sprintf(format, args...)})
}

// lostLimit is how often in a row a cycle may lose the host.
const lostLimit = 3

// run delivers the source as it is, then one batch of changes after another.
// It returns errQuit, errChanged or why following cannot go on.
func (f *follower) run(ctx context.Context) error {
	batch, err := f.watcher.Now()
	for losses := 0; err == nil; {
		if f.host.Conn.Err() != nil {
			again, err := f.comeBack(ctx)
			if err != nil {
				return err
			}
			if f.paused && !again {
				batch, err = f.hold(ctx, batch)
				if err == nil && batch == nil {
					batch, err = f.next(ctx)
				}
				if err != nil {
					return err
				}
				continue // the connection may be gone once more
			}
		}
		err = f.attend(ctx, func(ctx context.Context) error { return f.cycle(ctx, batch) })
		if Lost(err) && ctx.Err() == nil {
			if losses++; losses == lostLimit {
				return err
			}
			f.host.Close()
			err = nil
			continue // the same again: what the host did of it is found out there
		}
		losses = 0
		switch {
		case errors.Is(err, errAgain):
			batch, err = f.watcher.Now()
		case err == nil:
			stop := f.prepare(ctx)
			batch, err = f.next(ctx)
			stop()
		}
	}
	return err
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

// cycle builds and delivers once. It returns the error of a lost host, and
// errChanged; all others are reported. A cycle that is given up before
// anything was delivered, for newer changes or since ctx ended, reports nothing.
func (f *follower) cycle(ctx context.Context, batch *watch.Batch) error {
	begin := time.Now()
	c := &Cycle{At: begin}
	if !batch.Asked || len(batch.Changes) > 0 {
		c.Trigger = names(batch.Changes)
	}
	for _, path := range batch.Loop {
		f.note("%s changes during every build: the build writes it; add it to watch.ignore in devbox.yaml", path)
	}
	a, err := f.build(ctx, batch, c)
	switch {
	case errors.Is(err, errChanged):
		return err
	case errors.Is(err, watch.ErrSuperseded), err != nil && ctx.Err() != nil:
		return nil
	case err == nil:
		err = f.host.Deliver(ctx, a, c, f.note)
		a.Close()
	}
	c.Took = time.Since(begin)
	if err != nil {
		c.fail(err)
	} else {
		batch.Commit()
	}
	f.opts.Report(WatchEvent{Cycle: c})
	if Lost(err) {
		return err
	}
	return nil
}

// build makes the image of a batch that is quiet.
func (f *follower) build(ctx context.Context, batch *watch.Batch, c *Cycle) (*Artifact, error) {
	if err := f.reload(ctx, batch, c); err != nil {
		return nil, err
	}
	ctx, cancel := batch.Context(ctx)
	defer cancel()
	a, err := f.project.Build(ctx, f.host.Welcome.Arch, c.ended)
	// Before an error is believed, too: a half-saved set of files may not build.
	if unsettled := batch.Settle(ctx); unsettled != nil {
		if err == nil {
			a.Close()
		}
		return nil, unsettled
	}
	return a, err
}

// reload reads the settings again if they are what changed, and sets the machine
// up by them, which a newer save does not interrupt. As long as that does not
// work, those before are followed: it is tried again when they change again.
func (f *follower) reload(ctx context.Context, batch *watch.Batch, c *Cycle) error {
	ours := func(x watch.Change) bool { return slices.Contains(f.project.settingsFiles(), x.Path) }
	if !slices.ContainsFunc(batch.Changes, ours) {
		return nil
	}
	if err := batch.Settle(ctx); err != nil {
		return err
	}
	f.note("%s changed: setting up by it", strings.Join(c.Trigger, ", "))
	changed, err := f.opts.Reload(ctx)
	if unsettled := batch.Settle(ctx); unsettled != nil {
		return unsettled
	}
	if err != nil {
		c.Outcome = BadSettings
		batch.CommitOnly(ours)
		return err
	}
	f.changed = changed
	return errChanged
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

// comeBack connects to the machine again and follows the journal on. again says
// that a person wants a build, though paused.
func (f *follower) comeBack(ctx context.Context) (again bool, err error) {
	f.stopLogs()
	for {
		err := f.attend(ctx, func(ctx context.Context) error {
			err := f.reconnect(ctx)
			if err != nil && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		})
		if errors.Is(err, errAgain) && f.host.Conn.Err() != nil {
			continue
		}
		if err == nil || errors.Is(err, errAgain) {
			f.stopLogs = f.followLogs(ctx)
			return err != nil, nil
		}
		return false, err
	}
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
			return context.Cause(ctx)
		case <-time.After(500 * time.Millisecond):
		}
	}
}
