package delta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func source(b []byte) *Source {
	return &Source{ReaderAt: bytes.NewReader(b), Size: int64(len(b))}
}

// randomBytes are half incompressible, half runs, like a program's pages.
func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; {
		if rng.IntN(2) == 0 {
			for end := min(n, i+1+rng.IntN(5000)); i < end; i++ {
				b[i] = byte(rng.Uint32())
			}
		} else {
			c := byte(rng.Uint32())
			for end := min(n, i+1+rng.IntN(5000)); i < end; i++ {
				b[i] = c
			}
		}
	}
	return b
}

// mutate makes a new image of an old one the ways that images change.
func mutate(rng *rand.Rand, old []byte) []byte {
	b := bytes.Clone(old)
	for range rng.IntN(4) {
		at := 0
		if len(b) > 0 {
			at = rng.IntN(len(b))
		}
		switch rng.IntN(6) {
		case 0: // an edit in place
			copy(b[at:], randomBytes(rng, 1+rng.IntN(20000)))
		case 1: // a file grew by pages: what follows moves
			at &^= pageSize - 1
			b = append(b[:at:at], append(randomBytes(rng, pageSize*(1+rng.IntN(40))), b[at:]...)...)
		case 2: // code grew: what follows moves by odd bytes
			b = append(b[:at:at], append(randomBytes(rng, 1+rng.IntN(300)), b[at:]...)...)
		case 3:
			b = b[:at]
		case 4:
			b = append(b, randomBytes(rng, rng.IntN(BlockSize))...)
		case 5: // two files swap places
			at &^= pageSize - 1
			b = append(bytes.Clone(b[at:]), b[:at]...)
		}
	}
	return b
}

func encode(t testing.TB, base, image *Source, mode Mode) ([]byte, Stats) {
	t.Helper()
	var wire bytes.Buffer
	stats, err := Encode(context.Background(), &wire, base, image, EncodeOptions{Mode: mode})
	if err != nil {
		t.Fatal(err)
	}
	if stats.Wire != int64(wire.Len()) || stats.Copied+stats.Literal != image.Size {
		t.Fatalf("stats %+v do not fit %d bytes on the wire for an image of %d", stats, wire.Len(), image.Size)
	}
	return wire.Bytes(), stats
}

// target is a new file; a prepared one holds content.
func target(t testing.TB, content []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRoundTrip(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			old := randomBytes(rng, rng.IntN(3*BlockSize))
			image := mutate(rng, old)
			base := source(old)
			if rng.IntN(8) == 0 {
				base = nil
			} else if rng.IntN(2) == 0 {
				sums, err := Sum(context.Background(), base, base.Size)
				if err != nil {
					t.Fatal(err)
				}
				base.Sums = sums
			}
			wire, _ := encode(t, base, source(image), Mode(rng.IntN(2)))

			prepared := base != nil && rng.IntN(2) == 0
			dst := target(t, nil)
			if prepared {
				dst = target(t, old)
			}
			in := bytes.NewReader(append(wire, "next"...))
			sums, stats, err := Apply(context.Background(), in, base, dst, Limits{MaxSize: int64(len(image))}, ApplyOptions{Prepared: prepared})
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(dst.Name())
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, image) {
				t.Fatal("the image arrived changed")
			}
			want, err := Sum(context.Background(), bytes.NewReader(image), int64(len(image)))
			if err != nil {
				t.Fatal(err)
			}
			if sums.Digest() != want.Digest() {
				t.Errorf("digest %s, want %s", sums.Digest(), want.Digest())
			}
			if rest, _ := io.ReadAll(in); string(rest) != "next" {
				t.Errorf("Apply left %q of what follows the delta", rest)
			}
			if stats.Wire != int64(len(wire)) {
				t.Errorf("Apply counted %d bytes of %d", stats.Wire, len(wire))
			}
		})
	}
}

func TestMovedPagesCostNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	old := randomBytes(rng, 4*BlockSize)
	image := append(randomBytes(rng, 7*pageSize), old...)
	_, stats := encode(t, source(old), source(image), Fast)
	if stats.Literal != 7*pageSize {
		t.Errorf("%d bytes sent, want only the %d new ones", stats.Literal, 7*pageSize)
	}
}

func TestSmallUsesTheNeighbourhood(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	old := make([]byte, 2*BlockSize)
	for i := range old {
		old[i] = byte(rng.Uint32())
	}
	image := append([]byte("odd"), old...) // no page is where it was
	_, stats := encode(t, source(old), source(image), Small)
	if stats.Wire > 40_000 {
		t.Errorf("%d bytes on the wire for an insertion of 3", stats.Wire)
	}
}

func TestResumEqualsSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		old := randomBytes(rng, rng.IntN(3*BlockSize))
		image := mutate(rng, old)
		prev := source(old)
		prev.Sums, _ = Sum(context.Background(), prev, prev.Size)
		got, err := Resum(context.Background(), prev, source(image))
		if err != nil {
			t.Fatal(err)
		}
		want, _ := Sum(context.Background(), bytes.NewReader(image), int64(len(image)))
		if got.Digest() != want.Digest() {
			t.Fatalf("digest %s, want %s", got.Digest(), want.Digest())
		}
	}
}

