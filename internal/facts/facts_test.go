package facts

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"devbox/internal/protocol"
)

func equal(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

const dpkgStatus = `Package: dpkg
Essential: yes
Status: install ok installed
Priority: required
Architecture: amd64
Version: 1.22.21
Pre-Depends: libbz2-1.0, libc6 (>= 2.38)

Package: nginx
Status: install ok installed
Priority: optional
Architecture: amd64
Version: 1.26.3-3
Depends: libssl3t64 (>= 3.0.0) | libssl-none, iproute2:any
Conffiles:
 /etc/nginx/nginx.conf 0123456789abcdef0123456789abcdef
 /etc/nginx/old.conf fedcba9876543210fedcba9876543210 obsolete
Description: small, powerful
 Depends: on nothing, this is a description

Package: libssl3t64
Status: install ok installed
Priority: optional
Architecture: amd64
Version: 3.5.1-1

Package: python3-six
Status: install ok installed
Priority: optional
Architecture: all
Version: 1.17

Package: libc6
Status: install ok installed
Priority: optional
Architecture: i386
Version: 2.41-12

Package: gone
Status: deinstall ok config-files
Priority: optional
Architecture: amd64
Version: 1.0
`

func TestParseDpkg(t *testing.T) {
	db := parseDpkg([]byte(dpkgStatus), []byte("Package: python3-six\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: nginx\nArchitecture: amd64\nAuto-Installed: 0\n"))
	equal(t, db.packages, map[string]Package{
		"dpkg":        {Version: "1.22.21", Base: true},
		"nginx":       {Version: "1.26.3-3"},
		"libssl3t64":  {Version: "3.5.1-1", Auto: true},
		"python3-six": {Version: "1.17", Auto: true},
		"libc6:i386":  {Version: "2.41-12", Auto: true},
	})
	equal(t, db.conffiles, map[string]string{"/etc/nginx/nginx.conf": "0123456789abcdef0123456789abcdef"})
}

func TestFingerprints(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICesAQcC8i/mnaskZgwBLNOnBRX1OL3+uLJI6rJS4/g9"
	got := Fingerprints([]byte("# of Ann\n" + key + " ann@laptop\n\n" +
		`from="10.0.0.0/8",command="echo a b" ` + key + "\nnot a key\nssh-ed25519 AAAA!\n"))
	equal(t, got, []string{"SHA256:oLEPUmkxCxKTN/eLERfHe/EyFADP7OmRSxDvYIdjrtc", "SHA256:oLEPUmkxCxKTN/eLERfHe/EyFADP7OmRSxDvYIdjrtc with options"})
}

func TestSudoersLines(t *testing.T) {
	const text = "# comment\n#includedir /etc/other\nDefaults\tenv_reset\n\ndeploy ALL=(root) \\\n  NOPASSWD: /usr/local/sbin/devbox-host\n"
	equal(t, SudoersLines("/etc/sudoers.d/devbox", []byte(text)),
		[]string{"#includedir /etc/other", "Defaults env_reset", "deploy ALL=(root) NOPASSWD: /usr/local/sbin/devbox-host"})
	equal(t, SudoersLines("/etc/sudoers.d/devbox.bak", []byte(text)), []string(nil)) // sudo ignores it
}

func TestSysctls(t *testing.T) {
	equal(t, Sysctls([]byte("# x\n-net.core.somaxconn = 4096\nnet/ipv4/conf/eth0.1/rp_filter=1\n -kernel.panic=10 \nnet.ipv4.tcp_rmem = 4096 \t 87380  6291456\n-net.ipv4.conf.*.rp_filter\n; y\n")),
		map[string]Sysctl{
			"net.core.somaxconn":             {"4096", true},
			"net.ipv4.conf.eth0/1.rp_filter": {"1", false},
			"kernel.panic":                   {"10", true},
			"net.ipv4.tcp_rmem":              {"4096 87380 6291456", false},
		})
	equal(t, sysctlPath("net.ipv4.conf.eth0/1.rp_filter"), "net/ipv4/conf/eth0.1/rp_filter")
}

func TestParseSSHD(t *testing.T) {
	equal(t, parseSSHD([]byte("port 22\nport 2222\npermitrootlogin without-password\nlistenaddress 0.0.0.0:22\nhostkey /etc/ssh/x\nacceptenv LANG\n")),
		map[string]string{"port": "22, 2222", "permitrootlogin": "without-password", "acceptenv": "LANG"})
}

func TestParseNet(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	equal(t, parseNet("tcp", []byte(head+
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3522237 1 0 100 0 0 10 0\n"+
		"   1: 6258D50A:0016 6158D50A:EDFA 01 00000000:00000000 02:000AE6B6 00000000     0        0 3522978 3 0 20 4 10 154 -1\n"+
		"   2: B80D0120000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 7 1 0 100 0 0 10 0\n"+
		"   3: broken\n")),
		[]socket{
			{"tcp", netip.MustParseAddr("127.0.0.1"), 8080, "3522237"},
			{"tcp", netip.MustParseAddr("2001:db8::1"), 443, "7"},
		})
	// A client's socket has a port that the kernel chose.
	equal(t, parseNet("udp", []byte(head+
		"  1: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 11 2 0 0\n"+
		"  2: 00000000:D431 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 12 2 0 0\n")),
		[]socket{{"udp", netip.IPv4Unspecified(), 68, "11"}})
}

func TestParseSockets(t *testing.T) {
	got, err := parseSockets([]byte(`[{"listen":"/run/x","unit":"x.socket"},{"listen":"[::]:8080","unit":"bowl.socket","activates":"bowl.service"},{"listen":"127.0.0.1:25","unit":"mail.socket"}]`))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, map[string]string{"8080": "bowl.socket", "25": "mail.socket"})
	if _, err := parseSockets([]byte("LISTEN UNIT")); err == nil {
		t.Error("no error for what is no JSON")
	}
}

