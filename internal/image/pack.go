package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"devbox/internal/hint"
)

// Format is a file system that an image can have.
type Format string

// The formats. Erofs is packed without compression: fastest to build and to
// start, and smallest to send as a delta.
const (
	Erofs    Format = "erofs"
	Squashfs Format = "squashfs"
)

// BlockSize divides the size of every image: a loop device cuts off the rest.
const BlockSize = 4096

// Packed is an image that was written.
type Packed struct {
	Path   string
	Format Format
	Size   int64 // bytes, a multiple of BlockSize
	Files  int   // entries of the tree
	Kept   Same  // what of an image that was there stayed as it was; nil from Pack
}

// Pack writes tree as an image at dst. The same tree gives the same bytes. It
// writes under a temporary name in dst's folder and renames; when it fails or
// ctx ends, nothing is left and dst is as it was.
func Pack(ctx context.Context, tree *Tree, format Format, dst string) (Packed, error) {
	var write func(context.Context, *Tree, *os.File) error
	switch format {
	case Erofs:
		write = packErofs
	case Squashfs:
		write = packSquashfs
	default:
		return Packed{}, hint.Errorf("use erofs or squashfs", "pack %s: unknown image format %q", dst, format)
	}
	size, err := writeImage(ctx, tree, dst, write)
	if err != nil {
		return Packed{}, fmt.Errorf("pack %s: %w", dst, err)
	}
	return Packed{Path: dst, Format: format, Size: size, Files: len(tree.entries)}, nil
}

func writeImage(ctx context.Context, tree *Tree, dst string, write func(context.Context, *Tree, *os.File) error) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(dst), "."+filepath.Base(dst)+".*")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(0o644); err != nil {
		return 0, err
	}
	if err := write(ctx, tree, f); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if size = info.Size(); size%BlockSize != 0 {
		size += BlockSize - size%BlockSize
		if err := f.Truncate(size); err != nil {
			return 0, err
		}
	}
	if err := f.Close(); err != nil {
		return 0, err
	}
	return size, os.Rename(f.Name(), dst)
}
