package vm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/hint"
)

func TestAptSources(t *testing.T) {
	const deb822 = `Types: deb deb-src
# a comment
URIs: http://mirror/debian
Suites: bookworm bookworm-updates
 bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off/debian
Suites: bookworm
Components: main
`
	for _, tt := range []struct {
		name     string
		codename string
		files    map[string]string
		want     []string
	}{
		{"deb822", "bookworm", map[string]string{"debian.sources": deb822}, []string{
			"deb http://mirror/debian trixie main", "deb http://mirror/debian trixie-updates main",
			"deb http://mirror/debian-security trixie-security main",
		}},
		{"one line", "trixie", map[string]string{"sources.list": "# deb http://no/debian trixie main\n" +
			"deb [arch=amd64 signed-by=/k] http://m/debian trixie main non-free # ours\ndeb-src http://m/debian trixie main\n" +
			"deb http://m/debian trixie main\ndeb http://other/app trixie stable\n"}, []string{"deb http://m/debian trixie main"}},
		{"only foreign packages", "bookworm", map[string]string{"x.list": "deb http://x/apt nodistro main\n"}, nil},
		{"only security is not enough", "bookworm", map[string]string{"x.list": "deb http://x/apt bookworm-security main\n"}, nil},
		{"no codename", "", map[string]string{"debian.sources": deb822}, nil},
		{"nothing", "bookworm", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := aptSources(tt.codename, tt.files, "trixie"); !slices.Equal(got, tt.want) {
				t.Errorf("got %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestChooseNet(t *testing.T) {
	prefix := netip.MustParsePrefix
	first, err := chooseNet("devbox-a-1", netip.Prefix{}, nil)
	if err != nil || first.Bits() != 30 || !pool.Contains(first.Addr()) || first != first.Masked() {
		t.Fatalf("got %v, %v", first, err)
	}
	for _, tt := range []struct {
		name string
		had  netip.Prefix
		used []netip.Prefix
		want func(netip.Prefix) bool
	}{
		{"the same again", netip.Prefix{}, nil, func(p netip.Prefix) bool { return p == first }},
		{"keeps what it had", prefix("10.213.7.4/30"), nil, func(p netip.Prefix) bool { return p == prefix("10.213.7.4/30") }},
		{"what it had is taken", prefix("10.213.7.4/30"), []netip.Prefix{prefix("10.213.7.0/24")}, func(p netip.Prefix) bool { return p == first }},
		{"one address in it is taken", netip.Prefix{}, []netip.Prefix{netip.PrefixFrom(first.Addr().Next(), 32)},
			func(p netip.Prefix) bool { return p != first && !p.Overlaps(first) }},
		{"a wider network does not count", netip.Prefix{}, []netip.Prefix{prefix("10.0.0.0/8"), prefix("0.0.0.0/0")},
			func(p netip.Prefix) bool { return p == first }},
		{"the lower half is taken", netip.Prefix{}, []netip.Prefix{prefix("10.213.0.0/17")},
			func(p netip.Prefix) bool { return prefix("10.213.128.0/17").Overlaps(p) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := chooseNet("devbox-a-1", tt.had, tt.used)
			if err != nil || !tt.want(got) {
				t.Errorf("got %v, %v (first %v)", got, err, first)
			}
		})
	}
	if got, err := chooseNet("a", netip.Prefix{}, []netip.Prefix{pool}); err == nil {
		t.Errorf("all taken: got %v", got)
	}
}

func TestUsedNets(t *testing.T) {
	got, err := usedNets(`[{"dst":"default","gateway":"192.0.2.1","dev":"eth0"},{"dst":"192.0.2.0/24","dev":"eth0"},
		{"dst":"10.213.4.0/30","dev":"dbx-ours"},{"type":"local","dst":"10.213.8.1","dev":"dbx-theirs"}]`, "dbx-ours")
	want := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.213.8.1/32")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := usedNets("no JSON", ""); err == nil {
		t.Error("accepted no JSON")
	}
}

func TestLoopsOn(t *testing.T) {
	const list = "/dev/loop1 77 \\x20\\x20\\x20\\x20\\x20254:0\\x20\\x20\n/dev/loop2 78 8:1\n/dev/loop3 77 254:0\n/dev/loop4\n"
	got := loopsOn(list, "254:0")
	if len(got) != 1 || !slices.Equal(got[77], []string{"/dev/loop1", "/dev/loop3"}) {
		t.Errorf("got %v", got)
	}
}

func TestMountsBelow(t *testing.T) {
	const mounts = "a /s/root ext4 rw 0 0\nb /s/root\\040x/y tmpfs rw 0 0\nc /s/root/proc proc rw 0 0\nd /s/rootless tmpfs rw 0 0\n"
	if got, want := mountsBelow(mounts, "/s/root"), []string{"/s/root", "/s/root/proc"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := mountsBelow(mounts, "/s/root x"), []string{"/s/root x/y"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOnlyLoopback(t *testing.T) {
	for text, want := range map[string]bool{
		"nameserver 127.0.0.53\noptions edns0\n":                true,
		"nameserver 127.0.0.1\nnameserver 9.9.9.9\n":            false,
		"nameserver 192.0.2.1\n":                                false,
		"# nameserver 192.0.2.1\nnameserver ::1\nsearch home\n": true,
		"": true,
	} {
		if got := onlyLoopback(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestHierarchies(t *testing.T) {
	const hybrid = `cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0
proc /proc proc rw 0 0
`
	tracked := func(cpu bool) (mounts []string) {
		for _, h := range parseHierarchies(hybrid) {
			if h.tracks(cpu) {
				mounts = append(mounts, h.mount)
			}
		}
		return mounts
	}
	base := []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"}
	if got := tracked(false); !slices.Equal(got, base) {
		t.Errorf("got %q", got)
	}
	if got := tracked(true); !slices.Equal(got, append([]string{"/sys/fs/cgroup/cpu"}, base...)) {
		t.Errorf("with a limit on processors: got %q", got)
	}
}

func TestPruneOldest(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"a.tar", "b.tar", "c.tar", "other"} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1000-i), 0)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := pruneOldest(filepath.Join(dir, "*.tar"), 2); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if want := []string{"a.tar", "b.tar", "other"}; !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
}

func TestMapsUser(t *testing.T) {
	const table = "root:1:2\nann:100000:65536\n1001:165536:65536\n"
	for _, tt := range []struct {
		name, uid string
		want      bool
	}{{"ann", "1000", true}, {"bob", "1001", true}, {"an", "1002", false}, {"", "", false}} {
		if got := mapsUser(table, tt.name, tt.uid); got != tt.want {
			t.Errorf("%s (%s): %v", tt.name, tt.uid, got)
		}
	}
}

func TestToolError(t *testing.T) {
	_, err := run(t.Context(), "sh", "-c", "echo out; echo 'why not' >&2\n  exit 3", strings.Repeat("x", 100))
	want := "run `sh -c echo out; echo 'why not' >&2 exit 3 xxx"
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), "…`: exit status 3\nwhy not") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("enough"))
	defer cancel()
	begin := time.Now()
	_, err = run(ctx, "sh", "-c", "sleep 60 & wait")
	if err == nil || err.Error() != "run `sh -c sleep 60 & wait`: enough" || time.Since(begin) > 4*time.Second {
		t.Errorf("got %v after %s", err, time.Since(begin))
	}
	_, err = run(t.Context(), "no-such-program-anywhere")
	if !errors.Is(err, exec.ErrNotFound) || hint.Of(err) == "" {
		t.Errorf("got %v, cure %q", err, hint.Of(err))
	}
}

// TestLock has the lock outlive its taker in a child that was given it.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "lock")
	lock, err := takeLock(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	child := make(chan error, 1)
	go func() {
		_, err := tool{args: []string{"sleep", "0.5"}, lock: lock}.run(t.Context())
		child <- err
	}()
	time.Sleep(200 * time.Millisecond)
	lock.Close()
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var told []string
	if _, err := takeLock(short, path, func(s string) { told = append(told, s) }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while the child runs: %v", err)
	}
	if len(told) != 1 {
		t.Errorf("waiting told %q, want one step", told)
	}
	if err := <-child; err != nil {
		t.Fatal(err)
	}
	again, err := takeLock(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Removed with its folder, as by Destroy, while another waits for it.
	got := make(chan error, 1)
	go func() {
		other, err := takeLock(t.Context(), path, nil)
		if err == nil {
			err = other.Close()
		}
		got <- err
	}()
	time.Sleep(100 * time.Millisecond)
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	again.Close()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if !fileExists(path) {
		t.Error("the waiting one took the lock of a removed file")
	}
}

func TestAnInterruptIsNoReasonToRemoveTheBaseSystem(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	n := &Nspawn{spec: Spec{Name: "shop", StateDir: t.TempDir(), CacheDir: t.TempDir()}}
	r := baseRecipe(ctx)
	base := filepath.Join(n.spec.CacheDir, "nspawn", fmt.Sprintf("debian-13-%s-%s.tar", r.Arch, r.key()))
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(base, []byte("no tar"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := n.unpackRoot(ctx, nil, nil); !strings.Contains(hint.Of(err), "remove "+base) {
		t.Errorf("a broken tar: %v, cure %q", err, hint.Of(err))
	}
	why := errors.New("interrupted")
	err := n.unpackRoot(ctx, nil, func(step string) {
		if step == "unpack the base system" {
			cancel(why)
		}
	})
	if !errors.Is(err, why) || hint.Of(err) != "" {
		t.Errorf("interrupted: %v, cure %q", err, hint.Of(err))
	}
}