func TestParseUpgrade(t *testing.T) {
	pending, security := parseUpgrade([]byte("Reading package lists...\nInst libssl3t64 [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])\n" +
		"Inst base-files [13.8] (13.9 Debian:13.2/stable [amd64]) []\nConf libssl3t64 (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])\n"))
	equal(t, pending, []string{"libssl3t64", "base-files"})
	equal(t, security, []string{"libssl3t64"})
}

func TestHasDeletedLibrary(t *testing.T) {
	for maps, want := range map[string]bool{
		"7f0 r-xp 00028000 08:01 1 /usr/lib/x86_64-linux-gnu/libc.so.6 (deleted)\n":      true,
		"7f0 r--p 00028000 08:01 1 /usr/lib/x86_64-linux-gnu/libc.so.6 (deleted)\n":      false, // another mapping has its code
		"7f0 r-xp 00028000 08:01 1 /usr/lib/x86_64-linux-gnu/libc.so.6\n":                false,
		"7f0 rwxs 00000000 00:01 1 /memfd:/usr/lib/x (deleted)\n7f0 r-xp 0 0 0 [vdso]\n": false,
	} {
		if got := hasDeletedLibrary([]byte(maps)); got != want {
			t.Errorf("%q: %v", maps, got)
		}
	}
}

