package vm

import (
	"context"
	"errors"
)

// Disk is a bootable Debian 13 built from packages, for a hypervisor that is
// given the kernel directly. All fields but Cmdline, Arch and Digest are
// absolute paths of files in the cache.
type Disk struct {
	Image   string // qcow2 with one ext4 file system, labelled root, no partitions
	Kernel  string
	Initrd  string
	Cmdline string // root=LABEL=root …
	Arch    string // Go's name: amd64, arm64
	Digest  string // sha256:… of Image
}

// DiskOptions say which disk to build and where to keep it.
type DiskOptions struct {
	Arch     string // Go's name; "" is this machine's
	CacheDir string
}

// BuildDisk returns the disk from the cache, building it first if it is not
// there. Root is not needed where `unshare` may map users (uidmap, subuid).
func BuildDisk(ctx context.Context, o DiskOptions, p Progress) (*Disk, error) {
	return nil, errors.New("no disk")
}