func TestDigestText(t *testing.T) {
	sums, _ := Sum(context.Background(), bytes.NewReader([]byte("image")), 5)
	d := sums.Digest()
	back, err := Parse(d.String())
	if err != nil || back != d || d.Short() != d.String()[:12] {
		t.Errorf("Parse(%s) = %s, %v", d, back, err)
	}
	for _, bad := range []string{"", d.Short(), d.String() + "0", "X" + d.String()[1:], "AB" + d.String()[2:]} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) did not fail", bad)
		}
	}
}

func TestDigestCommitsToSize(t *testing.T) {
	a := &Sums{Size: 5, Blocks: make([][32]byte, 1)}
	b := &Sums{Size: 6, Blocks: make([][32]byte, 1)}
	if a.Digest() == b.Digest() {
		t.Error("images of different size have the same digest")
	}
}

func TestSumsBinary(t *testing.T) {
	for _, size := range []int{0, 1, BlockSize, BlockSize + 1} {
		sums, _ := Sum(context.Background(), bytes.NewReader(make([]byte, size)), int64(size))
		b, _ := sums.MarshalBinary()
		var back Sums
		if err := back.UnmarshalBinary(b); err != nil || back.Digest() != sums.Digest() {
			t.Errorf("size %d: %v", size, err)
		}
		for _, bad := range [][]byte{b[:7], b[:len(b)-1], append(bytes.Clone(b), make([]byte, 32)...)} {
			if err := back.UnmarshalBinary(bad); err == nil {
				t.Errorf("size %d: %d bytes of %d were accepted", size, len(bad), len(b))
			}
		}
	}
}

func TestShortSourceFails(t *testing.T) {
	short := &Source{ReaderAt: bytes.NewReader(make([]byte, 10)), Size: 20}
	if _, err := Encode(context.Background(), io.Discard, nil, short, EncodeOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v, want unexpected EOF", err)
	}
}

func TestSumsSame(t *testing.T) {
	const block = BlockSize
	old := make([]byte, 3*block+100)
	new := append(bytes.Clone(old), 0) // its last block is longer
	new[block+5] = 1
	sums := func(b []byte) *Sums {
		s, err := Sum(t.Context(), bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b := sums(old), sums(new)
	for _, x := range []struct {
		at, n int64
		want  bool
	}{
		{0, block, true}, {0, block + 1, false}, {block - 1, 1, true}, {block, 1, false}, {2*block - 1, 1, false},
		{2 * block, block, true}, {2 * block, block + 1, false}, {3 * block, 100, false}, {3 * block, 101, false},
		{0, 0, true}, {-1, 1, false}, {0, -1, false}, {1 << 62, 1, false}, {1, 1<<63 - 1, false},
	} {
		if got := a.Same(b, x.at, x.n); got != x.want {
			t.Errorf("same at %d, %d bytes: %t", x.at, x.n, got)
		}
	}
	if !a.Same(a, 0, int64(len(old))) {
		t.Error("an image differs from itself")
	}
}

// What is known to be kept is not read, and the plan is the one that reading
// would have made.
func TestCompareKept(t *testing.T) {
	old := randomBytes(rand.New(rand.NewPCG(1, 2)), 3*BlockSize+5000)
	new := bytes.Clone(old)
	new[BlockSize+7]++
	sums, err := Sum(t.Context(), bytes.NewReader(old), int64(len(old)))
	if err != nil {
		t.Fatal(err)
	}
	base := source(old)
	base.Sums = sums
	want, err := Compare(t.Context(), base, source(new))
	if err != nil {
		t.Fatal(err)
	}
	kept := func(at, n int64) bool { return at+n <= BlockSize || at >= 2*BlockSize }
	got, err := Compare(t.Context(), &Source{ReaderAt: unreadable{old, kept}, Size: base.Size, Sums: sums},
		&Source{ReaderAt: unreadable{new, kept}, Size: int64(len(new)), Kept: kept})
	if err != nil {
		t.Fatal(err)
	}
	if got.Sums.Digest() != want.Sums.Digest() || got.Literal != want.Literal || got.Copied != want.Copied {
		t.Errorf("got %d literal, %d copied; want %d, %d", got.Literal, got.Copied, want.Literal, want.Copied)
	}
	// A block that one side has less of cannot be the other's.
	short := source(old[:3*BlockSize+100])
	short.Sums = sums
	long := source(new)
	long.Kept = func(int64, int64) bool { return true }
	if p, err := Compare(t.Context(), short, long); err != nil || p.Literal == 0 {
		t.Errorf("a longer last block is kept: %+v, %v", p, err)
	}
}

// unreadable fails where it need not be read.
type unreadable struct {
	data []byte
	not  func(at, n int64) bool
}

func (u unreadable) ReadAt(b []byte, at int64) (int, error) {
	if u.not(at, int64(len(b))) {
		return 0, fmt.Errorf("%d bytes at %d were read", len(b), at)
	}
	return bytes.NewReader(u.data).ReadAt(b, at)
}
