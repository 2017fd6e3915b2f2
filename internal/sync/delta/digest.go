package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// BlockSize is how many bytes of an image one hash of [Sums] covers.
const BlockSize = 1 << 20

// Digest names an image by its content: the SHA-256 of the SHA-256s of its
// blocks of [BlockSize] bytes (the last one may be shorter), followed by its
// size as eight little-endian bytes. A changed image is thereby verified by
// hashing only the blocks that changed.
type Digest [sha256.Size]byte

// String returns all 64 hex digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short returns the first 12 hex digits, an image's version.
func (d Digest) Short() string { return hex.EncodeToString(d[:6]) }

// IsZero reports whether d names no image.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText is String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is Parse.
func (d *Digest) UnmarshalText(text []byte) (err error) {
	*d, err = Parse(string(text))
	return err
}

// Parse reads what String wrote: exactly 64 lower-case hex digits.
func Parse(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(len(d)) {
		return Digest{}, fmt.Errorf("parse digest: %d characters, want %d", len(s), hex.EncodedLen(len(d)))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("parse digest: %w", err)
	}
	if d.String() != s {
		return Digest{}, fmt.Errorf("parse digest: %q has upper-case digits", s)
	}
	return d, nil
}

// Sums are the hashes of an image's blocks. Keep them beside the image: they
// make the next comparison and the next verification cheap.
type Sums struct {
	Size   int64 // of the image, in bytes
	Blocks [][sha256.Size]byte
}

func newSums(size int64) *Sums {
	return &Sums{Size: size, Blocks: make([][sha256.Size]byte, (size+BlockSize-1)/BlockSize)}
}

// Digest of the image that has these sums.
func (s *Sums) Digest() Digest {
	h := sha256.New()
	for i := range s.Blocks {
		h.Write(s.Blocks[i][:])
	}
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(s.Size)))
	return Digest(h.Sum(nil))
}

// Same reports whether bytes [at, at+n) are equal in the images of s and o: it
// is so if all blocks are that they lie in, and else not known.
func (s *Sums) Same(o *Sums, at, n int64) bool {
	if at < 0 || n < 0 || at > min(s.Size, o.Size)-n {
		return false
	}
	for i := at / BlockSize; i*BlockSize < at+n; i++ {
		if s.Blocks[i] != o.Blocks[i] {
			return false
		}
	}
	return true
}

// MarshalBinary returns the size followed by the hashes.
func (s *Sums) MarshalBinary() ([]byte, error) {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+len(s.Blocks)*sha256.Size), uint64(s.Size))
	for i := range s.Blocks {
		b = append(b, s.Blocks[i][:]...)
	}
	return b, nil
}

// UnmarshalBinary reads what MarshalBinary wrote.
func (s *Sums) UnmarshalBinary(b []byte) error {
	if len(b) < 8 {
		return fmt.Errorf("read sums: %d bytes are too few", len(b))
	}
	size, hashes := binary.LittleEndian.Uint64(b), b[8:]
	blocks := uint64(len(hashes) / sha256.Size)
	if len(hashes)%sha256.Size != 0 || size > blocks*BlockSize || size+BlockSize <= blocks*BlockSize {
		return fmt.Errorf("read sums: %d bytes of hashes do not fit an image of %d bytes", len(hashes), size)
	}
	*s = *newSums(int64(size))
	for i := range s.Blocks {
		copy(s.Blocks[i][:], hashes[i*sha256.Size:])
	}
	return nil
}

// Source is one image to read. Its bytes must not change while it is in use.
type Source struct {
	io.ReaderAt
	Size int64
	Sums *Sums // nil if not known
	// Kept reports of bytes [at, at+n) of an image to compare with a base
	// whether they are known to be the base's at the same place: they are not
	// read then. It may be nil.
	Kept func(at, n int64) bool
}

// FileSource is f as it is now, without sums.
func FileSource(f *os.File) (*Source, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &Source{ReaderAt: f, Size: info.Size()}, nil
}

// block reads block i into buf, which has BlockSize bytes. Past the end it
// returns an empty slice.
func (s *Source) block(buf []byte, i int) ([]byte, error) {
	buf = buf[:s.length(i)]
	if len(buf) == 0 {
		return nil, nil
	}
	return buf, readFullAt(s.ReaderAt, buf, int64(i)*BlockSize)
}

// length is how many bytes block i has: 0 behind the end.
func (s *Source) length(i int) int64 {
	return max(0, min(BlockSize, s.Size-int64(i)*BlockSize))
}

// readFullAt fills buf or fails: a short file is an error, not the end.
func readFullAt(r io.ReaderAt, buf []byte, off int64) error {
	n, err := r.ReadAt(buf, off)
	if n == len(buf) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(buf), off, err)
}

// Sum hashes a whole image, on all processors.
func Sum(ctx context.Context, r io.ReaderAt, size int64) (*Sums, error) {
	sums := newSums(size)
	if err := hashBlocks(ctx, &Source{ReaderAt: r, Size: size}, sums, nil); err != nil {
		return nil, fmt.Errorf("hash image: %w", err)
	}
	return sums, nil
}

// Resum hashes only those blocks of image that differ from prev, which must
// have its Sums: comparing is several times faster than hashing.
func Resum(ctx context.Context, prev, image *Source) (*Sums, error) {
	if prev == nil || prev.Sums == nil {
		return Sum(ctx, image, image.Size)
	}
	sums := newSums(image.Size)
	err := eachBlock(ctx, len(sums.Blocks), 2, func(i int, bufs [][]byte) error {
		now, err := image.block(bufs[0], i)
		if err != nil {
			return err
		}
		before, err := prev.block(bufs[1], i)
		if err != nil {
			return err
		}
		if bytes.Equal(now, before) {
			sums.Blocks[i] = prev.Sums.Blocks[i]
		} else {
			sums.Blocks[i] = sha256.Sum256(now)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("hash image: %w", err)
	}
	return sums, nil
}

// hashBlocks fills in the sums of those blocks that want asks for; nil is all.
func hashBlocks(ctx context.Context, src *Source, sums *Sums, want []bool) error {
	return eachBlock(ctx, len(sums.Blocks), 1, func(i int, bufs [][]byte) error {
		if want != nil && !want[i] {
			return nil
		}
		b, err := src.block(bufs[0], i)
		if err != nil {
			return err
		}
		sums.Blocks[i] = sha256.Sum256(b)
		return nil
	})
}

// eachBlock calls do for the blocks 0..n-1 on all processors. Each call may
// use the given number of buffers of BlockSize bytes until it returns.
func eachBlock(ctx context.Context, n, buffers int, do func(i int, bufs [][]byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(n, runtime.GOMAXPROCS(0), maxWorkers) {
		g.Go(func() error {
			bufs := make([][]byte, buffers)
			for i := range bufs {
				bufs[i] = make([]byte, BlockSize)
			}
			for {
				i := int(next.Add(1) - 1)
				if i >= n {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := do(i, bufs); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}
