package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash/maphash"
	"slices"
	"sync/atomic"
)

// pageSize is the grain of the search for moved content: file data in an
// erofs image starts at multiples of it.
const pageSize = 4096

const pagesPerBlock = BlockSize / pageSize

// Plan tells how to make an image out of a base: what is copied from where,
// and what has to be sent. Compare makes it, Encode writes it.
type Plan struct {
	Sums    *Sums // of the image
	Copied  int64 // bytes that the base has, wherever they are in it
	Literal int64 // bytes that it has not

	base, image *Source
	runs        []run
}

// run is a stretch of the image; the runs of a plan cover it without gaps.
type run struct {
	out, length int64
	from        int64 // offset in the base, or literal
}

const literal = -1

// Compare finds what of image is in base, which may be nil. It reads both
// once, and hashes only the blocks of image that differ when base has its
// Sums. Sums that image has already are taken as they are.
func Compare(ctx context.Context, base, image *Source) (*Plan, error) {
	if base == nil {
		base = &Source{ReaderAt: bytes.NewReader(nil), Sums: newSums(0)}
	}
	p := &Plan{Sums: image.Sums, base: base, image: image}
	if err := p.compare(ctx); err != nil {
		return nil, fmt.Errorf("compare images: %w", err)
	}
	return p, nil
}

// worthSearching is how many bytes must be missing before pages that stayed
// in place are hashed too, in case what is missing is a second copy of them.
// Hashing 60 MB takes as long as sending a few at home; a program that was
// built again misses that much and is no copy of anything.
const worthSearching = 16 << 20

func (p *Plan) compare(ctx context.Context) error {
	pages, err := p.comparePages(ctx)
	if err != nil {
		return err
	}
	p.setRuns(pages.runs(p.image.Size))
	if p.Literal >= worthSearching {
		if err := p.hashKept(ctx, pages); err != nil {
			return err
		}
		p.setRuns(pages.runs(p.image.Size))
	}
	return p.verifyMoves(ctx)
}

func (p *Plan) setRuns(runs []run) {
	p.runs, p.Copied, p.Literal = runs, 0, 0
	for _, r := range runs {
		if r.from == literal {
			p.Literal += r.length
		} else {
			p.Copied += r.length
		}
	}
}

// pageTable is what one pass over both images learns. A hash of 0 means that
// the page takes no part in the search: short, or not needed.
type pageTable struct {
	seed  maphash.Seed
	same  []bool   // page of the image equals the base's page at its offset
	image []uint64 // hash of each page of the image that is not the same
	base  []uint64 // hash of each page of the base that is not the same
}

// hash of a whole page; short ones get 0.
func (t *pageTable) hash(page []byte) uint64 {
	if len(page) < pageSize {
		return 0
	}
	return maphash.Bytes(t.seed, page)
}

func (p *Plan) comparePages(ctx context.Context) (*pageTable, error) {
	known := p.Sums != nil
	if !known {
		p.Sums = newSums(p.image.Size)
	}
	imageBlocks := len(p.Sums.Blocks)
	blocks := max(imageBlocks, int((p.base.Size+BlockSize-1)/BlockSize))
	t := &pageTable{
		seed:  maphash.MakeSeed(),
		same:  make([]bool, blocks*pagesPerBlock),
		image: make([]uint64, blocks*pagesPerBlock),
		base:  make([]uint64, blocks*pagesPerBlock),
	}
	err := eachBlock(ctx, blocks, 2, func(i int, bufs [][]byte) error {
		if !known && p.kept(i) {
			p.Sums.Blocks[i] = p.base.Sums.Blocks[i]
			for k := int64(0); k*pageSize < p.image.length(i); k++ {
				t.same[int64(i)*pagesPerBlock+k] = true
			}
			return nil
		}
		now, err := p.image.block(bufs[0], i)
		if err != nil {
			return err
		}
		before, err := p.base.block(bufs[1], i)
		if err != nil {
			return err
		}
		equal := bytes.Equal(now, before)
		if !known && i < imageBlocks {
			if equal && p.base.Sums != nil {
				p.Sums.Blocks[i] = p.base.Sums.Blocks[i]
			} else {
				p.Sums.Blocks[i] = sha256.Sum256(now)
			}
		}
		for k := range pagesPerBlock {
			page, n, b := i*pagesPerBlock+k, pageAt(now, k), pageAt(before, k)
			if equal || bytes.Equal(n, b) {
				t.same[page] = len(n) > 0
				continue
			}
			t.image[page], t.base[page] = t.hash(n), t.hash(b)
		}
		return nil
	})
	return t, err
}

