package delta

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyRange copies within the kernel where it can, which shares the blocks on
// file systems that know how.
func copyRange(dst *os.File, out int64, src io.ReaderAt, off, length int64) error {
	file, ok := src.(*os.File)
	for ok && length > 0 {
		n, err := unix.CopyFileRange(int(file.Fd()), &off, int(dst.Fd()), &out, int(min(length, 1<<30)), 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			break // EXDEV, ENOSYS, EINVAL, …: by hand, which also names a real error
		}
		length -= int64(n)
	}
	return copyBytes(dst, out, src, off, length)
}

// Clone makes dst a copy of src, sharing its blocks where the file system can.
// It is what [ApplyOptions.Prepared] wants.
func Clone(ctx context.Context, dst, src *os.File) error {
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	return cloneByCopy(ctx, dst, src)
}
