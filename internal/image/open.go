package image

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/erofs/go-erofs"

	"devbox/internal/hint"
)

// Image is a packed image, open for reading. What it holds is not trusted:
// a broken or hostile image gives errors.
type Image struct {
	Format Format
	Size   int64 // bytes

	file *os.File
	fsys fs.FS
}

// Open opens an image, telling its format by its magic number.
func Open(name string) (*Image, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	img, err := open(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open image %s: %w", name, err)
	}
	return img, nil
}

func open(f *os.File) (*Image, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var super [4]byte
	if _, err := f.ReadAt(super[:], 1024); err == nil && binary.LittleEndian.Uint32(super[:]) == 0xe0f5e1e2 {
		fsys, err := erofs.Open(f)
		if err != nil {
			return nil, err
		}
		return &Image{Format: Erofs, Size: info.Size(), file: f, fsys: fsys}, nil
	}
	return nil, hint.Errorf("give a file that devbox packed", "it is neither erofs nor squashfs")
}

// FS is the content of the image. It is good until Close.
func (i *Image) FS() fs.FS { return i.fsys }

// Close closes the file.
func (i *Image) Close() error { return i.file.Close() }

// Units are those that portabled installs from this image: of the prefixes in
// its os-release, or all of them if that names none. They are sorted by name.
func (i *Image) Units() ([]Unit, error) {
	return unitsIn(i.fsys, prefixesOf(i.fsys))
}

// prefixesOf reads PORTABLE_PREFIXES= (os-release(5)).
func prefixesOf(fsys fs.FS) []string {
	release, _ := readRelease(fsys)
	return strings.Fields(release["PORTABLE_PREFIXES"])
}

// readRelease parses os-release where systemd looks for it, and says which
// file that is.
func readRelease(fsys fs.FS) (map[string]string, string) {
	values := map[string]string{}
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		data, err := readSmall(fsys, name, 1<<16)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok && !strings.HasPrefix(key, "#") {
				values[key] = strings.Trim(value, `"'`)
			}
		}
		return values, name
	}
	return values, ""
}
