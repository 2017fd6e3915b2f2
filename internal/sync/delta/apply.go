package delta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// Limits bound what a stream may ask for.
type Limits struct {
	MaxSize int64 // of the image, in bytes; 0 allows nothing
}

// ApplyOptions are the choices of Apply.
type ApplyOptions struct {
	// Prepared says that dst is already a copy of base, which Clone makes:
	// what stays in place is then neither copied nor hashed. A dst that is
	// not as long as base was not completed, and is made from scratch. After
	// a power cut only a copy that was synced can be relied on.
	Prepared bool
	// Want is the digest that the stream must announce, if it is not zero.
	Want Digest
	// Progress is called from Apply's goroutine after each operation was
	// read, with the bytes of the image so far. May be nil.
	Progress func(done, total int64)
}

// Apply reads a delta from r and makes dst the image that it describes. base
// is what the delta was made against, nil if it was against nothing; its Sums
// are computed unless it brings them.
//
// On return without an error dst has exactly the announced size and digest;
// it is not synced to disk. On an error, dst holds nothing of use: one of
// ErrCorrupt, ErrVersion, ErrWrongBase, ErrTooLarge or ErrDigest says that the
// stream is at fault, io.ErrUnexpectedEOF that it was cut off. Apply reads
// nothing past the end of the delta. It uses at most some 40 MB of memory,
// whatever the stream says. It cannot interrupt a Read that blocks when ctx
// ends: close the connection for that.
func Apply(ctx context.Context, r io.Reader, base *Source, dst *os.File, limits Limits, opts ApplyOptions) (*Sums, Stats, error) {
	start := time.Now()
	a := &applier{in: r, base: base, dst: dst, opts: opts}
	sums, err := a.run(ctx, limits)
	a.stats.Took = time.Since(start)
	if err != nil {
		return nil, a.stats, fmt.Errorf("apply delta: %w", err)
	}
	return sums, a.stats, nil
}

type applier struct {
	in    io.Reader
	base  *Source
	dst   *os.File
	opts  ApplyOptions
	stats Stats
	head  header
	// kept tells for each block how many of its bytes stayed in place, which
	// need no hashing if it is all of them.
	kept []int64
}

func (a *applier) run(ctx context.Context, limits Limits) (*Sums, error) {
	if err := a.readHeader(ctx, limits); err != nil {
		return nil, err
	}
	info, err := a.dst.Stat()
	if err != nil {
		return nil, err
	}
	a.opts.Prepared = a.opts.Prepared && info.Size() == a.base.Size
	if err := a.dst.Truncate(a.head.size); err != nil {
		return nil, err
	}
	sums := newSums(a.head.size)
	a.kept = make([]int64, len(sums.Blocks))
	if err := a.operations(ctx); err != nil {
		return nil, err
	}
	want := make([]bool, len(sums.Blocks))
	for i := range want {
		length := min(BlockSize, a.head.size-int64(i)*BlockSize)
		if a.kept[i] == length && length == min(BlockSize, a.base.Size-int64(i)*BlockSize) {
			sums.Blocks[i] = a.base.Sums.Blocks[i]
		} else {
			want[i] = true
		}
	}
	if err := hashBlocks(ctx, &Source{ReaderAt: a.dst, Size: a.head.size}, sums, want); err != nil {
		return nil, err
	}
	if got := sums.Digest(); got != a.head.image {
		return nil, fmt.Errorf("%w: it has %s, announced was %s", ErrDigest, got, a.head.image)
	}
	return sums, nil
}

func (a *applier) readHeader(ctx context.Context, limits Limits) (err error) {
	var b [headerSize]byte
	if err := a.read(b[:]); err != nil {
		return err
	}
	if a.head, err = parseHeader(&b); err != nil {
		return err
	}
	if a.head.size > limits.MaxSize {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, a.head.size, limits.MaxSize)
	}
	if !a.opts.Want.IsZero() && a.head.image != a.opts.Want {
		return fmt.Errorf("%w: the delta makes %s, wanted is %s", ErrDigest, a.head.image, a.opts.Want)
	}
	if a.head.base.IsZero() {
		if a.head.baseSize != 0 {
			return fmt.Errorf("%w: a base without a digest", ErrCorrupt)
		}
		a.base = &Source{Sums: newSums(0)}
		return nil
	}
	if a.base == nil {
		return fmt.Errorf("%w: %s, there is none here", ErrWrongBase, a.head.base)
	}
	sums := a.base.Sums
	if sums == nil {
		if sums, err = Sum(ctx, a.base, a.base.Size); err != nil {
			return err
		}
	}
	if got := sums.Digest(); got != a.head.base || a.base.Size != a.head.baseSize {
		return fmt.Errorf("%w: %s, here is %s", ErrWrongBase, a.head.base, got)
	}
	a.base = &Source{ReaderAt: a.base.ReaderAt, Size: a.base.Size, Sums: sums}
	return nil
}

