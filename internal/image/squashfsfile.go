package image

import (
	"encoding/binary"
	"io"
)

// squashFile reads one file from beginning to end: its blocks, and then its
// last part from a fragment that several files share.
type squashFile struct {
	s    *squash
	ino  squashInode
	next int   // block to read
	at   int64 // where it begins
	left int64 // bytes of the file not yet unpacked
	data []byte
}

func (f *squashFile) Read(p []byte) (int, error) {
	for len(f.data) == 0 {
		if f.left == 0 {
			return 0, io.EOF
		}
		data, err := f.block()
		if err != nil {
			return 0, err
		}
		f.data, f.left = data, f.left-int64(len(data))
	}
	n := copy(p, f.data)
	f.data = f.data[n:]
	return n, nil
}

// block returns the next piece of the file, never empty.
func (f *squashFile) block() ([]byte, error) {
	want := int(min(f.left, f.s.block))
	if f.next == len(f.ino.sizes) {
		return f.fragment(want)
	}
	size := f.ino.sizes[f.next]
	f.next++
	if size == 0 {
		return make([]byte, want), nil // a hole
	}
	data, err := f.s.dataBlock(f.at, size)
	if err != nil {
		return nil, err
	}
	if len(data) != want {
		return nil, broken("a block unpacks to %d bytes, not %d", len(data), want)
	}
	f.at += int64(size &^ squashRaw)
	return data, nil
}

func (f *squashFile) fragment(want int) ([]byte, error) {
	if f.ino.frag >= f.s.nFrags {
		return nil, broken("a file ends in fragment %d of %d", f.ino.frag, f.s.nFrags)
	}
	entry, err := f.s.fragmentEntry(f.ino.frag)
	if err != nil {
		return nil, err
	}
	data, err := f.s.cachedBlock(int64(binary.LittleEndian.Uint64(entry)), binary.LittleEndian.Uint32(entry[8:]))
	if err != nil {
		return nil, err
	}
	if f.ino.offset > len(data) || want > len(data)-f.ino.offset {
		return nil, broken("a file ends outside its fragment")
	}
	return data[f.ino.offset:][:want], nil
}

// fragmentEntry finds entry n of the fragment table: blocks of 512 entries,
// found through a list of where they are.
func (s *squash) fragmentEntry(n uint32) ([]byte, error) {
	const perBlock, size = squashMeta / 16, 16
	at, err := s.read(s.frags+int64(n/perBlock)*8, 8)
	if err != nil {
		return nil, err
	}
	c, err := s.cursor(0, int64(binary.LittleEndian.Uint64(at)), int(n%perBlock)*size)
	if err != nil {
		return nil, err
	}
	return c.take(size)
}

func (s *squash) cachedBlock(at int64, size uint32) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastFrag != nil && s.lastAt == at {
		return s.lastFrag, nil
	}
	data, err := s.dataBlock(at, size)
	if err == nil {
		s.lastFrag, s.lastAt = data, at
	}
	return data, err
}

// dataBlock reads a block of files' content; size carries a bit that says
// whether it is compressed.
func (s *squash) dataBlock(at int64, size uint32) ([]byte, error) {
	n := int64(size &^ squashRaw)
	if n == 0 || n > s.block {
		return nil, broken("a data block has %d bytes", n)
	}
	data, err := s.read(at, int(n))
	if err != nil || size&squashRaw != 0 {
		return data, err
	}
	if data, err = s.unpack(data, int(s.block)); err != nil {
		return nil, broken("unpack data: %w", err)
	}
	return data, nil
}
