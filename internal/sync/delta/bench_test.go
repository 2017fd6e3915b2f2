package delta

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// benchImages are an image of 55 MB and one that differs in 2%, or the two
// files that DELTA_IMAGES names as OLD,NEW.
func benchImages(b *testing.B) (old, image *os.File) {
	b.Helper()
	if names, ok := os.LookupEnv("DELTA_IMAGES"); ok {
		a, c, _ := strings.Cut(names, ",")
		return openFile(b, a), openFile(b, c)
	}
	rng := rand.New(rand.NewPCG(7, 8))
	data := make([]byte, 55<<20)
	for i := 0; i < len(data); i += 8 {
		v := rng.Uint64()
		for k := range 6 { // the other two bytes repeat: compressible, as code is
			data[i+k] = byte(v >> (8 * k))
		}
	}
	edited := bytes.Clone(data)
	for range 20 {
		at := rng.IntN(len(edited)-64<<10) &^ (pageSize - 1)
		for i := range 56 << 10 {
			edited[at+i] ^= byte(rng.Uint32())
		}
	}
	return target(b, data), target(b, edited)
}

func openFile(b *testing.B, name string) *os.File {
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	return f
}

func fileSource(b *testing.B, f *os.File, withSums bool) *Source {
	b.Helper()
	s, err := FileSource(f)
	if err != nil {
		b.Fatal(err)
	}
	if withSums {
		if s.Sums, err = Sum(context.Background(), s, s.Size); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// reportCPU measures processor time from now on, which other programs on a
// loaded machine do not distort as they do the time on the clock.
func reportCPU(b *testing.B) (report func()) {
	start := cpuTime(b)
	return func() {
		b.ReportMetric(float64((cpuTime(b)-start).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkSum(b *testing.B) {
	_, image := benchImages(b)
	s := fileSource(b, image, false)
	b.SetBytes(s.Size)
	for b.Loop() {
		if _, err := Sum(context.Background(), s, s.Size); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResum(b *testing.B) {
	old, image := benchImages(b)
	prev, s := fileSource(b, old, true), fileSource(b, image, false)
	b.SetBytes(s.Size)
	for b.Loop() {
		if _, err := Resum(context.Background(), prev, s); err != nil {
			b.Fatal(err)
		}
	}
}

func benchEncode(b *testing.B, mode Mode, withBase bool) {
	old, image := benchImages(b)
	base := fileSource(b, old, true)
	if !withBase {
		base = nil
	}
	var stats Stats
	b.ReportAllocs()
	report := reportCPU(b)
	for b.Loop() {
		var err error
		stats, err = Encode(context.Background(), io.Discard, base, fileSource(b, image, false), EncodeOptions{Mode: mode})
		if err != nil {
			b.Fatal(err)
		}
	}
	report()
	b.ReportMetric(float64(stats.Wire)/1e3, "wireKB")
	b.ReportMetric(float64(stats.Literal)/1e3, "literalKB")
}

func BenchmarkEncodeFast(b *testing.B)  { benchEncode(b, Fast, true) }
func BenchmarkEncodeSmall(b *testing.B) { benchEncode(b, Small, true) }
func BenchmarkEncodeFirst(b *testing.B) { benchEncode(b, Small, false) }

func benchApply(b *testing.B, mode Mode, prepared bool) {
	old, image := benchImages(b)
	base := fileSource(b, old, true)
	var wire bytes.Buffer
	if _, err := Encode(context.Background(), &wire, base, fileSource(b, image, true), EncodeOptions{Mode: mode}); err != nil {
		b.Fatal(err)
	}
	dst := target(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		if prepared {
			if err := Clone(context.Background(), dst, old); err != nil {
				b.Fatal(err)
			}
		} else if err := dst.Truncate(0); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		_, _, err := Apply(context.Background(), bytes.NewReader(wire.Bytes()), base, dst, Limits{MaxSize: 1 << 30}, ApplyOptions{Prepared: prepared})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkApplyFast(b *testing.B)          { benchApply(b, Fast, false) }
func BenchmarkApplyFastPrepared(b *testing.B)  { benchApply(b, Fast, true) }
func BenchmarkApplySmallPrepared(b *testing.B) { benchApply(b, Small, true) }