// kept says whether block i is known to be the base's, of which the sums are
// known.
func (p *Plan) kept(i int) bool {
	n := p.image.length(i)
	return n > 0 && n == p.base.length(i) && p.base.Sums != nil && p.image.Kept != nil && p.image.Kept(int64(i)*BlockSize, n)
}

// hashKept adds the hashes of the pages that stayed in place.
func (p *Plan) hashKept(ctx context.Context, t *pageTable) error {
	return eachBlock(ctx, len(t.same)/pagesPerBlock, 1, func(i int, bufs [][]byte) error {
		same := t.same[i*pagesPerBlock:][:pagesPerBlock]
		if !slices.Contains(same, true) {
			return nil
		}
		before, err := p.base.block(bufs[0], i)
		if err != nil {
			return err
		}
		for k := range same {
			if same[k] {
				t.base[i*pagesPerBlock+k] = t.hash(pageAt(before, k))
			}
		}
		return nil
	})
}

func pageAt(block []byte, k int) []byte {
	return block[min(k*pageSize, len(block)):min((k+1)*pageSize, len(block))]
}

// runs joins pages to runs. A page that is elsewhere in the base is taken
// from where it continues the run before it, if it is there too, so that a
// file that moved is one run even if it holds many equal pages.
func (t *pageTable) runs(size int64) []run {
	where := make(map[uint64]int64)
	for _, h := range t.image {
		if h != 0 {
			where[h] = literal
		}
	}
	for page, h := range t.base {
		if at, wanted := where[h]; wanted && at == literal {
			where[h] = int64(page)
		}
	}
	var runs []run
	for page := int64(0); page*pageSize < size; page++ {
		out := page * pageSize
		r := run{out: out, length: min(pageSize, size-out), from: literal}
		var last *run
		if len(runs) > 0 {
			last = &runs[len(runs)-1]
		}
		h := t.image[page]
		switch at, found := where[h]; {
		case t.same[page]:
			r.from = out
		case h == 0:
		case last != nil && last.from != literal && t.hasAt(h, last.from+last.length):
			r.from = last.from + last.length
		case found && at != literal:
			r.from = at * pageSize
		}
		if last != nil && (last.from == literal) == (r.from == literal) &&
			(r.from == literal || r.from == last.from+last.length) {
			last.length += r.length
			continue
		}
		runs = append(runs, r)
	}
	return runs
}

// hasAt reports whether the base's page at an offset has hash h.
func (t *pageTable) hasAt(h uint64, from int64) bool {
	page := from / pageSize
	return from%pageSize == 0 && page < int64(len(t.base)) && t.base[page] == h
}

// verifyMoves compares the bytes of each moved run: the hash that found it is
// fast, not proof. A run that is not what it seemed is sent.
func (p *Plan) verifyMoves(ctx context.Context) error {
	wrong := make([]atomic.Bool, len(p.runs))
	type part struct {
		run  int
		done int64
	}
	var parts []part
	for i, r := range p.runs {
		if r.from != literal && r.from != r.out {
			for done := int64(0); done < r.length; done += BlockSize {
				parts = append(parts, part{i, done})
			}
		}
	}
	err := eachBlock(ctx, len(parts), 2, func(i int, bufs [][]byte) error {
		r, done := p.runs[parts[i].run], parts[i].done
		n := min(BlockSize, r.length-done)
		now, before := bufs[0][:n], bufs[1][:n]
		if err := readFullAt(p.image, now, r.out+done); err != nil {
			return err
		}
		if err := readFullAt(p.base, before, r.from+done); err != nil {
			return err
		}
		if !bytes.Equal(now, before) {
			wrong[parts[i].run].Store(true)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range wrong {
		if wrong[i].Load() {
			p.runs[i].from = literal
		}
	}
	p.setRuns(p.runs)
	return nil
}
