package delta

import (
	"context"
	"fmt"
	"io"
	"os"
)

func copyBytes(dst *os.File, out int64, src io.ReaderAt, off, length int64) error {
	if length == 0 {
		return nil
	}
	n, err := io.Copy(io.NewOffsetWriter(dst, out), io.NewSectionReader(src, off, length))
	if err != nil {
		return err
	}
	if n != length {
		return fmt.Errorf("copy %d bytes at %d of the base: %w", length, off, io.ErrUnexpectedEOF)
	}
	return nil
}

// cloneStep is how much cloneByCopy copies between looks at its context.
const cloneStep = 16 << 20

func cloneByCopy(ctx context.Context, dst, src *os.File) error {
	info, err := src.Stat()
	if err != nil {
		return err
	}
	// It has its full size only when it is complete: Apply relies on it.
	size := info.Size()
	if err := dst.Truncate(0); err != nil {
		return err
	}
	for off := int64(0); off < size; off += cloneStep {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := copyRange(dst, off, src, off, min(cloneStep, size-off)); err != nil {
			return err
		}
	}
	return nil
}
