package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"

	"devbox/internal/hint"
)

// Disk is a bootable Debian 13 built from packages, for a hypervisor that is
// given the kernel directly. Image, Kernel and Initrd are absolute paths of
// files in the cache.
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

// diskPackages are what a machine with a kernel of its own has beyond
// basePackages, as Debian's cloud image does.
var diskPackages = []string{
	"udev", "initramfs-tools", "e2fsprogs", "cloud-guest-utils", "netplan.io", "systemd-resolved",
}

// prepareDisk makes the tree bootable. The kernel stays as it is: it is not
// read from the disk, so an upgrade would only leave it without its modules.
const prepareDisk = `set -e
rm -f "$1"/etc/ssh/ssh_host_*_key "$1"/etc/ssh/ssh_host_*_key.pub "$1/etc/hostname"
: >"$1/etc/machine-id"
rm -f "$1/var/lib/dbus/machine-id"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
echo 'LABEL=root / ext4 rw,errors=remount-ro 0 1' >"$1/etc/fstab"
chroot "$1" sh -c 'apt-mark hold linux-image-*'
`

// makeDisk puts kernel, initrd and disk into /.out of the tree, where
// mmdebstrap can fetch them from even if this user cannot read there. A second
// view of the tree, with that folder hidden, is what goes onto the disk.
const makeDisk = `set -e
mkdir "$1/.out"
cp "$1"/boot/vmlinuz-* "$1/.out/vmlinuz"
cp "$1"/boot/initrd.img-* "$1/.out/initrd"
mount --bind "$1" "$1/mnt"
mount -t tmpfs none "$1/mnt/.out"
trap 'umount "$1/mnt/.out" "$1/mnt"' EXIT
size=$(du -sm "$1/mnt" | cut -f1)
truncate -s $((size * 5 / 4 + 300))M "$1/.out/disk"
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -L root -d "$1/mnt" "$1/.out/disk"
`

// diskFiles are the files in a finished disk's folder, beside disk.json.
var diskFiles = []string{"disk.qcow2", "vmlinuz", "initrd"}

func diskRecipe(ctx context.Context, goarch string) recipe {
	r := baseRecipe(ctx)
	r.Kind, r.Arch = "disk", goarch
	r.Packages = append(append([]string{"linux-image-cloud-" + goarch}, basePackages...), diskPackages...)
	r.Hooks = []string{prepareDisk, makeDisk}
	return r
}

// BuildDisk returns the disk from the cache, building it first if it is not
// there. It needs mmdebstrap, mke2fs and qemu-img, and either root or a user
// whom unshare may map to others (uidmap, /etc/subuid).
func BuildDisk(ctx context.Context, o DiskOptions, p Progress) (*Disk, error) {
	if o.Arch == "" {
		o.Arch = runtime.GOARCH
	}
	if _, err := debianArch(o.Arch); err != nil {
		return nil, err
	}
	r := diskRecipe(ctx, o.Arch)
	dir := filepath.Join(o.CacheDir, "disk")
	final := filepath.Join(dir, fmt.Sprintf("debian-13-%s-%s", r.Arch, r.key()))
	if d, err := readDisk(final); err == nil {
		return d, nil
	}
	if err := canBuildDisk(o.Arch, runtime.GOOS, runtime.GOARCH); err != nil {
		return nil, err
	}
	lock, err := takeLock(ctx, filepath.Join(dir, "lock"), p)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if d, err := readDisk(final); err == nil { // the one we waited for built it
		return d, nil
	}
	part := filepath.Join(dir, "unfinished")
	if err := errors.Join(removeTree(part), removeTree(final)); err != nil {
		return nil, err
	}
	if err := os.Mkdir(part, 0o755); err != nil {
		return nil, err
	}
	err = r.buildDisk(ctx, lock, part, p)
	if err == nil {
		err = os.Rename(part, final)
	}
	if err == nil {
		err = pruneOldest(filepath.Join(dir, "debian-13-"+r.Arch+"-*"), 2)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("build a bootable disk: %w", err), os.RemoveAll(part))
	}
	return readDisk(final)
}

// kernelCmdline is how the kernel of a disk is started. On an emulated processor
// it can panic in its first seconds, while it patches itself: then it boots again.
func kernelCmdline(goarch string) string {
	return "root=LABEL=root rw panic=5 console=tty0 console=" + map[string]string{"amd64": "ttyS0", "arm64": "ttyAMA0"}[goarch]
}

// readDisk returns a finished disk.
func readDisk(dir string) (*Disk, error) {
	b, err := os.ReadFile(filepath.Join(dir, "disk.json"))
	if err != nil {
		return nil, err
	}
	var d Disk
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, err
	}
	d.Cmdline = kernelCmdline(d.Arch)
	for i, at := range []*string{&d.Image, &d.Kernel, &d.Initrd} {
		*at = filepath.Join(dir, diskFiles[i])
		if _, err := os.Stat(*at); err != nil {
			return nil, err
		}
	}
	return &d, nil
}

func (r recipe) buildDisk(ctx context.Context, lock *os.File, dir string, p Progress) error {
	p.Step("build a bootable Debian 13 from packages")
	for _, name := range []string{"disk", "vmlinuz", "initrd"} {
		r.Hooks = append(r.Hooks, "download /.out/"+name+" "+shellQuote(filepath.Join(dir, name)))
	}
	mode, scratch := "root", filepath.Join(dir, "scratch")
	if os.Geteuid() != 0 {
		// The users that unshare maps to may not enter a home folder, and /tmp may
		// be memory.
		mode, scratch = "unshare", "/var/tmp"
	}
	if err := r.build(ctx, lock, mode, "null", scratch, "/dev/null"); err != nil {
		return err
	}
	p.Step("pack the disk")
	raw, image := filepath.Join(dir, "disk"), filepath.Join(dir, "disk.qcow2")
	convert := tool{args: []string{"qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image}, lock: lock}
	if _, err := convert.run(ctx); err != nil {
		return err
	}
	if err := errors.Join(os.Remove(raw), os.RemoveAll(filepath.Join(dir, "scratch"))); err != nil {
		return err
	}
	digest, err := fileDigest(image, "sha256:")
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(Disk{Arch: r.Arch, Digest: digest}, "", "  ")
	if err != nil {
		return err
	}
	for _, name := range diskFiles {
		if err := syncFile(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "disk.json"), append(text, '\n'), 0o644)
}

// canBuildDisk says what keeps this user from building one.
func canBuildDisk(want, goos, goarch string) error {
	const elsewhere = "set machine.base to a Debian 13 cloud image and its digest"
	if goos != "linux" {
		return hint.Errorf(elsewhere, "a base disk is built from packages on Linux only")
	}
	if want != goarch {
		return hint.Errorf(elsewhere, "a base disk for %s cannot be built on %s", want, goarch)
	}
	if err := notInstalled("building a base disk needs", lacking(diskNeeds(os.Geteuid()), installed)); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		return nil
	}
	u, err := user.Current()
	if err != nil {
		return err
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		b, _ := os.ReadFile(file)
		if !mapsUser(string(b), u.Username, u.Uid) {
			return hint.Errorf("run as root: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "+u.Username+"`",
				"building a base disk as %s needs an entry in %s", u.Username, file)
		}
	}
	return nil
}

// mapsUser reads subuid(5).
func mapsUser(table, name, uid string) bool {
	for line := range strings.Lines(table) {
		if who, _, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && (who == name || who == uid) {
			return true
		}
	}
	return false
}
