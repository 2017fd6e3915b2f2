package watch

import (
	"errors"
	"fmt"
	"syscall"

	"devbox/internal/hint"

	"github.com/fsnotify/fsnotify"
)

// notifier is where events come from: the kernel, or a test.
type notifier interface {
	Add(dir string) error    // does nothing for a folder that is watched
	Remove(dir string) error // of a folder that is not watched is no error
	Events() <-chan event    // closed by Close
	Errors() <-chan error    // events may have been lost
	Close() error
}

// event says that something happened to a path or, if it is a folder, to it.
type event struct {
	path     string // absolute
	modeOnly bool
}

type fsNotifier struct {
	w      *fsnotify.Watcher
	events chan event
}

func newNotifier() (notifier, error) {
	w, err := fsnotify.NewWatcher()
	if errors.Is(err, syscall.EMFILE) {
		return nil, hint.Wrap(fmt.Errorf("too many programs of yours watch files: %w", err),
			"close some, or run `sudo sysctl fs.inotify.max_user_instances=1024`")
	}
	if err != nil {
		return nil, err
	}
	n := &fsNotifier{w: w, events: make(chan event)}
	go func() {
		defer close(n.events)
		for e := range w.Events {
			if e.Name != "" { // fsnotify sends empty ones for its own house-keeping
				n.events <- event{e.Name, e.Op == fsnotify.Chmod}
			}
		}
	}()
	return n, nil
}

func (n *fsNotifier) Add(dir string) error { return n.w.Add(dir) }

func (n *fsNotifier) Remove(dir string) error {
	if err := n.w.Remove(dir); !errors.Is(err, fsnotify.ErrNonExistentWatch) {
		return err
	}
	return nil
}

func (n *fsNotifier) Events() <-chan event { return n.events }
func (n *fsNotifier) Errors() <-chan error { return n.w.Errors }
func (n *fsNotifier) Close() error         { return n.w.Close() }
