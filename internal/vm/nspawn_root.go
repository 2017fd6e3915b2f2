package vm

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/crypto/ssh"

	"devbox/internal/hint"
)

// loopNodes is how many loop devices a container has nodes for. The kernel
// numbers them for the whole host, and a node that it adds later does not
// appear inside.
const loopNodes = 256

// Masked are units that cannot work in a container or must not: they would
// touch the host's kernel, disk or clock, or make other host keys than the
// pinned one.
var Masked = []string{
	"systemd-modules-load.service", "systemd-pstore.service", "fstrim.timer", "console-getty.service", "getty@.service",
	"sshd-keygen.service", "dev-hugepages.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
}

// minRoot is what a new container takes on the disk, with its first packages.
const minRoot = 1 << 30

// file is one file of the container's system that we write.
type file struct {
	name string // relative to the root
	text string
	mode fs.FileMode
	uid  int
}

// LoopNodes is a tmpfiles.d(5) file that makes them.
func LoopNodes() string {
	var loops strings.Builder
	for n := range loopNodes {
		fmt.Fprintf(&loops, "b! /dev/loop%d 0660 root disk - 7:%d\n", n, n)
	}
	return loops.String()
}

// systemFiles make the unpacked base a machine of its own.
func systemFiles(name, authorized string, hostKey keyPair) []file {
	return []file{
		{"etc/hostname", name + "\n", 0o644, 0},
		{"etc/hosts", "127.0.0.1 localhost\n127.0.1.1 " + name + "\n::1 localhost ip6-localhost ip6-loopback\n", 0o644, 0},
		{"etc/ssh/ssh_host_ed25519_key", hostKey.private, 0o600, 0},
		{"etc/ssh/ssh_host_ed25519_key.pub", hostKey.public, 0o644, 0},
		{"home/" + AdminUser + "/.ssh/authorized_keys", authorized, 0o600, 1000},
		{"etc/tmpfiles.d/devbox-loop.conf", LoopNodes(), 0o644, 0},
		{"etc/systemd/journald.conf.d/50-devbox.conf", "[Journal]\nStorage=persistent\n", 0o644, 0},
		// No data source exists here. The cloud-config is applied over SSH.
		{"etc/cloud/cloud-init.disabled", "", 0o644, 0},
		{"etc/cloud/cloud.cfg.d/99-devbox.cfg", "# The host key is pinned by the client.\nssh_deletekeys: false\nssh_genkeytypes: [ed25519]\n", 0o644, 0},
		// The system is as new as its /usr: no catch-up work at the first boot.
		{"etc/.updated", "", 0o644, 0},
		{"var/.updated", "", 0o644, 0},
	}
}

// unpackRoot makes dir/root from the base, under a temporary name first. A
// failed one gives the disk back.
func (n *Nspawn) unpackRoot(ctx context.Context, lock *os.File, p Progress) (err error) {
	base, err := baseTar(ctx, n.spec.CacheDir, p)
	if err != nil {
		return err
	}
	part := n.path("root.new")
	if err := n.removeRoot(part); err != nil {
		return err
	}
	if err := checkFree(n.spec.StateDir, minRoot, roomFor(n.spec.StateDir, "XDG_STATE_HOME")); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.removeRoot(part))
		}
	}()
	p.Step("unpack the base system")
	if err := os.Mkdir(part, 0o755); err != nil {
		return err
	}
	tar := tool{lock: lock, args: []string{
		"tar", "--extract", "--file=" + base, "--directory=" + part, "--numeric-owner", "--preserve-permissions", "--same-owner",
		"--xattrs", "--xattrs-include=*",
	}}
	if _, err := tar.run(ctx); err != nil {
		err = fmt.Errorf("unpack %s: %w", base, err)
		if err = hint.Full(err, roomFor(n.spec.StateDir, "XDG_STATE_HOME")); hint.Of(err) != "" || ctx.Err() != nil {
			return err
		}
		return hint.Wrap(err, fmt.Sprintf("free space under %s, or remove %s to have it built again", n.spec.StateDir, base))
	}
	root, err := os.OpenRoot(part)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := n.furnish(root); err != nil {
		return fmt.Errorf("set up %s: %w", part, err)
	}
	id := make([]byte, 16)
	rand.Read(id)
	if err := writeIn(root, file{"etc/machine-id", hex.EncodeToString(id) + "\n", 0o444, 0}); err != nil {
		return err
	}
	for _, unit := range Masked {
		if err := root.Symlink("/dev/null", "etc/systemd/system/"+unit); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("mask %s: %w", unit, err)
		}
	}
	// After a power cut, what has the name of a whole system must be one.
	if _, err := run(ctx, "sync", "--file-system", part); err != nil {
		return err
	}
	return os.Rename(part, n.path("root"))
}

// furnish writes our own files into the machine's system, and the keys that
// lead into it next to it.
func (n *Nspawn) furnish(root *os.Root) error {
	client, err := ensureKey(n.path("key"), "devbox@"+n.spec.Name)
	if err != nil {
		return err
	}
	hostKey, err := ensureKey(n.path("host_key"), "root@"+n.spec.Name)
	if err != nil {
		return err
	}
	for _, f := range systemFiles(n.spec.Name, client.public, hostKey) {
		if err := writeIn(root, f); err != nil {
			return err
		}
	}
	return n.aptProxyFile(root)
}

