package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"devbox/internal/hint"
)

// basePackages make a Debian that behaves as the Debian cloud image does, as
// far as a service and its cloud-config can tell.
var basePackages = []string{
	"systemd", "systemd-sysv", "systemd-container", "systemd-timesyncd", "libpam-systemd",
	"dbus", "dbus-user-session", "cloud-init", "python3-jsonschema",
	"openssh-server", "sudo", "ca-certificates", "curl",
	"iproute2", "iputils-ping", "nftables", "netbase", "procps", "kmod",
	"unattended-upgrades", "zstd", "less",
}

// AdminUser is the login of machines that this package builds itself; it may
// become root by sudo without a password.
const AdminUser = "devbox"

// makeAdmin is run by the shell on the finished tree, $1.
const makeAdmin = `set -e
chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash --groups adm,sudo,systemd-journal ` + AdminUser + `
echo '` + AdminUser + ` ALL=(ALL) NOPASSWD:ALL' >"$1/etc/sudoers.d/90-machine-admin"
chmod 440 "$1/etc/sudoers.d/90-machine-admin"
` + makeNobodys

// makeNobodys takes away what would be the same on all machines.
const makeNobodys = `rm -f "$1"/etc/ssh/ssh_host_*_key "$1"/etc/ssh/ssh_host_*_key.pub "$1/etc/hostname" "$1/etc/resolv.conf"
: >"$1/etc/machine-id"
rm -f "$1/var/lib/dbus/machine-id"
`

// recipe is all that a Debian is built from; equal recipes share a result.
type recipe struct {
	Kind     string // what the result is: nspawn, disk
	Arch     string // Go's name
	Suite    string
	Packages []string
	Hooks    []string // shell, with the tree as $1, in order
	Sources  []string // one-line apt sources; none for mmdebstrap's own
	AptConf  []string // apt.conf lines for the build and for the machine
}

// baseRecipe is the recipe of what containers are unpacked from.
func baseRecipe(ctx context.Context) recipe {
	return recipe{
		Kind: "nspawn", Arch: runtime.GOARCH, Suite: suite, Packages: basePackages, Hooks: []string{makeAdmin},
		Sources: hostAptSources(suite), AptConf: hostAptProxy(ctx),
	}
}

func (r recipe) key() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", []any{
		r.Kind, r.Arch, r.Suite, r.Packages, r.Hooks, r.Sources, r.AptConf,
	}))
	return hex.EncodeToString(sum[:6])
}

// debianArch is Debian's name of a Go architecture.
func debianArch(goarch string) (string, error) {
	switch goarch {
	case "amd64", "arm64":
		return goarch, nil
	}
	return "", fmt.Errorf("no Debian machine is built for %s: only amd64 and arm64", goarch)
}

// args are mmdebstrap's.
func (r recipe) args(mode, format, out string) ([]string, error) {
	arch, err := debianArch(r.Arch)
	if err != nil {
		return nil, err
	}
	a := []string{
		"mmdebstrap", "--mode=" + mode, "--format=" + format, "--variant=minbase", "--architectures=" + arch,
		"--include=" + strings.Join(r.Packages, ","),
		`--dpkgopt=path-exclude=/usr/share/man/*`, `--dpkgopt=path-exclude=/usr/share/doc/*`,
		`--dpkgopt=path-include=/usr/share/doc/*/copyright`, `--dpkgopt=path-exclude=/usr/share/locale/*`,
	}
	for _, line := range r.AptConf {
		a = append(a, "--aptopt="+line)
	}
	for _, hook := range r.Hooks {
		a = append(a, "--customize-hook="+hook)
	}
	return append(append(a, r.Suite, out), r.Sources...), nil
}

