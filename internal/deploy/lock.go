package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lock keeps other builds of the app out until unlock is called.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	return lockFile(ctx, path, "builds this app", nil)
}

// lockMachine keeps others from changing the machine until unlock is called. It
// says what it waits for.
func (p *Project) lockMachine(ctx context.Context, say func(format string, args ...any)) (unlock func(), err error) {
	return lockFile(ctx, p.MachineDir()+".lock", "sets up or ends this machine", say)
}

// tellAfter is how long a lock is waited for in silence.
const tellAfter = time.Second

// lockFile holds the file at path: a kernel lock, which dies with its process.
// It waits for another holder, of whom is known what it does.
func lockFile(ctx context.Context, path, does string, say func(format string, args ...any)) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make a folder for the lock: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for begin := time.Now(); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another devbox that %s: %w", does, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
		if say != nil && time.Since(begin) > tellAfter {
			say("waiting for another devbox that %s", does)
			say = nil
		}
	}
}
