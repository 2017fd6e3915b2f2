package image

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"

	"devbox/internal/hint"
)

// The writer lays an image out so that a new version stays close to the old
// one, which is what makes a delta small and quick:
//
//	super block | inodes, folders, small files | … | big file | … | big file
//
// Big files follow each other by size, largest first, each on a boundary of
// bigAlign: the largest one rarely changes (a bundled tool) and never moves,
// and one that grows by a little moves none behind it. go-erofs has no say in
// the order: it writes data by path, so that a program that grows shifts all
// behind it. The format is documented in the kernel's
// Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h; go-erofs,
// fsck.erofs and the kernel read the result in the tests.
const (
	bigFile  = 4 << 20 // bytes from which a file counts as big
	bigAlign = 1 << 20 // as the blocks of an image's digest

	erofsMagic      = 0xe0f5e1e2
	erofsSuperAt    = 1024
	erofsSuperSize  = 128
	erofsSlot       = 32 // a node number counts these from the start of the inodes
	erofsCompact    = 32 // bytes of a compact inode
	erofsExtended   = 64 // bytes of an extended one
	erofsDirent     = 12
	erofsPlain      = 0 // data in blocks of its own
	erofsInline     = 2 // data right behind the inode
	erofsMaxLink    = 4095
	erofsMaxNameLen = 255
)

// erofsNode is an entry of the tree on its way into the image.
type erofsNode struct {
	*Entry
	base     string
	parent   *erofsNode
	children []*erofsNode // sorted by base, as bytes
	dirs     int          // children that are folders
	dirents  []byte       // of a folder
	size     int64        // of the content in bytes
	at       int64        // of the inode in the inode area, in bytes
	block    int64        // first block of the content
	inline   bool
}

type erofsLayout struct {
	nodes []*erofsNode // in the order of their inodes: the root, then by path
	meta  int64        // bytes of the inode area, which begins at block 1
	small []*erofsNode // content right behind it, in order
	big   []*erofsNode // content behind that
	total int64        // blocks of the image
}

func packErofs(ctx context.Context, tree *Tree, f *os.File) error {
	l, err := planErofs(tree)
	if err != nil {
		return err
	}
	head := bufio.NewWriterSize(f, 1<<20)
	if err := l.writeHead(ctx, head); err != nil {
		return err
	}
	if err := head.Flush(); err != nil {
		return err
	}
	for _, n := range l.big {
		if err := writeBig(ctx, f, n); err != nil {
			return err
		}
	}
	return f.Truncate(l.total * BlockSize)
}

// planErofs decides where everything goes. It reads no file.
func planErofs(tree *Tree) (*erofsLayout, error) {
	root := &erofsNode{Entry: rootEntry}
	root.parent = root
	byPath := map[string]*erofsNode{".": root}
	l := &erofsLayout{nodes: []*erofsNode{root}}
	for _, e := range tree.entries { // a folder comes before what is in it
		dir, base := splitPath(e.Path)
		n := &erofsNode{Entry: e, base: base, parent: byPath[dir], size: e.Size}
		if len(base) > erofsMaxNameLen || len(e.Target) > erofsMaxLink {
			return nil, hint.Errorf("shorten it", "the name of %s or what it points to is too long for Linux", e.Path)
		}
		switch e.Mode.Type() {
		case fs.ModeDir:
			n.parent.dirs++
		case fs.ModeSymlink:
			n.size = int64(len(e.Target))
		}
		n.parent.children = append(n.parent.children, n)
		byPath[e.Path] = n
		l.nodes = append(l.nodes, n)
	}
	for _, n := range l.nodes {
		if n.Mode.IsDir() {
			slices.SortFunc(n.children, func(a, b *erofsNode) int { return cmp.Compare(a.base, b.base) })
			n.dirents = make([]byte, direntBytes(n))
			n.size = int64(len(n.dirents))
		}
		l.placeInode(n)
	}
	l.placeContent()
	if l.total > math.MaxUint32 {
		return nil, hint.Errorf("make the image smaller", "%d blocks are more than erofs can have", l.total)
	}
	for _, n := range l.nodes {
		if n.Mode.IsDir() {
			fillDirents(n)
		}
	}
	return l, nil
}

