package image

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// A reader for squashfs 4.0 as the kernel's Documentation/filesystems/squashfs.rst
// and fs/squashfs/squashfs_fs.h lay it down, for what mksquashfs makes of a
// portable image. It is our own because an image is read as root on a host:
// go-diskfs 1.9.4, the one well-kept reader to be had, allocates what an
// image's headers ask for.
const (
	squashfsMagic = "hsqs"

	squashSuper    = 96
	squashMeta     = 8192 // bytes of a metadata block
	squashRaw      = 1 << 24
	squashNoFrag   = 0xffffffff
	squashMaxBlock = 1 << 20
	squashMaxFile  = 4 << 30
	squashMaxList  = 1 << 22 // blocks of all files together

	squashGzip = 1
	squashZstd = 6
)

// squash reads from an open squashfs image.
type squash struct {
	r       io.ReaderAt
	size    int64 // of the image
	block   int64 // bytes of a data block
	unpack  func(packed []byte, limit int) ([]byte, error)
	inodes  int64 // where the tables begin
	dirs    int64
	frags   int64
	nFrags  uint32
	lists   int // blocks of files so far
	decoded map[int64]metaBlock
	index   *indexer

	mu       sync.Mutex
	lastFrag []byte // the fragment at lastAt: small files that follow each other share one
	lastAt   int64
}

type metaBlock struct {
	data []byte
	next int64
}

func readSquashfs(img *Image) error {
	s := &squash{r: img.file, size: img.Size, decoded: map[int64]metaBlock{}, index: &indexer{tree: img.tree, dirs: map[uint64]bool{}}}
	root, err := s.readSuper()
	if err != nil {
		return err
	}
	ino, err := s.inode(int64(root>>16), int(root&0xffff))
	if err != nil {
		return err
	}
	if !ino.mode.IsDir() {
		return broken("its root is not a folder")
	}
	if err := s.dir(".", ino); err != nil {
		return err
	}
	s.decoded = nil
	return nil
}

func (s *squash) readSuper() (root uint64, err error) {
	var b [squashSuper]byte
	if _, err := s.r.ReadAt(b[:], 0); err != nil {
		return 0, broken("read super block: %w", err)
	}
	s.block = int64(binary.LittleEndian.Uint32(b[12:]))
	if s.block < 4096 || s.block > squashMaxBlock || s.block&(s.block-1) != 0 {
		return 0, broken("it has blocks of %d bytes", s.block)
	}
	if major := binary.LittleEndian.Uint16(b[28:]); major != 4 {
		return 0, broken("it is of squashfs version %d", major)
	}
	s.nFrags = binary.LittleEndian.Uint32(b[16:])
	s.inodes = int64(binary.LittleEndian.Uint64(b[64:]))
	s.dirs = int64(binary.LittleEndian.Uint64(b[72:]))
	s.frags = int64(binary.LittleEndian.Uint64(b[80:]))
	switch id := binary.LittleEndian.Uint16(b[20:]); id {
	case squashGzip:
		s.unpack = unpackZlib
	case squashZstd:
		s.unpack, err = newUnpackZstd()
	default:
		err = broken("it is compressed in a way (%d) that devbox does not pack", id)
	}
	return binary.LittleEndian.Uint64(b[32:]), err
}

func unpackZlib(packed []byte, limit int) ([]byte, error) {
	r, err := zlib.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(data) > limit {
		err = fmt.Errorf("a block unpacks to more than %d bytes", limit)
	}
	return data, err
}

func newUnpackZstd() (func([]byte, int) ([]byte, error), error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(squashMaxBlock), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return func(packed []byte, limit int) ([]byte, error) {
		data, err := d.DecodeAll(packed, nil)
		if err == nil && len(data) > limit {
			err = fmt.Errorf("a block unpacks to more than %d bytes", limit)
		}
		return data, err
	}, nil
}

// read returns n bytes of the image at off.
func (s *squash) read(off int64, n int) ([]byte, error) {
	if off < 0 || n < 0 || off > s.size-int64(n) {
		return nil, broken("it points outside itself")
	}
	b := make([]byte, n)
	_, err := s.r.ReadAt(b, off)
	return b, err
}

