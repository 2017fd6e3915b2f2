package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/sync/delta"
)

// margin is what must stay free on the disk beside an image, bytes.
const margin = 32 << 20

// Receive reads a delta from r and makes an image of it. It is on disk for good
// when Receive returns; on an error nothing of it is left.
func (h *Host) Receive(ctx context.Context, req protocol.Receive, r io.Reader, event func(protocol.Event)) error {
	a, err := h.open(req.App)
	if err != nil {
		return err
	}
	rep := newReport(event)
	if err := os.MkdirAll(a.images(), 0o755); err != nil {
		return err
	}
	base, closeBase, err := a.base(ctx, req.Base)
	if err != nil {
		return err
	}
	defer closeBase()
	dst, prepared, err := a.slot(req)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := a.receiveInto(ctx, dst, prepared, req, base, r); err != nil {
		if errors.Is(err, unix.ENOSPC) {
			err = hint.Errorf("free some space on the host", "write the image: the disk of %s is full", a.dir())
		}
		return errors.Join(err, removeIfThere(dst.Name()))
	}
	rep.phase("receive")
	return nil
}

func (a *app) receiveInto(ctx context.Context, dst *os.File, prepared bool, req protocol.Receive, base *delta.Source, r io.Reader) error {
	want, err := delta.Parse(req.Digest)
	if err != nil {
		return err
	}
	sums, _, err := delta.Apply(ctx, r, base, dst, delta.Limits{MaxSize: req.Size}, delta.ApplyOptions{Prepared: prepared, Want: want})
	if err != nil {
		return err
	}
	if sums.Size != req.Size {
		return fmt.Errorf("image has %d bytes, announced were %d", sums.Size, req.Size)
	}
	if err := dst.Chmod(0o644); err != nil {
		return err
	}
	// What is newest is what collect keeps, also if nothing had to be written.
	now := time.Now()
	if err := os.Chtimes(dst.Name(), now, now); err != nil {
		return err
	}
	if err := dst.Sync(); err != nil {
		return fmt.Errorf("sync image: %w", err)
	}
	unlock, err := a.lockImages()
	if err != nil {
		return err
	}
	defer unlock()
	there, err := a.has(ctx, want)
	if err != nil {
		return err
	}
	version := short(req.Digest)
	if err := a.keepSums(version, sums); err != nil {
		return err
	}
	crashpoint("received")
	if there {
		return removeIfThere(dst.Name())
	}
	if err := os.Rename(dst.Name(), a.image(version)); err != nil {
		return err
	}
	return syncPath(a.images())
}

// lockImages lets one image at a time come to its name: whether there is another
// one of that name, and which sums are beside it, must not change meanwhile.
func (a *app) lockImages() (unlock func(), err error) {
	dir, err := os.Open(a.images())
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		dir.Close()
		return nil, fmt.Errorf("lock %s: %w", a.images(), err)
	}
	return func() { dir.Close() }, nil
}

// has tells whether the image is there already, whole. Then the file stays what
// it is: the attached image may be a link to it, which is how one tells which
// release is in place.
func (a *app) has(ctx context.Context, want delta.Digest) (bool, error) {
	f, err := os.Open(a.image(want.Short()))
	if err != nil {
		return false, nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, nil
	}
	sums, err := delta.Sum(ctx, f, info.Size())
	if err != nil {
		return false, nil // a damaged one is replaced
	}
	return sums.Digest() == want, sameName(sums.Digest(), want)
}

// sameName refuses an image that would take another's place because their
// digests begin alike. That does not happen by itself, but can be made to, and
// the other one is perhaps what was signed.
func sameName(is, want delta.Digest) error {
	if is != want && is.Short() == want.Short() {
		return hint.Errorf("change anything in it and build it again", "another image is called %s already, that of digest %s", is.Short(), is)
	}
	return nil
}

// base opens the image that a delta is against.
func (a *app) base(ctx context.Context, digest string) (*delta.Source, func(), error) {
	if digest == "" {
		return nil, func() {}, nil
	}
	sums, err := a.sumsOf(ctx, digest)
	if errors.Is(err, errNoImage) {
		return nil, nil, &CodedError{protocol.CodeUnknownBase, err}
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(a.image(short(digest)))
	if err != nil {
		return nil, nil, err
	}
	return &delta.Source{ReaderAt: f, Size: sums.Size, Sums: sums}, func() { f.Close() }, nil
}

// slot is where the image is written: a copy of its base that was prepared
// beforehand, else a new file.
func (a *app) slot(req protocol.Receive) (dst *os.File, prepared bool, err error) {
	dst, err = a.temp()
	if err != nil {
		return nil, false, err
	}
	defer func() {
		if err != nil {
			dst.Close()
			err = errors.Join(err, removeIfThere(dst.Name()))
		}
	}()
	if req.Base != "" {
		next, ok, err := a.claimNext(short(req.Base), dst.Name())
		if err != nil {
			return nil, false, err
		}
		if ok {
			dst.Close()
			return next, true, nil
		}
	}
	return dst, false, a.room(req.Size)
}

// claimNext takes the prepared copy of version, under the name temp.
func (a *app) claimNext(version, temp string) (*os.File, bool, error) {
	// The lock goes on before the name changes to one that collect looks at.
	next := filepath.Join(a.images(), nextPrefix+version)
	f, err := os.OpenFile(next, os.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || os.Rename(next, temp) != nil {
		f.Close() // another session was faster
		return nil, false, nil
	}
	f.Close()
	named, err := os.OpenFile(temp, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, false, err
	}
	if err := unix.Flock(int(named.Fd()), unix.LOCK_EX); err != nil {
		named.Close()
		return nil, false, err
	}
	return named, true, nil
}

// room checks that there is space for size bytes more.
func (a *app) room(size int64) error {
	free, err := freeSpace(a.images())
	if err != nil {
		return err
	}
	if free < size+margin {
		return hint.Errorf("free some space on the host", "not enough space in %s: the image needs %d MB, %d MB are free",
			a.dir(), (size+margin+1<<20-1)>>20, free>>20)
	}
	return nil
}

func freeSpace(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}

// Prepare copies the running image, so that the next delta is applied in place
// to that copy: neither copying nor syncing 50 MB is then between a save and
// its answer. It does nothing if there is such a copy or no space for one.
func (h *Host) Prepare(ctx context.Context, name string) error {
	a, err := h.open(name)
	if err != nil {
		return err
	}
	st, err := a.readState()
	if err != nil || st.Current == nil {
		return err
	}
	version := short(st.Current.Digest)
	next := filepath.Join(a.images(), nextPrefix+version)
	if _, err := os.Stat(next); err == nil {
		return nil
	}
	src, err := os.Open(a.image(version))
	if err != nil {
		return fmt.Errorf("prepare the next image: %w", err)
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if a.room(2*info.Size()) != nil {
		return nil
	}
	dst, err := a.temp()
	if err != nil {
		return fmt.Errorf("prepare the next image: %w", err)
	}
	defer dst.Close()
	err = delta.Clone(ctx, dst, src)
	if err == nil {
		err = dst.Sync()
	}
	if err == nil {
		crashpoint("prepared")
		err = os.Rename(dst.Name(), next)
	}
	if err == nil {
		return syncPath(a.images())
	}
	return errors.Join(fmt.Errorf("prepare the next image: %w", err), removeIfThere(dst.Name()))
}
