package watch

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// sum is a hash of a file's content; the zero sum means that there is none.
type sum [16]byte

func (s sum) String() string { return hex.EncodeToString(s[:]) }

// parseSum reads what String wrote, and anything else as no content: a
// snapshot from elsewhere costs a build, not an error.
func parseSum(text string) (s sum) {
	if len(text) == hex.EncodedLen(len(s)) {
		if _, err := hex.Decode(s[:], []byte(text)); err != nil {
			return sum{}
		}
	}
	return s
}

// file is what is known of one that is watched.
type file struct {
	print fingerprint
	sum   sum
	scan  uint32 // that last saw it
	// racy says that the file could have changed again within the same tick
	// of its file system's clock after its content was read.
	racy bool
}

// fingerprint changes when content does, short of a tick of the clock. The
// time of change cannot be set, so tools that restore the time of
// modification do not deceive it.
type fingerprint struct {
	size, modified, changed int64
	inode                   uint64
}

func printOf(info fs.FileInfo) fingerprint {
	p := fingerprint{size: info.Size(), modified: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		p.changed, p.inode = changeTime(st), st.Ino
	}
	return p
}

// racyTick is longer than the ticks of the usual file systems; racyCoarse of
// those that keep no more than seconds.
const (
	racyTick   = 20 * time.Millisecond
	racyCoarse = 2100 * time.Millisecond
)

func racy(p fingerprint, now time.Time) bool {
	age, tick := now.UnixNano()-p.modified, racyTick
	if p.modified%int64(time.Second) == 0 {
		tick = racyCoarse
	}
	return age < int64(tick)
}

// content hashes a regular file, or the target of a symbolic link. A file
// that is there but cannot be read gets a sum of its own.
func content(path string, info fs.FileInfo, buf []byte) (s sum, err error) {
	h := sha256.New()
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(path)
		if err != nil {
			return sum{}, err
		}
		io.WriteString(h, "link\x00"+target)
		return sum(h.Sum(nil)[:len(s)]), nil
	}
	// Not blocking and not following: it may have become a pipe or a link.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err == nil {
		defer f.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, buf)
	}
	switch {
	case os.IsNotExist(err):
		return sum{}, err
	case err != nil:
		h.Reset()
		io.WriteString(h, "unreadable")
	}
	return sum(h.Sum(nil)[:len(s)]), nil
}
