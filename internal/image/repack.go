package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// repackBlock is the grain in which Repack tells what it kept.
const repackBlock = bigAlign

// Repack does what [Pack] does for erofs, into the file dst, which holds an
// earlier image, and writes only the blocks that differ from it: after a small
// edit reading is all that is left of the work. Packed.Kept then tells what
// stayed. When it fails, dst is of no use any more.
func Repack(ctx context.Context, tree *Tree, dst string) (p Packed, err error) {
	f, err := os.OpenFile(dst, os.O_RDWR, 0)
	if err != nil {
		return Packed{}, fmt.Errorf("pack %s: %w", dst, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	l, err := planErofs(tree)
	if err != nil {
		return Packed{}, fmt.Errorf("pack %s: %w", dst, err)
	}
	r := repacker{layout: l, dst: f, size: l.total * BlockSize}
	if err := r.run(ctx); err != nil {
		return Packed{}, fmt.Errorf("pack %s: %w", dst, err)
	}
	return Packed{Path: dst, Format: Erofs, Size: r.size, Files: len(tree.entries), Kept: r.same}, nil
}

type repacker struct {
	layout *erofsLayout
	dst    *os.File
	size   int64 // of the new image
	head   []byte
	big    []io.ReaderAt // content of layout.big
	kept   []bool        // of each repackBlock of the new image
}

func (r *repacker) run(ctx context.Context) error {
	var head bytes.Buffer
	if err := r.layout.writeHead(ctx, &head); err != nil {
		return err
	}
	r.head = head.Bytes()
	for _, n := range r.layout.big {
		in, err := n.openSized()
		if err != nil {
			return err
		}
		defer in.Close()
		at, ok := in.(io.ReaderAt)
		if !ok {
			data, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			at = bytes.NewReader(data)
		}
		r.big = append(r.big, at)
	}
	r.kept = make([]bool, (r.size+repackBlock-1)/repackBlock)
	if err := r.blocks(ctx); err != nil {
		return err
	}
	return r.dst.Truncate(r.size)
}

// blocks brings every block to what it shall be, with all processors.
func (r *repacker) blocks(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(runtime.GOMAXPROCS(0), 4) {
		g.Go(func() error {
			now, before := make([]byte, repackBlock), make([]byte, repackBlock)
			for {
				i := next.Add(1) - 1
				if i >= int64(len(r.kept)) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := r.block(i, now, before); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

func (r *repacker) block(i int64, now, before []byte) error {
	at := i * repackBlock
	now = now[:min(repackBlock, r.size-at)]
	if err := r.fill(now, at); err != nil {
		return err
	}
	n, err := r.dst.ReadAt(before[:len(now)], at)
	if err != nil && err != io.EOF {
		return err
	}
	if bytes.Equal(now, before[:n]) {
		r.kept[i] = true
		return nil
	}
	_, err = r.dst.WriteAt(now, at)
	return err
}

// fill makes buf what the image has at an offset.
func (r *repacker) fill(buf []byte, at int64) error {
	clear(buf)
	if at < int64(len(r.head)) {
		copy(buf, r.head[at:])
	}
	for i, n := range r.layout.big {
		start := n.block * BlockSize
		from, to := max(start, at), min(start+n.size, at+int64(len(buf)))
		if from >= to {
			continue
		}
		if k, err := r.big[i].ReadAt(buf[from-at:to-at], from-start); k < int(to-from) {
			if err == io.EOF {
				return changed(n.Entry)
			}
			return err
		}
	}
	return nil
}

// same says whether bytes [at, at+n) stayed as they were.
func (r *repacker) same(at, n int64) bool {
	if at < 0 || n < 0 || at > r.size-n {
		return false
	}
	for i := at / repackBlock; i*repackBlock < at+n; i++ {
		if !r.kept[i] {
			return false
		}
	}
	return true
}