// build runs mmdebstrap in a mode and with an output format of its own. scratch
// is where it builds, lock what it holds meanwhile.
func (r recipe) build(ctx context.Context, lock *os.File, mode, format, scratch, out string) error {
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	args, err := r.args(mode, format, out)
	if err != nil {
		return err
	}
	if _, err := (tool{args: args, env: []string{"TMPDIR=" + scratch, "LC_ALL=C"}, quiet: 20 * time.Second, lock: lock}).run(ctx); err != nil {
		err = fmt.Errorf("build Debian %s from packages: %w", r.Suite, err)
		if ctx.Err() != nil {
			return err
		}
		if err = hint.Full(err, roomFor(scratch, "XDG_CACHE_HOME")); hint.Of(err) != "" {
			return err
		}
		const cure = "check that apt works on this machine (`apt-get update`); a mirror or a proxy set up for apt is used here too"
		return hint.Wrap(err, cure)
	}
	return nil
}

// minBuild is what building a base takes: the tree, its packages and the tar file.
const minBuild = 2 << 30

// baseTar returns the tar file that dev machines are unpacked from, building it
// first if the cache has none. Only root can.
func baseTar(ctx context.Context, cacheDir string, p Progress) (string, error) {
	return baseRecipe(ctx).tar(ctx, cacheDir, "debian-13", p)
}

// OtherTar is the tar file of a Debian 13 of other packages than a dev machine
// has, without a user of ours: what tests make servers of. The cache knows it
// by name.
func OtherTar(ctx context.Context, cacheDir, name string, packages []string, p Progress) (string, error) {
	r := baseRecipe(ctx)
	r.Kind, r.Packages, r.Hooks = name, packages, []string{"set -e\n" + makeNobodys}
	return r.tar(ctx, cacheDir, name, p)
}

// tar builds the recipe's tar file unless the cache has it.
func (r recipe) tar(ctx context.Context, cacheDir, name string, p Progress) (string, error) {
	name = name + "-" + r.Arch
	dir := filepath.Join(cacheDir, "nspawn")
	path := filepath.Join(dir, fmt.Sprintf("%s-%s.tar", name, r.key()))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	lock, err := takeLock(ctx, filepath.Join(dir, "lock"), p)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, err := os.Stat(path); err == nil { // the one we waited for built it
		return path, nil
	}
	part := filepath.Join(dir, "unfinished")
	if err := removeTree(part); err != nil { // what a killed build left
		return "", err
	}
	if err := checkFree(dir, minBuild, roomFor(dir, "XDG_CACHE_HOME")); err != nil {
		return "", err
	}
	p.Step("build the base system from Debian's packages")
	tar := filepath.Join(part, "out.tar")
	err = r.build(ctx, lock, "root", "tar", filepath.Join(part, "scratch"), tar)
	if err == nil {
		err = syncFile(tar)
	}
	if err == nil {
		err = os.Rename(tar, path)
	}
	if err == nil {
		err = pruneOldest(filepath.Join(dir, name+"-*.tar"), 2)
	}
	return path, errors.Join(err, os.RemoveAll(part))
}

// pruneOldest removes all but the newest few files of a pattern: what older
// recipes made. Machines hold a copy and do not need them.
func pruneOldest(pattern string, keep int) error {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	age := func(name string) time.Time {
		info, err := os.Stat(name)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(names, func(a, b string) int { return age(b).Compare(age(a)) })
	for _, name := range names[min(keep, len(names)):] {
		if err := removeTree(name); err != nil {
			return err
		}
	}
	return nil
}

// syncFile waits until the disk has a file's bytes.
func syncFile(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

var aptProxyLine = regexp.MustCompile(`(?m)^Acquire::(?:http|https)::Proxy(?:::[^ ]+)? "[^"]*";$`)

// hostAptProxy returns the host's proxy settings for apt, as apt.conf lines.
func hostAptProxy(ctx context.Context) []string {
	dump, err := run(ctx, "apt-config", "dump")
	if err != nil {
		return nil // not a Debian: mmdebstrap brings an apt of its own, without settings
	}
	var lines []string
	for _, line := range aptProxyLine.FindAllString(dump, -1) {
		if !strings.Contains(line, `""`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// BasePackages are those that machines of this package are made with.
func BasePackages() []string { return append(slices.Clone(basePackages), diskPackages...) }