// meta returns the metadata block at off.
func (s *squash) meta(off int64) (metaBlock, error) {
	if m, ok := s.decoded[off]; ok {
		return m, nil
	}
	head, err := s.read(off, 2)
	if err != nil {
		return metaBlock{}, err
	}
	n := int(binary.LittleEndian.Uint16(head))
	raw := n&0x8000 != 0
	if n &= 0x7fff; n == 0 || n > squashMeta {
		return metaBlock{}, broken("a metadata block has %d bytes", n)
	}
	data, err := s.read(off+2, n)
	if err != nil {
		return metaBlock{}, err
	}
	if !raw {
		if data, err = s.unpack(data, squashMeta); err != nil {
			return metaBlock{}, broken("unpack metadata: %w", err)
		}
	}
	if len(s.decoded) >= 512 { // 4 MiB
		clear(s.decoded)
	}
	m := metaBlock{data, off + 2 + int64(n)}
	if s.decoded != nil {
		s.decoded[off] = m
	}
	return m, nil
}

// cursor reads metadata from one block on into those that follow.
type cursor struct {
	s    *squash
	at   int64
	data []byte
}

func (s *squash) cursor(table, block int64, offset int) (*cursor, error) {
	if block < 0 || block > s.size {
		return nil, broken("it points outside itself")
	}
	m, err := s.meta(table + block)
	if err != nil {
		return nil, err
	}
	if offset > len(m.data) {
		return nil, broken("it points outside a metadata block")
	}
	return &cursor{s, m.next, m.data[offset:]}, nil
}

// take returns the next n bytes, of at most a few kilobytes.
func (c *cursor) take(n int) ([]byte, error) {
	if n <= len(c.data) {
		b := c.data[:n]
		c.data = c.data[n:]
		return b, nil
	}
	b := make([]byte, 0, n)
	for {
		k := min(n-len(b), len(c.data))
		b = append(b, c.data[:k]...)
		c.data = c.data[k:]
		if len(b) == n {
			return b, nil
		}
		m, err := c.s.meta(c.at)
		if err != nil {
			return nil, err
		}
		if len(m.data) == 0 {
			return nil, broken("a metadata block is empty")
		}
		c.data, c.at = m.data, m.next
	}
}

// squashInode is what devbox needs of an inode.
type squashInode struct {
	mode   fs.FileMode
	size   int64
	target string
	block  int64 // of a folder's list in the folder table; of a file's first data block
	offset int   // of a folder's list in its block; of a file's end in its fragment
	frag   uint32
	sizes  []uint32 // of a file's blocks
}

func (s *squash) inode(block int64, offset int) (squashInode, error) {
	c, err := s.cursor(s.inodes, block, offset)
	if err != nil {
		return squashInode{}, err
	}
	b, err := c.take(16)
	if err != nil {
		return squashInode{}, err
	}
	bits := binary.LittleEndian.Uint16(b[2:])
	ino := squashInode{mode: fs.FileMode(bits & 0o777)}
	for bit, m := range map[uint16]fs.FileMode{0o1000: fs.ModeSticky, 0o2000: fs.ModeSetgid, 0o4000: fs.ModeSetuid} {
		if bits&bit != 0 {
			ino.mode |= m
		}
	}
	switch kind := binary.LittleEndian.Uint16(b); kind {
	case 1, 8:
		ino.mode |= fs.ModeDir
		err = ino.readDir(c, kind == 8)
	case 2, 9:
		err = ino.readFile(c, kind == 9)
	case 3, 10:
		ino.mode |= fs.ModeSymlink
		err = ino.readLink(c)
	default:
		err = broken("it holds something else than files, folders and links")
	}
	return ino, err
}

func (ino *squashInode) readDir(c *cursor, extended bool) error {
	b, err := c.take(16)
	if err != nil {
		return err
	}
	if !extended {
		ino.block = int64(binary.LittleEndian.Uint32(b))
		ino.size = int64(binary.LittleEndian.Uint16(b[8:]))
		ino.offset = int(binary.LittleEndian.Uint16(b[10:]))
		return nil
	}
	ino.size = int64(binary.LittleEndian.Uint32(b[4:]))
	ino.block = int64(binary.LittleEndian.Uint32(b[8:]))
	if b, err = c.take(8); err != nil {
		return err
	}
	ino.offset = int(binary.LittleEndian.Uint16(b[2:]))
	return nil
}

