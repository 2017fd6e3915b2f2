package deploy

import (
	"context"
	"errors"

	"devbox/internal/sync/watch"
)

// Key is what a person asks of a running watch.
type Key int

const (
	KeyRebuild Key = iota // build and deliver now
	KeyPause              // stop following, or go on
	KeyQuit
)

// What a key asks for, as the reason that something ends.
var (
	errQuit  = errors.New("quit")
	errAgain = errors.New("build again")
)

// press does what a key asks for, or returns errQuit or errAgain.
func (f *follower) press(k Key) error {
	switch k {
	case KeyQuit:
		return errQuit
	case KeyRebuild:
		return errAgain
	case KeyPause:
		f.paused = !f.paused
		if f.paused {
			f.note("paused; p goes on")
		} else {
			f.note("following again")
		}
	}
	return nil
}

// attend does what takes long and minds the keys meanwhile: q and r end its
// context and are returned once it has ended, p counts from the next wait on.
func (f *follower) attend(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error, 1)
	go func() { ended <- do(ctx) }()
	var asked error
	for {
		select {
		case err := <-ended:
			if errors.Is(asked, errQuit) || err == nil || errors.Is(err, errAgain) {
				return asked
			}
			return err
		case k := <-f.opts.Keys:
			if err := f.press(k); err != nil {
				asked = err
				cancel(err)
			}
		}
	}
}

// next waits for changes, for a person who wants a build without any, or for
// the connection to end.
func (f *follower) next(ctx context.Context) (*watch.Batch, error) {
	for {
		b, err := f.nextBatch(ctx)
		if err != nil || b.Asked || !f.paused {
			return b, err
		}
		if b, err = f.hold(ctx, b); err != nil || b != nil {
			return b, err
		}
	}
}

// hold keeps a batch while paused, until a person goes on. It returns nil if
// newer content came: the next batch has all of it.
func (f *follower) hold(ctx context.Context, b *watch.Batch) (*watch.Batch, error) {
	for {
		select {
		case <-b.Superseded:
			return nil, nil
		case <-f.host.done:
			return f.watcher.Now()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case k := <-f.opts.Keys:
			err := f.press(k)
			if errors.Is(err, errQuit) {
				return nil, err
			}
			if err != nil || !f.paused {
				return b, nil
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
	leave := func() {
		cancel()
		<-got // only one may be in Next; what it brings is told again
	}
	for {
		select {
		case a := <-got:
			cancel()
			return a.batch, a.err
		case <-f.host.done:
			leave()
			return f.watcher.Now()
		case k := <-f.opts.Keys:
			switch err := f.press(k); {
			case errors.Is(err, errAgain):
				leave()
				return f.watcher.Now()
			case err != nil:
				leave()
				return nil, err
			}
		}
	}
}
