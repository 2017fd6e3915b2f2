package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile is takeLock where no child needs to hold the lock too.
func lockFile(ctx context.Context, path string, p Progress) (unlock func(), err error) {
	lock, err := takeLock(ctx, path, p)
	if err != nil {
		return nil, err
	}
	return func() { lock.Close() }, nil
}

// takeLock takes the kernel's lock on path, which ends when the last process
// closes it that has it open: this one, and each child that it was given to.
// Waiting is told to p and ends with ctx. The holder may remove the file:
// whoever waited for the removed one takes the new one.
func takeLock(ctx context.Context, path string, p Progress) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	told := false
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, os.ErrNotExist) { // the folder went with a destroyed machine
			err = os.MkdirAll(filepath.Dir(path), 0o700)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(f, path) {
			return f, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !told && err != nil {
			told = true
			p.Step("wait for another devbox to finish")
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another devbox that holds %s: %w", path, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func sameFile(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(open, named)
}