func (ino *squashInode) readLink(c *cursor) error {
	b, err := c.take(8)
	if err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n == 0 || n > maxPathLen {
		return broken("a link has a target of %d bytes", n)
	}
	b, err = c.take(int(n))
	ino.target = string(b)
	return err
}

func (ino *squashInode) readFile(c *cursor, extended bool) error {
	var size uint64
	if extended {
		b, err := c.take(40)
		if err != nil {
			return err
		}
		ino.block = int64(binary.LittleEndian.Uint64(b))
		size = binary.LittleEndian.Uint64(b[8:])
		ino.frag = binary.LittleEndian.Uint32(b[28:])
		ino.offset = int(binary.LittleEndian.Uint32(b[32:]))
	} else {
		b, err := c.take(16)
		if err != nil {
			return err
		}
		ino.block = int64(binary.LittleEndian.Uint32(b))
		ino.frag = binary.LittleEndian.Uint32(b[4:])
		ino.offset = int(binary.LittleEndian.Uint32(b[8:]))
		size = uint64(binary.LittleEndian.Uint32(b[12:]))
	}
	if size > squashMaxFile {
		return broken("a file has %d bytes", size)
	}
	ino.size = int64(size)
	n := ino.size / c.s.block
	if ino.frag == squashNoFrag && ino.size%c.s.block != 0 {
		n++
	}
	if c.s.lists += int(n); c.s.lists > squashMaxList {
		return broken("its files have more than %d blocks", squashMaxList)
	}
	for range n {
		b, err := c.take(4)
		if err != nil {
			return err
		}
		ino.sizes = append(ino.sizes, binary.LittleEndian.Uint32(b))
	}
	return nil
}

// dir indexes a folder and all below it.
func (s *squash) dir(dir string, ino squashInode) error {
	left := ino.size - 3 // squashfs counts "." and ".." as three bytes
	if left <= 0 {
		return nil
	}
	c, err := s.cursor(s.dirs, ino.block, ino.offset)
	if err != nil {
		return err
	}
	for left > 0 {
		head, err := c.take(12)
		if err != nil {
			return err
		}
		count := binary.LittleEndian.Uint32(head) + 1
		block := int64(binary.LittleEndian.Uint32(head[4:]))
		if left -= 12; count == 0 || count > 256 {
			return broken("folder %q has a run of %d entries", dir, count)
		}
		for range count {
			n, err := s.dirEntry(dir, c, block)
			if err != nil {
				return err
			}
			left -= n
		}
	}
	return nil
}

func (s *squash) dirEntry(dir string, c *cursor, block int64) (read int64, err error) {
	b, err := c.take(8)
	if err != nil {
		return 0, err
	}
	offset := int(binary.LittleEndian.Uint16(b))
	n := int(binary.LittleEndian.Uint16(b[6:])) + 1
	if n > erofsMaxNameLen+1 {
		return 0, broken("folder %q has a name of %d bytes", dir, n)
	}
	b, err = c.take(n)
	if err != nil {
		return 0, err
	}
	name := string(b)
	if name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return 0, broken("folder %q has an entry named %q", dir, name)
	}
	ino, err := s.inode(block, offset)
	if err != nil {
		return 0, err
	}
	e := &Entry{Path: path.Join(dir, name), Mode: ino.mode, Target: ino.target}
	if e.Mode.IsRegular() {
		e.Size = ino.size
		e.inImage = func() (io.ReadCloser, error) {
			return io.NopCloser(&squashFile{s: s, ino: ino, at: ino.block, left: ino.size}), nil
		}
	}
	if err := s.index.add(e, uint64(block)<<16|uint64(offset)); err != nil {
		return 0, err
	}
	if e.Mode.IsDir() {
		err = s.dir(e.Path, ino)
	}
	return int64(8 + n), err
}
