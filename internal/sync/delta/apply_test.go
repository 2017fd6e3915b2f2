package delta

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// stream makes a delta by hand, of a header and operations with payloads.
func stream(h header, parts ...any) []byte {
	b := h.append(nil)
	for _, p := range parts {
		switch p := p.(type) {
		case op:
			b = p.append(b)
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

func digestOf(t testing.TB, b []byte) Digest {
	t.Helper()
	sums, err := Sum(context.Background(), bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return sums.Digest()
}

func TestApplyRefuses(t *testing.T) {
	old := bytes.Repeat([]byte("base"), 2*pageSize)
	image := bytes.Repeat([]byte("data"), 2*pageSize)
	size := int64(len(image))
	whole := header{size: size, image: digestOf(t, image)}
	onBase := header{size: size, image: digestOf(t, image), baseSize: int64(len(old)), base: digestOf(t, old)}
	all := op{kind: kindData, length: uint32(size), payload: uint32(size)}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := enc.EncodeAll(make([]byte, 64<<20), nil)
	short := enc.EncodeAll(make([]byte, 100), nil)
	valid := stream(whole, all, image, op{})
	otherVersion := bytes.Clone(valid)
	otherVersion[7]++

	tests := map[string]struct {
		stream []byte
		opts   ApplyOptions
		want   error
	}{
		"nothing":              {nil, ApplyOptions{}, io.ErrUnexpectedEOF},
		"no delta":             {bytes.Repeat([]byte("x"), 200), ApplyOptions{}, ErrCorrupt},
		"another version":      {otherVersion, ApplyOptions{}, ErrVersion},
		"negative size":        {stream(header{size: -1}), ApplyOptions{}, ErrCorrupt},
		"too large":            {stream(header{size: 1 << 40}), ApplyOptions{}, ErrTooLarge},
		"not what is wanted":   {valid, ApplyOptions{Want: Digest{1}}, ErrDigest},
		"unknown base":         {stream(header{size: size, baseSize: 5, base: Digest{1}}), ApplyOptions{}, ErrWrongBase},
		"base of another size": {stream(header{size: size, baseSize: 5, base: onBase.base}), ApplyOptions{}, ErrWrongBase},
		"base without digest":  {stream(header{size: size, baseSize: 5}), ApplyOptions{}, ErrCorrupt},
		"cut in the header":    {valid[:50], ApplyOptions{}, io.ErrUnexpectedEOF},
		"cut in a payload":     {valid[:len(valid)-opSize-9], ApplyOptions{}, io.ErrUnexpectedEOF},
		"cut before the end":   {valid[:len(valid)-opSize], ApplyOptions{}, io.ErrUnexpectedEOF},
		"ends too early":       {stream(whole, op{}), ApplyOptions{}, ErrCorrupt},
		"past the size":        {stream(whole, all, image, all, image, op{}), ApplyOptions{}, ErrCorrupt},
		"copy without base":    {stream(whole, op{kind: kindCopy, length: 1}), ApplyOptions{}, ErrCorrupt},
		"copy past the base":   {stream(onBase, op{kind: kindCopy, length: 8, off: int64(len(old)) - 7}), ApplyOptions{}, ErrCorrupt},
		"copy before the base": {stream(onBase, op{kind: kindCopy, length: 8, off: -1}), ApplyOptions{}, ErrCorrupt},
		"copy that overflows":  {stream(onBase, op{kind: kindCopy, length: 8, off: 1<<63 - 4}), ApplyOptions{}, ErrCorrupt},
		"copy of nothing":      {stream(onBase, op{kind: kindCopy}), ApplyOptions{}, ErrCorrupt},
		"chunk of nothing":     {stream(whole, op{kind: kindData}), ApplyOptions{}, ErrCorrupt},
		"chunk too long":       {stream(header{size: 1 << 25}, op{kind: kindData, length: maxChunk + 1, payload: maxChunk + 1}), ApplyOptions{}, ErrCorrupt},
		"payload too long":     {stream(whole, op{kind: kindData, codec: codecZstd, length: 10, payload: 1 << 30}), ApplyOptions{}, ErrCorrupt},
		"unknown codec":        {stream(whole, op{kind: kindData, codec: 9, length: 10, payload: 5}), ApplyOptions{}, ErrCorrupt},
		"unknown operation":    {stream(whole, op{kind: 9}), ApplyOptions{}, ErrCorrupt},
		"dictionary too long":  {stream(onBase, op{kind: kindData, codec: codecZstd, length: 10, payload: 5, dict: maxDict + 1}), ApplyOptions{}, ErrCorrupt},
		"dictionary past base": {stream(onBase, op{kind: kindData, codec: codecZstd, length: 10, payload: 5, dict: 9, off: int64(len(old))}), ApplyOptions{}, ErrCorrupt},
		"zip bomb":             {stream(whole, op{kind: kindData, codec: codecZstd, length: uint32(size), payload: uint32(len(bomb))}, bomb, op{}), ApplyOptions{}, ErrCorrupt},
		"chunk that is short":  {stream(whole, op{kind: kindData, codec: codecZstd, length: uint32(size), payload: uint32(len(short))}, short, op{}), ApplyOptions{}, ErrCorrupt},
		"not compressed":       {stream(whole, op{kind: kindData, codec: codecZstd, length: uint32(size), payload: 4}, []byte("junk"), op{}), ApplyOptions{}, ErrCorrupt},
		"another content":      {stream(whole, all, bytes.Repeat([]byte("fake"), 2*pageSize), op{}), ApplyOptions{}, ErrDigest},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dst := target(t, nil)
			limits := Limits{MaxSize: 1 << 26}
			_, _, err := Apply(context.Background(), bytes.NewReader(tt.stream), source(old), dst, limits, tt.opts)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if info, _ := dst.Stat(); info.Size() > limits.MaxSize {
				t.Errorf("the file has %d bytes", info.Size())
			}
		})
	}
}

// A prepared file that is not a copy of the base after all is found out where
// blocks are hashed; and a base whose content is not what its sums say.
func TestApplyVerifiesWhatItTouches(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	old := randomBytes(rng, 2*BlockSize)
	image := bytes.Clone(old)
	image[BlockSize+5] ^= 1
	wire, _ := encode(t, source(old), source(image), Fast)
	lie := bytes.Clone(old)
	lie[2*BlockSize-1] ^= 1
	_, _, err := Apply(context.Background(), bytes.NewReader(wire), source(old), target(t, lie), Limits{MaxSize: 1 << 30}, ApplyOptions{Prepared: true})
	if !errors.Is(err, ErrDigest) {
		t.Errorf("error %v, want %v", err, ErrDigest)
	}
}

func TestApplyToIncompleteCopy(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 15))
	old := randomBytes(rng, 3*BlockSize)
	image := bytes.Clone(old)
	image[5] ^= 1
	wire, _ := encode(t, source(old), source(image), Fast)
	dst := target(t, old[:2*BlockSize])
	if _, _, err := Apply(context.Background(), bytes.NewReader(wire), source(old), dst, Limits{MaxSize: 1 << 30}, ApplyOptions{Prepared: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dst.Name()); err != nil || !bytes.Equal(got, image) {
		t.Errorf("the image arrived changed: %v", err)
	}
}

// endless is a stream of compressed chunks that costs no memory itself.
type endless struct {
	head  []byte
	piece []byte
	at    int
	peak  *atomic.Uint64
}

func (e *endless) Read(b []byte) (int, error) {
	if len(e.head) > 0 {
		n := copy(b, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	if e.at == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		e.peak.Store(max(e.peak.Load(), m.HeapAlloc))
	}
	n := copy(b, e.piece[e.at:])
	e.at = (e.at + n) % len(e.piece)
	return n, nil
}

func TestApplyMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 10))
	raw := randomBytes(rng, maxChunk)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	payload := enc.EncodeAll(raw, nil)
	enc = nil
	piece := op{kind: kindData, codec: codecZstd, length: maxChunk, payload: uint32(len(payload))}.append(nil)
	piece = append(piece, payload...)
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var peak atomic.Uint64
	in := &endless{head: header{size: 60 << 20}.append(nil), piece: piece, peak: &peak}
	_, _, err = Apply(context.Background(), in, nil, target(t, nil), Limits{MaxSize: 60 << 20}, ApplyOptions{})
	if !errors.Is(err, ErrCorrupt) { // the stream goes on past the size
		t.Fatalf("error %v, want %v", err, ErrCorrupt)
	}
	if used := int64(peak.Load()) - int64(before.HeapAlloc); used > 64<<20 {
		t.Errorf("%d MB of memory for an image of 60 MB", used>>20)
	}
}

