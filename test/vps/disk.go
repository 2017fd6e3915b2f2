package vps

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"devbox/internal/vm"

	"golang.org/x/sys/unix"
)

// install makes the disk and the system on it.
func (s *Server) install(ctx context.Context) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	name, packages := "vps-bare", bare
	if s.options.UserData != nil {
		name, packages = "vps-cloud-init", cloudy
	}
	tar, err := vm.OtherTar(ctx, filepath.Join(cache, "devbox"), name, packages, nil)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Root(), 0o755); err != nil {
		return err
	}
	for _, command := range [][]string{
		{"truncate", "--size=" + s.options.Disk, s.disk()},
		{"mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", s.disk()},
	} {
		if _, err := run(ctx, command[0], command[1:]...); err != nil {
			return err
		}
	}
	if err := s.mount(ctx); err != nil {
		return err
	}
	if _, err := run(ctx, "tar", "--extract", "--file="+tar, "--directory="+s.Root(), "--numeric-owner", "--preserve-permissions",
		"--same-owner", "--xattrs", "--xattrs-include=*"); err != nil {
		return err
	}
	if err := s.furnish(ctx); err != nil {
		return err
	}
	_, err = run(ctx, "sync", "--file-system", s.Root())
	return err
}

// furnish makes the unpacked system a server of its own.
func (s *Server) furnish(ctx context.Context) error {
	if _, err := run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "owner of "+s.options.Name, "-f", s.KeyFile()); err != nil {
		return err
	}
	key, err := os.ReadFile(s.KeyFile() + ".pub")
	if err != nil {
		return err
	}
	if _, err := run(ctx, "ssh-keygen", "-q", "-A", "-f", s.Root()); err != nil {
		return err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	files := map[string]string{
		"etc/machine-id":                   hex.EncodeToString(id) + "\n",
		"etc/hostname":                     s.options.Name + "\n",
		"etc/hosts":                        "127.0.0.1 localhost\n127.0.1.1 " + s.options.Name + "\n::1 localhost ip6-localhost ip6-loopback\n",
		"etc/tmpfiles.d/loop-devices.conf": vm.LoopNodes(),
		"root/.ssh/authorized_keys":        string(key) + strings.Join(s.options.Authorized, ""),
		// The system is as new as its /usr: no catch-up work at the first boot.
		"etc/.updated": "", "var/.updated": "",
	}
	if s.options.UserData != nil {
		// With user data root's keys go to the provider's own user, as everywhere,
		// and the rest is what these data say. What gives it an address is outside of it.
		keys := files["root/.ssh/authorized_keys"]
		delete(files, "root/.ssh/authorized_keys")
		files["var/lib/cloud/seed/nocloud/user-data"] = string(s.options.UserData)
		files["var/lib/cloud/seed/nocloud/meta-data"] = "instance-id: " + hex.EncodeToString(id) + "\nlocal-hostname: " + s.options.Name + "\npublic-keys:\n"
		for key := range strings.Lines(keys) {
			files["var/lib/cloud/seed/nocloud/meta-data"] += "- '" + strings.TrimSpace(key) + "'\n"
		}
		files["etc/cloud/cloud.cfg.d/90-provider.cfg"] = "datasource_list: [NoCloud]\nnetwork: {config: disabled}\nresize_rootfs: false\ngrowpart: {mode: 'off'}\n"
	}
	for name, text := range files {
		at := filepath.Join(s.Root(), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	for _, unit := range vm.Masked {
		if unit == "sshd-keygen.service" {
			continue // its keys are its own business
		}
		if err := os.Symlink("/dev/null", filepath.Join(s.Root(), "etc/systemd/system", unit)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	// The driver wants to know a host key. It pins it for nobody here.
	pinned, err := os.ReadFile(filepath.Join(s.Root(), "etc/ssh/ssh_host_ed25519_key"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "state", "host_key"), pinned, 0o600)
}

// mounted says whether the disk is.
func mounted(at string) (bool, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	return strings.Contains(string(mounts), " "+at+" "), err
}

// share has what makes itself a view of all mounts, as other machines do, lose
// the disk when it is unmounted here: mount_namespaces(7). Where / is shared, as
// systemd makes it, this would not be needed.
func (s *Server) share(ctx context.Context) error {
	if is, err := mounted(s.dir); is || err != nil {
		return err
	}
	if _, err := run(ctx, "mount", "--bind", s.dir, s.dir); err != nil {
		return err
	}
	_, err := run(ctx, "mount", "--make-shared", s.dir)
	return err
}

// unshare ends that. Lazily: whoever swept up has the folder's own lock open.
func (s *Server) unshare(ctx context.Context) error {
	is, err := mounted(s.dir)
	if is && err == nil {
		_, err = run(ctx, "umount", "--lazy", s.dir)
	}
	return err
}

// mount mounts the disk, which replays its journal.
func (s *Server) mount(ctx context.Context) error {
	if is, err := mounted(s.Root()); is || err != nil {
		return err
	}
	if err := s.share(ctx); err != nil {
		return err
	}
	_, err := run(ctx, "mount", "-t", "ext4", "-o", "loop", s.disk(), s.Root())
	return err
}

// unmount waits until the kernel has let go of the disk: mounted earlier it
// would be the same file system again, as it was when its power was cut. What
// made itself a private view of all mounts meanwhile holds it, as mmdebstrap does.
func (s *Server) unmount(ctx context.Context) error {
	is, err := mounted(s.Root())
	if err != nil {
		return err
	}
	if !is {
		return s.unshare(ctx)
	}
	var last error
	for begin := time.Now(); time.Since(begin) < 2*time.Minute; time.Sleep(10 * time.Millisecond) {
		if is {
			_, last = run(ctx, "umount", s.Root())
			is = last != nil
			continue
		}
		out, err := run(ctx, "losetup", "--associated", s.disk())
		if err != nil {
			return err
		}
		if strings.TrimSpace(out) == "" {
			return s.unshare(ctx)
		}
		last = fmt.Errorf("something still holds it: %s", strings.TrimSpace(out))
	}
	return fmt.Errorf("unmount the disk of %s: %w", s.options.Name, last)
}

// detachLoops frees the loop devices that hold files of the disk.
func (s *Server) detachLoops(ctx context.Context) error {
	var st unix.Stat_t
	if err := unix.Stat(s.Root(), &st); err != nil {
		return err
	}
	list, err := run(ctx, "losetup", "--list", "--noheadings", "--raw", "--output=NAME,BACK-MAJ:MIN")
	if err != nil {
		return err
	}
	here := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == here {
			_, _ = run(ctx, "losetup", "--detach", f[0]) // most often it goes by itself meanwhile
		}
	}
	return nil
}

// What ext4 does when it is told to go down (fs/ext4/ioctl.c, fs/ext4/ext4.h).
const (
	ext4Shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
	noLogFlush   = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
)

// PowerCut takes the power: from this instant nothing more reaches the disk,
// neither file contents that were not synced nor the file system's own journal,
// and all processes end. The next Boot finds the disk as it was.
//
// The processes are stopped first. The kernel tells a sync that is under way when
// ext4 goes down that it was done (in 25 of 359 tries with Linux 6.18, and in none
// of 195 like this), and nobody may go on in that belief.
//
// What had been handed to the disk counts as written: a disk that lies about
// its cache is not what this is about.
func (s *Server) PowerCut(ctx context.Context) error {
	root, err := os.Open(s.Root())
	if err != nil {
		return err
	}
	s.halt()
	err = unix.IoctlSetPointerInt(int(root.Fd()), ext4Shutdown, noLogFlush)
	root.Close()
	if err == nil {
		err = s.Kill(ctx)
	}
	if err == nil {
		err = s.unmount(ctx)
	}
	if err != nil {
		return fmt.Errorf("cut the power of %s: %w", s.options.Name, err)
	}
	return nil
}

// halt stops all processes where they are.
func (s *Server) halt() {
	stopped := map[int]bool{}
	for before := -1; before < len(stopped); { // until none is new
		before = len(stopped)
		for _, pid := range s.machine.Processes() {
			_ = unix.Kill(pid, unix.SIGSTOP) // it may be gone by now
			stopped[pid] = true
		}
	}
}