// read fills b from the stream.
func (a *applier) read(b []byte) error {
	n, err := io.ReadFull(a.in, b)
	a.stats.Wire += int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// chunk is a data operation with its payload, on its way to a worker.
type chunk struct {
	op
	out int64
	buf []byte // the payload
}

// operations reads and carries out all operations. Copies run here, chunks on
// the workers, which hand the buffers of payloads back through free.
func (a *applier) operations(ctx context.Context) error {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	g, ctx := errgroup.WithContext(ctx)
	chunks := make(chan chunk)
	free := make(chan []byte, workers+1)
	for range cap(free) {
		free <- nil
	}
	for range workers {
		g.Go(func() error {
			var d decompressor
			defer d.close()
			for c := range chunks {
				if err := d.write(a, c); err != nil {
					return err
				}
				free <- c.buf
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(chunks)
		for out := int64(0); ; {
			if err := ctx.Err(); err != nil {
				return err
			}
			var b [opSize]byte
			if err := a.read(b[:]); err != nil {
				return err
			}
			o, err := parseOp(&b, a.head.size-out, a.base.Size)
			if err != nil {
				return err
			}
			switch o.kind {
			case kindEnd:
				return nil
			case kindCopy:
				if err := a.copy(o, out); err != nil {
					return err
				}
			case kindData:
				c := chunk{op: o, out: out}
				select {
				case c.buf = <-free:
				case <-ctx.Done():
					return ctx.Err()
				}
				if c.buf == nil {
					c.buf = make([]byte, maxChunk)
				}
				if err := a.read(c.buf[:o.payload]); err != nil {
					return err
				}
				select {
				case chunks <- c:
				case <-ctx.Done():
					return ctx.Err()
				}
				a.stats.Literal += int64(o.length)
			}
			out += int64(o.length)
			if a.opts.Progress != nil {
				a.opts.Progress(out, a.head.size)
			}
		}
	})
	return g.Wait()
}

// copy carries out a copy from the base.
func (a *applier) copy(o op, out int64) error {
	a.stats.Copied += int64(o.length)
	if o.off == out {
		for at, end := out, out+int64(o.length); at < end; {
			i := at / BlockSize
			n := min(end, (i+1)*BlockSize) - at
			a.kept[i] += n
			at += n
		}
		if a.opts.Prepared {
			return nil
		}
	}
	return copyRange(a.dst, out, a.base.ReaderAt, o.off, int64(o.length))
}

// decompressor carries out data operations, one at a time.
type decompressor struct {
	dec  *zstd.Decoder
	raw  []byte
	dict []byte
}

func (d *decompressor) close() {
	if d.dec != nil {
		d.dec.Close()
	}
}

func (d *decompressor) write(a *applier, c chunk) error {
	raw := c.buf[:c.payload]
	if c.codec == codecZstd {
		var err error
		if raw, err = d.decode(a.base, c); err != nil {
			return err
		}
	}
	_, err := a.dst.WriteAt(raw, c.out)
	return err
}

func (d *decompressor) decode(base *Source, c chunk) (raw []byte, err error) {
	if d.dec == nil {
		d.raw, d.dict = make([]byte, maxChunk), make([]byte, maxDict)
		d.dec, err = zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxMemory(maxChunk), zstd.WithDecoderMaxWindow(maxChunk+maxDict))
		if err != nil {
			return nil, err
		}
	}
	if c.dict > 0 {
		dict := d.dict[:c.dict]
		if err := readFullAt(base, dict, c.off); err != nil {
			return nil, err
		}
		if err := d.dec.ResetWithOptions(nil, zstd.WithDecoderDictRaw(dictID, dict)); err != nil {
			return nil, err
		}
	}
	raw, err = d.dec.DecodeAll(c.buf[:c.payload], d.raw[:0:c.length])
	if err != nil {
		return nil, fmt.Errorf("%w: chunk at %d: %w", ErrCorrupt, c.out, err)
	}
	if len(raw) != int(c.length) {
		return nil, fmt.Errorf("%w: chunk at %d has %d bytes, announced were %d", ErrCorrupt, c.out, len(raw), c.length)
	}
	return raw, nil
}