// cancelAfter ends a context in the middle of a stream.
type cancelAfter struct {
	n      int
	cancel context.CancelFunc
}

func (c *cancelAfter) Write(b []byte) (int, error) {
	if c.n -= len(b); c.n < 0 {
		c.cancel()
	}
	return len(b), nil
}

func TestCancelLeavesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 11))
	old, image := randomBytes(rng, 4*BlockSize), randomBytes(rng, 6*BlockSize)
	wire, _ := encode(t, source(old), source(image), Small)
	before := runtime.NumGoroutine()
	for _, n := range []int{0, 100, 1000, 300_000, 2_000_000} {
		ctx, cancel := context.WithCancel(context.Background())
		_, err := Encode(ctx, &cancelAfter{n, cancel}, source(old), source(image), EncodeOptions{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Encode cancelled after %d bytes: %v", n, err)
		}
		cancel()
		ctx, cancel = context.WithCancel(context.Background())
		in := io.TeeReader(bytes.NewReader(wire), &cancelAfter{n, cancel})
		_, _, err = Apply(ctx, in, source(old), target(t, nil), Limits{MaxSize: 1 << 30}, ApplyOptions{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Apply cancelled after %d bytes: %v", n, err)
		}
		cancel()
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left, %d were there before", runtime.NumGoroutine(), before)
		}
	}
}

