package delta

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// Mode says what a delta is optimised for.
type Mode int

const (
	// Small is for a slow link: new bytes are compressed against the old
	// bytes around the same place.
	Small Mode = iota
	// Fast is for a machine on this computer: new bytes are sent as they are,
	// because compressing them takes longer than loopback does.
	Fast
)

// EncodeOptions are the choices of Encode; the zero value is for a slow link.
type EncodeOptions struct {
	Mode Mode
	// Progress is called from Encode's goroutine after each operation with
	// the bytes of the image that the stream has covered so far. May be nil.
	Progress func(done, total int64)
}

// Stats tell what a delta cost. Sizes are in bytes.
type Stats struct {
	Wire    int64 // of the stream
	Copied  int64 // of the image, taken from the base
	Literal int64 // of the image, sent
	Took    time.Duration
}

// Encode writes the delta that makes image out of base, which may be nil.
//
// It returns soon after ctx ends, but cannot interrupt a Write that blocks:
// close the connection for that.
func Encode(ctx context.Context, w io.Writer, base, image *Source, opts EncodeOptions) (Stats, error) {
	start := time.Now()
	p, err := Compare(ctx, base, image)
	if err != nil {
		return Stats{}, err
	}
	stats, err := p.Encode(ctx, w, opts)
	stats.Took = time.Since(start)
	return stats, err
}

// Encode writes the delta of a plan.
func (p *Plan) Encode(ctx context.Context, w io.Writer, opts EncodeOptions) (stats Stats, err error) {
	start := time.Now()
	out := &counter{w: w}
	defer func() {
		stats = Stats{Wire: out.n, Copied: p.Copied, Literal: p.Literal, Took: time.Since(start)}
		if err != nil {
			err = fmt.Errorf("send delta: %w", err)
		}
	}()
	h := header{size: p.image.Size, baseSize: p.base.Size, image: p.Sums.Digest()}
	if p.base.Size > 0 {
		if p.base.Sums == nil {
			if p.base.Sums, err = Sum(ctx, p.base, p.base.Size); err != nil {
				return stats, err
			}
		}
		h.base = p.base.Sums.Digest()
	}
	if _, err := out.Write(h.append(nil)); err != nil {
		return stats, err
	}
	if err := p.writeOps(ctx, out, opts); err != nil {
		return stats, err
	}
	_, err = out.Write(op{}.append(nil))
	return stats, err
}

// writeOps encodes on all processors and writes in order. Each operation has
// a channel of its own; how many wait is bounded by the queue of channels.
func (p *Plan) writeOps(ctx context.Context, w io.Writer, opts EncodeOptions) error {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	type piece struct {
		op      op
		payload []byte
	}
	type job struct {
		planned
		done chan piece
	}
	jobs := make(chan job)
	queue := make(chan job, 2*workers)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(jobs)
		defer close(queue)
		for _, o := range p.ops(opts.Mode) {
			j := job{o, make(chan piece, 1)}
			select {
			case queue <- j:
			case <-ctx.Done():
				return ctx.Err()
			}
			if o.kind == kindCopy {
				j.done <- piece{op: o.op}
				continue
			}
			select {
			case jobs <- j:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			c := compressor{mode: opts.Mode}
			for j := range jobs {
				o, payload, err := c.encode(p, j.planned)
				if err != nil {
					return err
				}
				j.done <- piece{o, payload}
			}
			return nil
		})
	}
	g.Go(func() error {
		var covered int64
		var head []byte
		for j := range queue {
			var d piece
			select {
			case d = <-j.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			head = d.op.append(head[:0])
			if _, err := w.Write(head); err != nil {
				return err
			}
			if len(d.payload) > 0 {
				if _, err := w.Write(d.payload); err != nil {
					return err
				}
			}
			covered += int64(d.op.length)
			if opts.Progress != nil {
				opts.Progress(covered, p.image.Size)
			}
		}
		return nil
	})
	return g.Wait()
}

// planned is an operation before its payload is known.
type planned struct {
	op
	out int64 // offset in the image
}

// Sizes of chunks and dictionaries. Small chunks let more processors work on
// a small change; a dictionary reaches further than its chunk on both sides
// because code that grew has moved all that follows it.
const (
	deltaChunk = 256 << 10
	slack      = 128 << 10
)

// ops cuts the runs into operations.
func (p *Plan) ops(mode Mode) []planned {
	chunk := int64(maxChunk)
	if mode == Small && p.base.Size > 0 {
		chunk = deltaChunk
	}
	var ops []planned
	var shift int64 // how far the content before this run had moved
	for _, r := range p.runs {
		if r.from != literal {
			shift = r.from - r.out
			for done := int64(0); done < r.length; done += maxCopy {
				ops = append(ops, planned{op{kind: kindCopy, length: uint32(min(maxCopy, r.length-done)), off: r.from + done}, r.out + done})
			}
			continue
		}
		for done := int64(0); done < r.length; done += chunk {
			o := planned{op{kind: kindData, length: uint32(min(chunk, r.length-done))}, r.out + done}
			if mode == Small {
				from := max(0, o.out+shift-slack)
				to := min(p.base.Size, o.out+shift+int64(o.length)+slack)
				if from < to {
					o.off, o.dict = from, uint32(to-from)
				}
			}
			ops = append(ops, o)
		}
	}
	return ops
}

// compressor encodes data operations, one at a time.
type compressor struct {
	mode  Mode
	dict  []byte
	plain *zstd.Encoder // without a dictionary
	delta *zstd.Encoder
}

// dictID is any number but 0, which would mean no dictionary.
const dictID = 1

func (c *compressor) encode(p *Plan, o planned) (op, []byte, error) {
	raw := make([]byte, o.length)
	if err := readFullAt(p.image, raw, o.out); err != nil {
		return op{}, nil, err
	}
	verbatim := op{kind: kindData, codec: codecRaw, length: o.length, payload: o.length}
	if c.mode == Fast {
		return verbatim, raw, nil
	}
	enc, err := c.encoder(p.base, o.op)
	if err != nil {
		return op{}, nil, err
	}
	payload := enc.EncodeAll(raw, make([]byte, 0, len(raw)/4))
	if len(payload) >= len(raw) {
		return verbatim, raw, nil
	}
	o.codec, o.payload = codecZstd, uint32(len(payload))
	return o.op, payload, nil
}

func (c *compressor) encoder(base *Source, o op) (enc *zstd.Encoder, err error) {
	options := []zstd.EOption{
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), // the whole image is verified
		zstd.WithSingleSegment(true),
	}
	if o.dict == 0 {
		if c.plain == nil {
			c.plain, err = zstd.NewWriter(nil, append(options, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))...)
		}
		return c.plain, err
	}
	if cap(c.dict) < int(o.dict) {
		c.dict = make([]byte, o.dict)
	}
	c.dict = c.dict[:o.dict]
	if err := readFullAt(base, c.dict, o.off); err != nil {
		return nil, err
	}
	dict := zstd.WithEncoderDictRaw(dictID, c.dict)
	if c.delta == nil {
		c.delta, err = zstd.NewWriter(nil, append(options, dict, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(maxDict))...)
		return c.delta, err
	}
	return c.delta, c.delta.ResetWithOptions(nil, dict)
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