func (n *Nspawn) aptProxyFile(root *os.Root) error {
	lines := baseRecipe(context.Background()).AptConf
	if len(lines) == 0 {
		return nil
	}
	return writeIn(root, file{"etc/apt/apt.conf.d/99devbox-proxy", strings.Join(lines, "\n") + "\n", 0o644, 0})
}

// restoreAccess puts our keys back into a machine that lost them or that we
// lost the keys of. It reports nothing where they agree.
func (n *Nspawn) restoreAccess() error {
	root, err := os.OpenRoot(n.path("root"))
	if err != nil {
		return err
	}
	defer root.Close()
	client, err := ensureKey(n.path("key"), "devbox@"+n.spec.Name)
	if err != nil {
		return err
	}
	hostKey, err := ensureKey(n.path("host_key"), "root@"+n.spec.Name)
	if err != nil {
		return err
	}
	for _, f := range systemFiles(n.spec.Name, client.public, hostKey) {
		if f.text == "" || !strings.Contains(f.name, "ssh") {
			continue
		}
		was, _ := root.ReadFile(f.name)
		if f.uid == 1000 && bytes.Contains(was, []byte(strings.TrimSpace(f.text))) || string(was) == f.text {
			continue // the owner may have added keys
		}
		if f.uid == 1000 {
			f.text += string(was)
		}
		if err := writeIn(root, f); err != nil {
			return err
		}
	}
	return nil
}

// writeIn writes a file below root by temporary name and rename. The system
// there may be hostile to the host: os.Root follows none of its links outside.
func writeIn(root *os.Root, f file) error {
	dir := path.Dir(f.name)
	if _, err := root.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		mode := fs.FileMode(0o755)
		if f.uid != 0 {
			mode = 0o700
		}
		if err := root.MkdirAll(dir, mode); err != nil {
			return err
		}
		if err := root.Lchown(dir, f.uid, f.uid); err != nil {
			return err
		}
	}
	part := f.name + ".devbox-new"
	if err := ignoreMissing(root.Remove(part)); err != nil {
		return err
	}
	if err := root.WriteFile(part, []byte(f.text), f.mode); err != nil {
		return err
	}
	if err := errors.Join(root.Chmod(part, f.mode), root.Lchown(part, f.uid, f.uid)); err != nil {
		return err
	}
	return root.Rename(part, f.name)
}

// copyResolvConf gives the machine the host's name servers, as of now.
func (n *Nspawn) copyResolvConf(p Progress) error {
	text, source, err := hostResolvConf()
	if err != nil {
		return err
	}
	if onlyLoopback(text) {
		p.Step("warning: %s names no server beyond this host's own loopback address; names will not resolve inside the machine", source)
	}
	root, err := os.OpenRoot(n.path("root"))
	if err != nil {
		return err
	}
	defer root.Close()
	return writeIn(root, file{"etc/resolv.conf", text, 0o644, 0})
}

// hostResolvConf reads the host's name servers. systemd-resolved's stub
// listens on the host's loopback only; it lists the real ones elsewhere
// (systemd-resolved(8)).
func hostResolvConf() (text, source string, err error) {
	source = "/etc/resolv.conf"
	b, err := os.ReadFile(source)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", source, err
	}
	if onlyLoopback(string(b)) {
		const real = "/run/systemd/resolve/resolv.conf"
		if r, err := os.ReadFile(real); err == nil {
			return string(r), real, nil
		}
	}
	return string(b), source, nil
}

func onlyLoopback(resolvConf string) bool {
	var servers []string
	for line := range strings.Lines(resolvConf) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" {
			servers = append(servers, f[1])
		}
	}
	return !slices.ContainsFunc(servers, func(s string) bool { return !strings.HasPrefix(s, "127.") && s != "::1" })
}

type keyPair struct{ private, public string }

// ensureKey reads an ed25519 key in OpenSSH's format, or makes a new one.
func ensureKey(name, comment string) (keyPair, error) {
	if b, err := os.ReadFile(name); err == nil {
		signer, err := ssh.ParsePrivateKey(b)
		if err == nil {
			return keyPair{string(b), publicLine(signer.PublicKey(), comment)}, nil
		}
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return keyPair{}, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return keyPair{}, err
	}
	pair := keyPair{string(pem.EncodeToMemory(block)), publicLine(signer.PublicKey(), comment)}
	return pair, renameio.WriteFile(name, []byte(pair.private), 0o600)
}

func publicLine(key ssh.PublicKey, comment string) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " " + comment + "\n"
}

// removeRoot deletes a machine's tree, under another name first so that a
// half-deleted one is never taken for whole. It refuses while something is
// mounted below, which deleting would reach.
func (n *Nspawn) removeRoot(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	if below := mountsBelow(string(mounts), dir); len(below) > 0 {
		return hint.Errorf("umount "+below[len(below)-1], "remove %s: %s is mounted there", dir, below[len(below)-1])
	}
	gone := n.path("root.gone")
	if err := removeTree(gone); err != nil {
		return err
	}
	if err := ignoreMissing(os.Rename(dir, gone)); err != nil {
		return err
	}
	return removeTree(gone)
}

func removeTree(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return hint.Wrap(fmt.Errorf("remove %s: %w", dir, err), "see `lsattr -d` and `findmnt` for what holds it")
	}
	return nil
}

func mountsBelow(mounts, dir string) []string {
	var below []string
	for line := range strings.Lines(mounts) {
		if f := strings.Fields(line); len(f) > 1 {
			at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(f[1])
			if at == dir || strings.HasPrefix(at, dir+string(filepath.Separator)) {
				below = append(below, at)
			}
		}
	}
	return below
}
