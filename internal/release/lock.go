package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// CodedError is an error that the client can act on by itself: Code is one of
// protocol's.
type CodedError struct {
	Code string
	Err  error
}

func (e *CodedError) Error() string { return e.Err.Error() }

// Unwrap returns the error that the code is about.
func (e *CodedError) Unwrap() error { return e.Err }

// lockWait is how long a second session waits for the first one's activation
// before it is told that the app is busy.
const lockWait = 3 * time.Second

// lock takes the app's kernel lock, which ends with the process that holds it
// and so is never left behind. who is shown to others that want it.
func (a *app) lock(ctx context.Context, who string, wait time.Duration) (unlock func(), err error) {
	f, err := a.openLocked(ctx, time.Now().Add(wait))
	if err != nil {
		return nil, err
	}
	// Not synced: it is read only while this process lives. On a full disk the
	// lock holds all the same, without a name.
	text := fmt.Sprintf("%s (process %d, since %s)\n", who, os.Getpid(), time.Now().Format("15:04:05"))
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(text), 0)
	}
	return func() { f.Close() }, nil
}

func (a *app) openLocked(ctx context.Context, give time.Time) (*os.File, error) {
	for {
		if err := os.MkdirAll(a.dir(), 0o755); err != nil {
			return nil, readOnly(err)
		}
		f, err := os.OpenFile(a.place.lock(), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return nil, readOnly(err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && isOpen(f) {
			return f, nil
		}
		busy := errors.Is(err, unix.EWOULDBLOCK)
		if busy && time.Now().After(give) {
			defer f.Close()
			return nil, &CodedError{protocol.CodeBusy, hint.Errorf("wait for it to end and try again",
				"%s is being changed by %s", a.name, holder(f))}
		}
		f.Close()
		if err != nil && !busy && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("lock %s: %w", a.place.lock(), err)
		}
		if !busy {
			continue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// readOnly gives a file system that takes no writes its cure. The kernel makes
// one so by itself when its disk fails.
func readOnly(err error) error {
	if errors.Is(err, unix.EROFS) {
		return hint.Wrap(err, "find out on the host why (`dmesg`: a disk may be failing), and mount it for writing again")
	}
	return err
}

// isOpen says whether f is still what its name leads to: [Host.Forget] deletes
// the lock with the rest of the app.
func isOpen(f *os.File) bool {
	is, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(f.Name())
	return err == nil && os.SameFile(is, named)
}

func holder(f *os.File) string {
	b := make([]byte, 512)
	n, _ := f.ReadAt(b, 0)
	if text := strings.TrimSpace(string(b[:n])); text != "" {
		return text
	}
	return "another session"
}