func splitPath(p string) (dir, base string) {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] == '/' {
			return p[:i], p[i+1:]
		}
	}
	return ".", p
}

func (n *erofsNode) inodeSize() int64 {
	if n.size > math.MaxUint32 || n.links() > math.MaxUint16 {
		return erofsExtended
	}
	return erofsCompact
}

func (n *erofsNode) links() int {
	if n.Mode.IsDir() {
		return 2 + n.dirs
	}
	return 1
}

// placeInode puts n behind the inode area, with its content if that fits in
// the same block: neither may cross into the next one.
func (l *erofsLayout) placeInode(n *erofsNode) {
	size := n.inodeSize()
	if n.size > 0 && size+n.size <= BlockSize {
		n.inline = true
		size += n.size
	}
	at := alignUp(l.meta, erofsSlot)
	if at%BlockSize+size > BlockSize {
		at = alignUp(at, BlockSize)
	}
	n.at, l.meta = at, at+size
}

func (l *erofsLayout) placeContent() {
	next := 1 + blocks(l.meta)
	for _, n := range l.nodes {
		switch {
		case n.inline || n.size == 0:
		case n.Mode.IsRegular() && n.size >= bigFile:
			l.big = append(l.big, n)
		default:
			l.small = append(l.small, n)
			n.block = next
			next += blocks(n.size)
		}
	}
	slices.SortStableFunc(l.big, func(a, b *erofsNode) int { return cmp.Compare(b.size, a.size) })
	for _, n := range l.big {
		next = alignUp(next, bigAlign/BlockSize)
		n.block = next
		next += blocks(n.size)
	}
	l.total = next
}

func blocks(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }

// direntsOf lists a folder as erofs wants it: with "." and "..", sorted as
// bytes, so that "-x" comes before them.
func direntsOf(n *erofsNode) []*erofsNode {
	self, up := *n, *n.parent
	self.base, up.base = ".", ".."
	all := append(slices.Clone(n.children), &self, &up)
	slices.SortFunc(all, func(a, b *erofsNode) int { return cmp.Compare(a.base, b.base) })
	return all
}

// direntBlocks cuts a folder's entries into blocks; each holds its entries'
// heads and then their names.
func direntBlocks(all []*erofsNode) [][]*erofsNode {
	var cut [][]*erofsNode
	start, used := 0, 0
	for i, n := range all {
		need := erofsDirent + len(n.base)
		if used+need > BlockSize {
			cut = append(cut, all[start:i])
			start, used = i, 0
		}
		used += need
	}
	return append(cut, all[start:])
}

func direntBytes(n *erofsNode) int {
	cut := direntBlocks(direntsOf(n))
	size := (len(cut) - 1) * BlockSize
	for _, e := range cut[len(cut)-1] {
		size += erofsDirent + len(e.base)
	}
	return size
}

// fillDirents writes a folder's entries once all inodes have their places.
func fillDirents(n *erofsNode) {
	for i, entries := range direntBlocks(direntsOf(n)) {
		block := n.dirents[i*BlockSize:]
		name := len(entries) * erofsDirent
		for j, e := range entries {
			head := block[j*erofsDirent:]
			binary.LittleEndian.PutUint64(head, uint64(e.at/erofsSlot))
			binary.LittleEndian.PutUint16(head[8:], uint16(name))
			head[10] = erofsType(e.Mode)
			name += copy(block[name:], e.base)
		}
	}
}

func erofsType(m fs.FileMode) byte {
	switch m.Type() {
	case fs.ModeDir:
		return 2
	case fs.ModeSymlink:
		return 7
	}
	return 1
}

func unixMode(m fs.FileMode) uint16 {
	mode := uint16(m.Perm())
	if m&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	switch m.Type() {
	case fs.ModeDir:
		return mode | 0o040000
	case fs.ModeSymlink:
		return mode | 0o120000
	}
	return mode | 0o100000
}