// A write that fails ends Encode with its error, and all that it started.
func TestEncodeToBrokenPipe(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 12))
	r, w := io.Pipe()
	broken := errors.New("the link is down")
	go func() {
		io.CopyN(io.Discard, r, 100_000)
		r.CloseWithError(broken)
	}()
	_, err := Encode(context.Background(), w, nil, source(randomBytes(rng, 8*BlockSize)), EncodeOptions{Mode: Fast})
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

func TestClone(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 13))
	old := randomBytes(rng, 3*BlockSize+17)
	dst := target(t, randomBytes(rng, 5*BlockSize)) // longer than what it becomes
	if err := Clone(context.Background(), dst, target(t, old)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dst.Name()); err != nil || !bytes.Equal(got, old) {
		t.Errorf("the copy differs: %v", err)
	}
}

func FuzzApply(f *testing.F) {
	rng := rand.New(rand.NewPCG(14, 14))
	old := randomBytes(rng, 20*pageSize)
	base := source(old)
	base.Sums, _ = Sum(context.Background(), base, base.Size)
	// Short streams: a mutation in a long payload finds nothing.
	edited := bytes.Clone(old)
	copy(edited[3*pageSize+100:], "edited")
	for _, image := range [][]byte{edited, append(bytes.Clone(old[10*pageSize:]), old...), old[:9*pageSize+7], []byte("short"), nil} {
		var wire bytes.Buffer
		if _, err := Encode(context.Background(), &wire, base, source(image), EncodeOptions{Mode: Small}); err != nil {
			f.Fatal(err)
		}
		f.Add(wire.Bytes(), rng.IntN(2) == 0)
	}
	for _, image := range [][]byte{bytes.Repeat([]byte("again "), 5000), []byte("raw")} {
		var wire bytes.Buffer
		if _, err := Encode(context.Background(), &wire, nil, source(image), EncodeOptions{Mode: Small}); err != nil {
			f.Fatal(err)
		}
		f.Add(wire.Bytes(), false)
	}
	name := target(f, nil).Name()
	f.Fuzz(func(t *testing.T, wire []byte, prepared bool) {
		dst, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer dst.Close()
		if prepared {
			dst.WriteAt(old, 0)
		}
		limits := Limits{MaxSize: 1 << 20}
		sums, _, err := Apply(context.Background(), bytes.NewReader(wire), base, dst, limits, ApplyOptions{Prepared: prepared})
		info, statErr := dst.Stat()
		if statErr != nil {
			t.Fatal(statErr)
		}
		if info.Size() > limits.MaxSize {
			t.Fatalf("%d bytes were written", info.Size())
		}
		if err != nil {
			return
		}
		if uint64(info.Size()) != binary.LittleEndian.Uint64(wire[8:]) {
			t.Fatalf("%d bytes were written, not what the header says", info.Size())
		}
		got, err := Sum(context.Background(), dst, info.Size())
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest() != sums.Digest() || got.Digest() != Digest(wire[56:88]) {
			t.Fatal("the content has not the digest that was announced")
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(Digest{1, 2, 3}.String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := Parse(s); err == nil && d.String() != s {
			t.Errorf("Parse(%q) = %s", s, d)
		}
	})
}

func FuzzSums(f *testing.F) {
	sums, _ := Sum(context.Background(), bytes.NewReader(make([]byte, 100)), 100)
	b, _ := sums.MarshalBinary()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Sums
		if s.UnmarshalBinary(b) == nil {
			if back, _ := s.MarshalBinary(); !bytes.Equal(back, b) {
				t.Errorf("%x became %x", b, back)
			}
		}
	})
}
