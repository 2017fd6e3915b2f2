package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"devbox/internal/hint"
)

func TestNeeds(t *testing.T) {
	none := func(string) bool { return false }
	for _, tt := range []struct {
		name  string
		needs []Need
		has   func(string) bool
		want  []string
	}{
		{"lima on amd64", limaNeeds("linux", "amd64"), none, []string{"openssh-client", "qemu-utils", "qemu-system-x86"}},
		{"lima on arm64", limaNeeds("linux", "arm64"), none, []string{"openssh-client", "qemu-utils", "qemu-system-arm"}},
		{"lima on macOS", limaNeeds("darwin", "arm64"), none, []string{"openssh-client"}},
		{"a disk as a user", diskNeeds(1000), none, []string{"mmdebstrap", "e2fsprogs", "qemu-utils", "uidmap"}},
		{"a disk as root", diskNeeds(0), none, []string{"mmdebstrap", "e2fsprogs", "qemu-utils"}},
		{"half of it", nspawnNeeds, func(tool string) bool { return tool != "nft" && tool != "ip" }, []string{"iproute2", "nftables"}},
		{"all there", nspawnNeeds, func(string) bool { return true }, nil},
	} {
		if got := packagesOf(lacking(tt.needs, tt.has)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Root is refused, with the cure, once the packages are there.
func TestRootBuildsNoLimactl(t *testing.T) {
	if err := ownCache(1000); err != nil {
		t.Error(err)
	}
	if err := ownCache(0); err == nil || !strings.Contains(hint.Of(err), "as the user who will use Lima") {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
	if os.Geteuid() != 0 || runtime.GOOS != "linux" {
		return // what follows would build it
	}
	t.Setenv("PATH", "/usr/bin:/bin") // no limactl of somebody's
	fakeApt(t, "exit 1", "exit 0")
	cache := t.TempDir()
	if err := Prepare(context.Background(), DriverLima, Spec{CacheDir: cache}, nil, nil); err == nil || hint.Of(err) != hint.Of(ownCache(0)) {
		t.Errorf("as root: %v", err)
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) > 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
}

// What a project needs beside its machine is installed with what the driver
// needs, and told where it is missing.
func TestPrepareAlso(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux: elsewhere devbox installs no packages")
	}
	calls := fakeApt(t, "", "")
	also := []Need{{"sh", "dash"}, {"devbox-no-such-tool", "no-such-package"}}
	if err := Prepare(t.Context(), DriverNspawn, Spec{CacheDir: t.TempDir()}, also, nil); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(calls(), "\n"); !strings.Contains(got, " no-such-package") || strings.Contains(got, "dash") {
		t.Errorf("calls:\n%s", got)
	}
	if err := CheckInstalled(also); err == nil || !strings.Contains(err.Error(), "devbox needs devbox-no-such-tool, not installed") || !strings.Contains(hint.Of(err), "no-such-package") {
		t.Errorf("%v, cure %q", err, hint.Of(err))
	}
	if err := CheckInstalled(also[:1]); err != nil {
		t.Error(err)
	}
}

// fakeApt puts a sudo and an apt-get on PATH that write down how they were called.
func fakeApt(t *testing.T, sudo, apt string) (calls func() []string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for name, script := range map[string]string{
		"sudo":    sudo + "\ntest \"$2\" = true && exit\necho sudo >>" + log + "\nshift\nexec env -i PATH=\"$PATH\" \"$@\"",
		"apt-get": "echo \"apt-get $* ($DEBIAN_FRONTEND)\" >>" + log + "\n" + apt,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		b, _ := os.ReadFile(log)
		return strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' })
	}
}

func TestInstallPackages(t *testing.T) {
	const update = "apt-get -qq -o DPkg::Lock::Timeout=300 update (noninteractive)"
	const install = "apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends a b (noninteractive)"
	for _, tt := range []struct {
		name      string
		uid       int
		sudo, apt string // what they do
		want      []string
		err, cure string // parts
	}{
		{"as root", 0, "exit 1", "", []string{update, install}, "", ""},
		{"by sudo", 1000, "", "", []string{"sudo", update, "sudo", install}, "", ""},
		{"no sudo", 1000, "exit 1", "", nil, "install a b: this needs root", "run as root: apt-get update && apt-get install -y a b"},
		{"apt fails", 0, "", "echo 'E: no space left' >&2; exit 100", []string{update}, "E: no space left", "room on the disk"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			calls := fakeApt(t, tt.sudo, tt.apt)
			var steps int
			err := installPackages(t.Context(), tt.uid, []string{"a", "b"}, func(string) { steps++ })
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || !strings.Contains(hint.Of(err), tt.cure) {
				t.Errorf("%v, cure %q", err, hint.Of(err))
			}
			if got := calls(); !slices.Equal(got, tt.want) {
				t.Errorf("calls:\n%q\nwant\n%q", got, tt.want)
			}
			if err == nil && steps != 2 {
				t.Errorf("%d steps were told", steps)
			}
		})
	}
	t.Run("nothing missing", func(t *testing.T) {
		calls := fakeApt(t, "", "")
		if err := installPackages(t.Context(), 1000, nil, nil); err != nil || len(calls()) > 0 {
			t.Errorf("%v, calls %q", err, calls())
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		fakeApt(t, "", "sleep 60")
		ctx, cancel := context.WithCancel(t.Context())
		err := installPackages(ctx, 0, []string{"a"}, func(string) { cancel() })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no apt-get", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		err := installPackages(t.Context(), 0, []string{"a"}, nil)
		if err == nil || !strings.Contains(err.Error(), "no apt-get") || !strings.Contains(hint.Of(err), "package manager: a") {
			t.Errorf("%v, cure %q", err, hint.Of(err))
		}
	})
}

// One build at a time, of what a killed one left nothing.
func TestInstallLima(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux: elsewhere Lima is the user's own")
	}
	bin, cache := t.TempDir(), t.TempDir()
	script := "#!/bin/sh\nsleep 0.1\nfor a do test \"$last\" = -o && mkdir -p \"${a%/*}\" && echo \"$PWD\" >\"$a\"; last=$a; done\necho built >>" + bin + "/log\n"
	for name, text := range map[string]string{bin + "/go": script, cache + "/lima-unfinished/out/share/lima/half": "x"} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	var both errgroup.Group
	for range 2 {
		both.Go(func() error {
			path, err := InstallLima(t.Context(), cache, nil)
			if err == nil {
				_, err = os.Stat(path)
			}
			return err
		})
	}
	if err := both.Wait(); err != nil {
		t.Fatal(err)
	}
	if log, _ := os.ReadFile(bin + "/log"); string(log) != "built\nbuilt\n" {
		t.Errorf("limactl and the guest agent, once: %q", log)
	}
	for _, left := range []string{cache + "/lima-unfinished", limaToolsDir(cache) + "/share/lima/half"} {
		if fileExists(left) {
			t.Errorf("%s is left", left)
		}
	}
}