// superBlock makes block 0. Build time and UUID stay zero: they would differ
// from one run to the next. The checksum is optional and left out.
func (l *erofsLayout) superBlock() []byte {
	block := make([]byte, BlockSize)
	sb := block[erofsSuperAt : erofsSuperAt+erofsSuperSize]
	binary.LittleEndian.PutUint32(sb[0:], erofsMagic)
	sb[12] = 12                                                             // log2 of BlockSize
	binary.LittleEndian.PutUint16(sb[14:], uint16(l.nodes[0].at/erofsSlot)) // root
	binary.LittleEndian.PutUint64(sb[16:], uint64(len(l.nodes)))            // inodes
	binary.LittleEndian.PutUint32(sb[36:], uint32(l.total))                 // blocks
	binary.LittleEndian.PutUint32(sb[40:], 1)                               // first block of the inodes
	return block
}

func (n *erofsNode) inode(number int) []byte {
	b := make([]byte, n.inodeSize())
	layout := uint16(erofsPlain)
	if n.inline {
		layout = erofsInline
	}
	binary.LittleEndian.PutUint16(b[4:], unixMode(n.Mode))
	binary.LittleEndian.PutUint32(b[16:], uint32(n.block))
	binary.LittleEndian.PutUint32(b[20:], uint32(number))
	if len(b) == erofsCompact {
		binary.LittleEndian.PutUint16(b[0:], layout<<1)
		binary.LittleEndian.PutUint16(b[6:], uint16(n.links()))
		binary.LittleEndian.PutUint32(b[8:], uint32(n.size))
		return b
	}
	binary.LittleEndian.PutUint16(b[0:], layout<<1|1)
	binary.LittleEndian.PutUint64(b[8:], uint64(n.size))
	binary.LittleEndian.PutUint32(b[44:], uint32(n.links()))
	return b
}

// writeHead writes all but the big files.
func (l *erofsLayout) writeHead(ctx context.Context, w io.Writer) error {
	out := &counter{w: w}
	if _, err := out.Write(l.superBlock()); err != nil {
		return err
	}
	for i, n := range l.nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := out.padTo(BlockSize + n.at); err != nil {
			return err
		}
		if _, err := out.Write(n.inode(i + 1)); err != nil {
			return err
		}
		if n.inline {
			if err := n.copyTo(out); err != nil {
				return err
			}
		}
	}
	for _, n := range l.small {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := out.padTo(n.block * BlockSize); err != nil {
			return err
		}
		if err := n.copyTo(out); err != nil {
			return err
		}
	}
	return nil
}

// copyTo writes n's content.
func (n *erofsNode) copyTo(w io.Writer) error {
	switch n.Mode.Type() {
	case fs.ModeDir:
		_, err := w.Write(n.dirents)
		return err
	case fs.ModeSymlink:
		_, err := io.WriteString(w, n.Target)
		return err
	}
	r, err := n.openSized()
	if err != nil {
		return err
	}
	defer r.Close()
	return n.whole(io.CopyN(w, r, n.size))
}

// whole turns a copy that came out short into an error that says so.
func (n *erofsNode) whole(copied int64, err error) error {
	if err == io.EOF || err == nil && copied != n.size {
		return changed(n.Entry)
	}
	return err
}

// writeBig copies a big file into place. On Linux the kernel does it
// (copy_file_range), and shares the blocks where the file system can.
func writeBig(ctx context.Context, f *os.File, n *erofsNode) error {
	r, err := n.openSized()
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := f.Seek(n.block*BlockSize, io.SeekStart); err != nil {
		return err
	}
	const step = 64 << 20 // between looks at ctx
	for left := n.size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		copied, err := io.CopyN(f, r, min(left, step))
		if err == io.EOF {
			return changed(n.Entry)
		}
		if err != nil {
			return err
		}
		left -= copied
	}
	return nil
}

// counter knows how much went through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

var zeros [BlockSize]byte

func (c *counter) padTo(at int64) error {
	for c.n < at {
		if _, err := c.Write(zeros[:min(at-c.n, BlockSize)]); err != nil {
			return err
		}
	}
	return nil
}
