//go:build !linux

package delta

import (
	"context"
	"io"
	"os"
)

func copyRange(dst *os.File, out int64, src io.ReaderAt, off, length int64) error {
	return copyBytes(dst, out, src, off, length)
}

// Clone makes dst a copy of src. It is what [ApplyOptions.Prepared] wants.
func Clone(ctx context.Context, dst, src *os.File) error {
	return cloneByCopy(ctx, dst, src)
}