// tree makes a host of files below a folder.
func tree(t *testing.T, files map[string]string) *host {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		full := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(to, full)
		} else {
			err = os.WriteFile(full, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return newHost(root, func(_ context.Context, name string, _ ...string) ([]byte, error) {
		t.Errorf("ran %s", name)
		return nil, errors.New("not here")
	})
}

func TestFiles(t *testing.T) {
	const conffile = "Package: p\nStatus: install ok installed\nArchitecture: all\nConffiles:\n /etc/same 098f6bcd4621d373cade4e832627b4f6\n /etc/edited 098f6bcd4621d373cade4e832627b4f6\n"
	h := tree(t, map[string]string{
		"var/lib/dpkg/status":          conffile,
		"var/lib/dpkg/info/q.postinst": "test -e /etc/edited || cp /usr/share/edited /etc/edited\n",
		"var/lib/dpkg/info/p.list":     "/etc/same\n/etc/edited\n/etc/made\n/etc/link\n/usr/bin/x\n",
		"var/lib/ucf/hashfile":         "098f6bcd4621d373cade4e832627b4f6  /etc/asked\n",
		"etc/same":                     "test",
		"etc/asked":                    "test",
		"etc/edited":                   "edited",
		"etc/made":                     "by the package's script",
		"etc/link":                     "-> same",
		"etc/mine/link":                "-> ../same",
		"etc/mine/secret":              "hunter2",
		"etc/systemd/system/bowl.service.d/x.conf":               "[Service]\n",
		"etc/systemd/system/multi-user.target.wants/ssh.service": "-> /usr/lib/systemd/system/ssh.service",
		"etc/systemd/system/sshd.service":                        "-> /usr/lib/systemd/system/ssh.service",
		"etc/shadow":                                             "x",
		"etc/ssh/ssh_host_ed25519_key":                           "x",
		"etc/sudoers.d/mine":                                     "x",
		"etc/credstore.encrypted/token":                          "x",
		"usr/local/bin/backup":                                   "#!/bin/sh\n",
		"usr/local/sbin/devbox-host":                             "x",
	})
	if err := os.Chmod(h.path("etc/mine/secret"), 0o640); err != nil {
		t.Fatal(err)
	}
	var f Facts
	if err := h.files(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	equal(t, f.Files, map[string]string{
		"/etc/edited":      Digest([]byte("edited")),
		"/etc/mine/link":   "-> ../same",
		"/etc/mine/secret": Private,
		"/etc/systemd/system/bowl.service.d/x.conf": Digest([]byte("[Service]\n")),
		"/usr/local/bin/backup":                     Digest([]byte("#!/bin/sh\n")),
	})
	equal(t, f.Scripted, []string{"/etc/edited"})
}

func TestUsers(t *testing.T) {
	h := tree(t, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\nbackup:x:34:34::/var/backups:/usr/sbin/nologin\nsshd:x:990:65534::/run/sshd:/usr/sbin/nologin\n" +
			"tunnel:x:991:991::/var/lib/tunnel:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\nann:x:1000:1000:Ann:/home/ann:/bin/bash\n",
		"etc/group":                           "root:x:0:\nsudo:x:27:ann\nadm:x:4:bob,ann\nann:x:1000:\ntunnel:x:991:\n",
		"etc/shadow":                          "root:*:1::::::\nann:$y$j9T$x:1::::::\ntunnel:!:1::::::\n",
		"usr/share/base-passwd/passwd.master": "backup:*:34:34:backup:/var/backups:/usr/sbin/nologin\n",
		"usr/lib/sysusers.d/ssh.conf":         "u sshd - \"sshd\" /run/sshd\n",
		"var/lib/dpkg/info/p.postinst":        "echo ssh tunnel made by hand\n", // makes no user
		"home/ann/.ssh/authorized_keys":       "ssh-ed25519 AAAA\n",
	})
	var f Facts
	if err := h.users(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	equal(t, f.Users, map[string]User{
		"root":   {UID: 0, Shell: "/bin/bash"},
		"tunnel": {UID: 991, Shell: "/bin/sh"},
		"ann":    {UID: 1000, Shell: "/bin/bash", Groups: []string{"adm", "sudo"}, Keys: Fingerprints([]byte("ssh-ed25519 AAAA")), Password: true},
	})
}

// What a user has put in the place of keys is not waited for, and not read
// without end.
func TestKeysThatAreNoFile(t *testing.T) {
	for what, put := range map[string]func(name string) error{
		"a pipe":                  func(name string) error { return syscall.Mkfifo(name, 0o600) },
		"a link to a device":      func(name string) error { return os.Symlink("/dev/zero", name) },
		"a link to a folder":      func(name string) error { return os.Symlink("/", name) },
		"a file of more than all": func(name string) error { return os.WriteFile(name, make([]byte, maxUsers+1), 0o600) },
	} {
		h := tree(t, map[string]string{
			"etc/passwd": "ann:x:1000:1000:Ann:/home/ann:/bin/bash\n", "etc/group": "ann:x:1000:\n", "etc/shadow": "", "home/ann/.ssh/config": "",
			"usr/share/base-passwd/passwd.master": "",
		})
		if err := put(h.path("home/ann/.ssh/authorized_keys")); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- h.users(context.Background(), new(Facts)) }()
		select {
		case err := <-done:
			if file := strings.HasPrefix(what, "a file"); file != (err == nil) || !file && !strings.Contains(err.Error(), "authorized_keys is not a file") {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: users does not come back", what)
		}
	}
}

func TestSudoersAndEnabled(t *testing.T) {
	h := tree(t, map[string]string{
		"var/lib/dpkg/status": "Package: sudo\nStatus: install ok installed\nArchitecture: all\nConffiles:\n /etc/sudoers 098f6bcd4621d373cade4e832627b4f6\n",
		"etc/sudoers":         "test", // as the package brought it
		"etc/sudoers.d/mine":  "ann ALL=(ALL) ALL\n",
		"etc/sudoers.d/empty": "# nothing\n",
		"etc/systemd/system/multi-user.target.wants/ssh.service":   "-> /usr/lib/systemd/system/ssh.service",
		"etc/systemd/system/timers.target.wants/x.timer":           "-> /usr/lib/systemd/system/x.timer",
		"etc/systemd/system/x.timer":                               "-> /dev/null",
		"etc/systemd/system/getty.target.wants/getty@tty1.service": "-> /usr/lib/systemd/system/getty@.service",
		"var/lib/dpkg/info/openssh-server.list":                    "/usr/lib/systemd/system/ssh.service\n",
		"var/lib/dpkg/info/systemd:amd64.list":                     "/usr/lib/systemd/system/getty@.service\n",
		"etc/systemd/system/sshd.service":                          "-> /usr/lib/systemd/system/ssh.service",
		"etc/systemd/system/mine.service":                          "[Service]\n",
	})
	var f Facts
	if err := errors.Join(h.sudoers(t.Context(), &f), h.enabled(t.Context(), &f)); err != nil {
		t.Fatal(err)
	}
	equal(t, f.Sudoers, map[string][]string{"/etc/sudoers.d/mine": {"ann ALL=(ALL) ALL"}})
	equal(t, f.Enabled, map[string]Unit{
		"ssh.service": {"enabled", "openssh-server"}, "x.timer": {"masked", ""}, "sshd.service": {"alias of ssh.service", "openssh-server"},
		"getty@tty1.service": {"enabled", "systemd"},
	})
}

func TestReboot(t *testing.T) {
	kernel := func(release, version string) string {
		return "Package: linux-image-" + release + "\nStatus: install ok installed\nArchitecture: amd64\nVersion: " + version + "\n\n"
	}
	const dpkg = "Package: dpkg\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n\n"
	const running = "6.12.48+deb13-amd64"
	proc := func(version string) string {
		return "Linux version " + running + " (debian-kernel@lists.debian.org) (gcc) #1 SMP PREEMPT_DYNAMIC Debian " + version + " (2025-09-20)\n"
	}
	for _, c := range []struct {
		name     string
		packages string
		files    map[string]string
		want     []string
	}{
		{"nothing", kernel(running, "6.12.48-1"), nil, nil},
		{"not Debian's kernel, as in a container", kernel("6.12.57+deb13-amd64", "6.12.57-1"), map[string]string{"proc/sys/kernel/osrelease": "6.18.4-other\n"}, nil},
		{"a newer one is installed", kernel(running, "6.12.48-1") + kernel("6.12.57+deb13-amd64", "6.12.57-1") + kernel("amd64", "6.12.57-1"), nil,
			[]string{"the kernel 6.12.57+deb13-amd64 is installed, " + running + " runs"}},
		{"an older one is kept", kernel(running, "6.12.48-1") + kernel("6.12.41+deb13-amd64", "6.12.41-1"), nil, nil},
		{"replaced under the same name", kernel(running, "6.12.48-2"), nil, []string{"the kernel " + running + " was replaced by version 6.12.48-2 since it was started"}},
		{"a package says so", kernel(running, "6.12.48-1"), map[string]string{"run/reboot-required": "x", "run/reboot-required.pkgs": "libc6\ndbus\nlibc6\n"},
			[]string{"/run/reboot-required says so, for dbus, libc6"}},
		{"systemd's library is gone", kernel(running, "6.12.48-1"), map[string]string{"proc/1/maps": "7f r-xp 0 08:01 1 /usr/lib/systemd/libsystemd-shared-257.so (deleted)\n"},
			[]string{"systemd runs with a library that was replaced since it was started"}},
	} {
		files := map[string]string{"var/lib/dpkg/status": dpkg + c.packages, "proc/sys/kernel/osrelease": running + "\n", "proc/version": proc("6.12.48-1")}
		maps.Copy(files, c.files)
		h := tree(t, files)
		h.run = func(_ context.Context, name string, args ...string) ([]byte, error) {
			if name != "dpkg" || args[0] != "--compare-versions" || args[2] != "gt" {
				t.Errorf("ran %s %q", name, args)
			}
			if args[1] > args[3] {
				return nil, nil
			}
			return nil, errors.New("exit status 1")
		}
		var f Facts
		if err := h.reboot(t.Context(), &f); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if !slices.Equal(f.Reboot, c.want) {
			t.Errorf("%s: %q", c.name, f.Reboot)
		}
	}
}

func TestStale(t *testing.T) {
	deleted := "7f r-xp 0 08:01 1 /usr/lib/x86_64-linux-gnu/libc.so.6 (deleted)\n"
	h := tree(t, map[string]string{
		"proc/7/maps": deleted, "proc/7/cgroup": "0::/system.slice/ssh.service\n",
		"proc/8/maps": deleted, "proc/8/cgroup": "0::/system.slice/ssh.service\n",
		"proc/9/maps": "7f r-xp 0 08:01 1 /usr/lib/x86_64-linux-gnu/libc.so.6\n", "proc/9/cgroup": "0::/system.slice/x.service\n",
	})
	var f Facts
	if err := h.stale(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	equal(t, f.Stale, []string{"ssh.service"})
	equal(t, f.Reboot, []string(nil))
}

// A part that fails or takes too long is told of, and the others are there.
func TestWhatCannotBeReadIsTold(t *testing.T) {
	h := tree(t, nil)
	var f Facts
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("time is up"))
	defer cancel()
	h.collect(ctx, &f, []part{
		{"good", func(_ *host, _ context.Context, f *Facts) error { f.App = "read"; return nil }},
		{"bad", func(*host, context.Context, *Facts) error { return errors.New("no such file") }},
		{"slow", func(_ *host, ctx context.Context, _ *Facts) error {
			_, err := run(ctx, "sleep", "10")
			return err
		}},
	})
	equal(t, f.App, "read")
	equal(t, f.Unknown, []Unknown{{"bad", "no such file"}, {"slow", "sleep: time is up"}})
}

func TestRollbackAndRunning(t *testing.T) {
	history := []protocol.Release{
		{ID: "r5", Outcome: protocol.RolledBack, Cause: "unhealthy"},
		{ID: "r4", Outcome: protocol.Committed},
		{ID: "r3", Outcome: protocol.Committed, Of: "r1"},
	}
	running, rollback := fromHistory(history)
	equal(t, *running, history[1])
	equal(t, *rollback, history[0])
	_, rollback = fromHistory(history[1:])
	equal(t, *rollback, history[2])
	if running, rollback = fromHistory(nil); running != nil || rollback != nil {
		t.Errorf("of no history: %v, %v", running, rollback)
	}
}

func TestCertificate(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	h := tree(t, nil)
	f := Facts{Running: &protocol.Release{Settings: protocol.Settings{Health: protocol.Health{URL: server.URL + "/healthz"}}}}
	if err := h.certificate(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	equal(t, *f.Certificate, Certificate{URL: server.URL + "/healthz", Names: server.Certificate().DNSNames, Expires: server.Certificate().NotAfter})

	server.Close()
	if err := h.certificate(t.Context(), &f); err == nil {
		t.Error("no error where nothing listens")
	}
	f = Facts{Running: &protocol.Release{Settings: protocol.Settings{Health: protocol.Health{URL: "http://127.0.0.1:1/"}}}}
	if err := h.certificate(t.Context(), &f); err != nil || f.Certificate != nil {
		t.Errorf("of a check that is not https: %v, %v", f.Certificate, err)
	}
}

func TestUpdates(t *testing.T) {
	read := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	h := tree(t, map[string]string{"var/lib/apt/lists/x_Packages": "", "var/lib/apt/periodic/update-stamp": ""})
	if err := os.Chtimes(h.path("var/lib/apt/periodic/update-stamp"), read, read); err != nil {
		t.Fatal(err)
	}
	h.run = func(_ context.Context, name string, args ...string) ([]byte, error) {
		if name != "apt-get" || !slices.Contains(args, "-s") {
			t.Errorf("ran %s %q, which may change the host", name, args)
		}
		return []byte("Inst base-files [13.8] (13.9 Debian:13.2/stable [amd64])\n"), nil
	}
	var f Facts
	if err := h.updates(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	equal(t, *f.Updates, Updates{Pending: []string{"base-files"}, Lists: read})

	f = Facts{}
	if err := tree(t, nil).updates(t.Context(), &f); err == nil || f.Updates != nil {
		t.Errorf("without lists nothing is pending: %v, %v", f.Updates, err)
	}
}
