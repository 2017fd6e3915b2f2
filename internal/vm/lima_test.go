package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"devbox/internal/hint"
)

// call is one expected call of limactl and what it does.
type call struct {
	args   string // "…" stands for any ending
	stdout string
	stderr string
	exit   int
	do     string // a shell command run with it
}

// fakeLimactl puts a limactl on PATH that accepts these calls in this order and
// nothing else. The test fails on a call nobody expected and on one that never
// came. A version call is not counted: it comes before everything.
func fakeLimactl(t *testing.T, version string, calls ...call) {
	t.Helper()
	dir := t.TempDir()
	for i, c := range calls {
		base := filepath.Join(dir, strconv.Itoa(i))
		body := "cat " + base + ".out\ncat " + base + ".err >&2\n" + c.do + "\nexit " + strconv.Itoa(c.exit) + "\n"
		for name, text := range map[string]string{".args": c.args, ".out": c.stdout, ".err": c.stderr, ".sh": body} {
			if err := os.WriteFile(base+name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	script := fmt.Sprintf(`#!/bin/sh
test "$*" = --version && { echo 'limactl version %s'; exit 0; }
cd %s
n=$(cat n 2>/dev/null || echo 0)
if test -e $n.args; then
  want=$(cat $n.args)
  case $want in
  *…) case "$*" in "${want%%%%…}"*) want=$*;; esac ;;
  esac
  if test "$*" = "$want"; then
    echo $((n+1)) >n
    . ./$n.sh
  fi
fi
echo "call $n: $*" >>unexpected
exit 99
`, version, dir)
	if err := os.WriteFile(filepath.Join(dir, "limactl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Cleanup(func() {
		if b, err := os.ReadFile(filepath.Join(dir, "unexpected")); err == nil {
			t.Errorf("unexpected limactl calls:\n%s", b)
		}
		n, _ := os.ReadFile(filepath.Join(dir, "n"))
		if done, _ := strconv.Atoi(strings.TrimSpace(string(n))); done != len(calls) {
			t.Errorf("%d of %d expected limactl calls came; the next was %q", done, len(calls), calls[done].args)
		}
	})
}

// limaFixture is a machine whose Lima is all in temporary folders, with the
// programs Lima needs made up and an SSH server in place of the guest.
type limaFixture struct {
	*Lima
	script string
	port   int
}

func newLimaFixture(t *testing.T, hostKey ssh.Signer) *limaFixture {
	t.Helper()
	home := t.TempDir()
	t.Setenv("LIMA_HOME", home)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
	bin := t.TempDir()
	qemu, err := qemuName(runtime.GOARCH)
	if err != nil {
		t.Skip("needs amd64 or arm64")
	}
	for _, tool := range []string{"ssh", "ssh-keygen", "qemu-img", qemu} {
		if err := os.WriteFile(filepath.Join(bin, tool), []byte("#!/bin/sh\nexit 98\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	f := &limaFixture{Lima: &Lima{spec: Spec{Name: "bowl", StateDir: t.TempDir(), CacheDir: t.TempDir()}}}
	if f.script, err = newLimaBootScript("test"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(f.dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(home, "user")
	writeTestKey(t, identity)
	f.write(t, "lima.yaml", "plain: true\n")
	f.write(t, "ssh.config", "Host lima-bowl\n  IdentityFile \""+identity+"\"\n  User alice\n  Port 1\n")
	f.write(t, "ha.stderr.log", "the host agent's last words\n")
	f.write(t, "serial.log", "the kernel's last words\n")
	if hostKey == nil {
		hostKey = scriptSigner(t, f.script)
	}
	f.port = sshServer(t, hostKey)
	return f
}

func (f *limaFixture) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir(), name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// list is what limactl prints about the machine in a state.
func (f *limaFixture) list(status string) call {
	return f.listWith(status, `"plain":true,`, f.script)
}

func (f *limaFixture) listWith(status, config, script string) call {
	port := 0
	if status == limaRunning {
		port = f.port
	}
	return call{args: "list --json bowl", stdout: fmt.Sprintf(
		`{"name":"bowl","status":%q,"dir":%q,"sshLocalPort":%d,"sshAddress":"127.0.0.1","config":{%s"provision":[{"mode":"boot","script":%q}]},"protected":false}`+"\n",
		status, f.dir(), port, config, script)}
}

func TestLimaStatus(t *testing.T) {
	f := newLimaFixture(t, nil)
	tests := []struct {
		name   string
		call   call
		want   State
		detail string
	}{
		{"stopped", f.list("Stopped"), Stopped, "limactl 1.2.3"},
		{"running", f.list("Running"), Running, "limactl 1.2.3"},
		{"broken", f.list("Broken"), Broken, "Lima calls it broken"},
		{"overridden", f.listWith("Stopped", `"plain":false,"mounts":[{"location":"~"}],`, f.script), Stopped,
			"limactl 1.2.3, plain mode is off, ~ is mounted"},
		{"empty answer", call{args: "list --json bowl"}, Missing, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fakeLimactl(t, "1.2.3", tt.call)
			got, err := f.Status(t.Context())
			if err != nil || got.State != tt.want || got.Detail != tt.detail {
				t.Errorf("Status() = %+v, %v; want %s, %q", got, err, tt.want, tt.detail)
			}
		})
	}
}

func TestLimaStatusMissing(t *testing.T) {
	f := newLimaFixture(t, nil)
	os.RemoveAll(f.dir())
	fakeLimactl(t, "2.0.1", call{args: "list --json bowl", exit: 1, stderr: "level=fatal msg=\"unmatched instances\"\n"})
	if got, err := f.Status(t.Context()); err != nil || got.State != Missing {
		t.Errorf("Status() = %+v, %v; want missing", got, err)
	}
	t.Run("no limactl", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if got, err := f.Status(t.Context()); err != nil || got.State != Missing {
			t.Errorf("Status() = %+v, %v; want missing", got, err)
		}
		if err := f.Create(t.Context(), nil); err == nil || !strings.Contains(hint.Of(err), "doctor --fix") {
			t.Errorf("Create() = %v, hint %q; want one that names doctor --fix", err, hint.Of(err))
		}
	})
}

// An error of limactl about an instance that is there must not pass for Missing.
func TestLimaListError(t *testing.T) {
	f := newLimaFixture(t, nil)
	fakeLimactl(t, "1.2.3", call{args: "list --json bowl", exit: 1, stderr: "time=\"x\" level=fatal msg=\"cannot read \\\"it\\\"\"\n"})
	_, err := f.Status(t.Context())
	failed := new(LimactlError)
	if !errors.As(err, &failed) || failed.ExitCode != 1 || !strings.HasSuffix(err.Error(), `exit status 1: cannot read "it"`) {
		t.Errorf("Status() error = %v; want limactl's own", err)
	}
}

func TestLimaRefusesForeign(t *testing.T) {
	f := newLimaFixture(t, nil)
	foreign := f.listWith("Stopped", "", "#!/bin/sh\necho hello\n")
	for name, do := range map[string]func(context.Context) error{
		"create":  func(ctx context.Context) error { return f.Create(ctx, nil) },
		"start":   func(ctx context.Context) error { return f.Start(ctx, nil) },
		"stop":    f.Stop,
		"kill":    f.Kill,
		"destroy": f.Destroy,
	} {
		t.Run(name, func(t *testing.T) {
			fakeLimactl(t, "1.2.3", foreign)
			err := do(t.Context())
			if !errors.Is(err, ErrNotOurs) || !strings.Contains(hint.Of(err), "limactl delete bowl") {
				t.Errorf("got %v, hint %q; want ErrNotOurs", err, hint.Of(err))
			}
		})
	}
}

func TestLimaCreate(t *testing.T) {
	f := newLimaFixture(t, nil)
	base := filepath.Join(t.TempDir(), "base.qcow2")
	if err := os.WriteFile(base, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	digest, err := fileDigest(base, "sha256:")
	if err != nil {
		t.Fatal(err)
	}
	f.spec.Base = map[string]BaseImage{runtime.GOARCH: {URL: base, Digest: digest}}
	config := filepath.Join(f.spec.StateDir, "bowl.yaml")
	create := call{args: "create --tty=false --name=bowl " + config}

	t.Run("made", func(t *testing.T) {
		os.RemoveAll(f.dir())
		kept := filepath.Join(t.TempDir(), "config")
		create := create
		create.do = "cp " + config + " " + kept + "; mkdir -p " + f.dir() + "; touch " + f.dir() + "/lima.yaml"
		fakeLimactl(t, "2.1.0", call{args: "list --json bowl", exit: 1}, create,
			f.listWith("Stopped", `"plain":false,`, f.script))
		var steps []string
		if err := f.Create(t.Context(), func(s string) { steps = append(steps, s) }); err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(steps, "\n"); !strings.Contains(all, "plain mode is off") {
			t.Errorf("an override.yaml that turned plain mode off was not told:\n%s", all)
		}
		text, err := os.ReadFile(kept)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{base, digest, "plain: true", "mode: boot", limaKeyMark} {
			if !strings.Contains(string(text), want) {
				t.Errorf("the configuration lacks %q:\n%s", want, text)
			}
		}
		if _, err := os.Stat(config); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the configuration with the host key was left in %s", config)
		}
	})
	t.Run("nothing to do", func(t *testing.T) {
		fakeLimactl(t, "1.2.3", f.list("Stopped"))
		if err := f.Create(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("repaired", func(t *testing.T) {
		fakeLimactl(t, "1.2.3", f.list("Broken"), call{args: "stop --tty=false --force bowl"}, f.list("Stopped"))
		if err := f.Create(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("image refused", func(t *testing.T) {
		os.RemoveAll(f.dir())
		other := "sha256:" + strings.Repeat("ab", 32)
		create := create
		create.do = "mkdir -p " + f.dir() + "; touch " + f.dir() + "/lima.yaml"
		create.exit, create.stderr = 1, fmt.Sprintf("level=fatal msg=\"expected digest \\\"%s\\\", got \\\"%s\\\"\"\n", digest, other)
		fakeLimactl(t, "1.2.3", call{args: "list --json bowl", exit: 1}, create,
			f.list("Stopped"), call{args: "delete --tty=false --force bowl"})
		err := f.Create(t.Context(), nil)
		for _, want := range []string{"machine.base." + runtime.GOARCH, digest, other} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Create() = %v; want %q in it", err, want)
			}
		}
	})
	t.Run("wrong digest of a file", func(t *testing.T) {
		os.RemoveAll(f.dir())
		wrong := "sha256:" + strings.Repeat("00", 32)
		f.spec.Base = map[string]BaseImage{runtime.GOARCH: {URL: base, Digest: wrong}}
		fakeLimactl(t, "1.2.3", call{args: "list --json bowl", exit: 1})
		err := f.Create(t.Context(), nil)
		for _, want := range []string{"machine.base." + runtime.GOARCH, digest, wrong} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Create() = %v; want %q in it", err, want)
			}
		}
	})
}

func TestLimaStart(t *testing.T) {
	start := call{args: "start --tty=false --timeout=…"}
	t.Run("boots and pins the key", func(t *testing.T) {
		f := newLimaFixture(t, nil)
		fakeLimactl(t, "1.2.3", f.list("Stopped"), start, f.list("Running"), f.list("Running"))
		if err := f.Start(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		check, err := knownhosts.New(filepath.Join(f.spec.StateDir, "known_hosts"))
		if err != nil {
			t.Fatal(err)
		}
		addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: f.port}
		if err := check(addr.String(), addr, limaHostKey([]string{f.script})); err != nil {
			t.Errorf("known_hosts does not hold the machine's key: %v", err)
		}
	})
	t.Run("degraded but answering", func(t *testing.T) {
		f := newLimaFixture(t, nil)
		start := start
		start.exit, start.stderr = 1, "level=fatal msg=\"degraded, status={...}\"\n"
		fakeLimactl(t, "1.2.3", f.list("Stopped"), start, f.list("Running"), f.list("Running"), f.list("Running"))
		if err := f.Start(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("fails", func(t *testing.T) {
		f := newLimaFixture(t, nil)
		start := start
		start.exit, start.stderr = 1, "level=fatal msg=\"exiting\"\n"
		fakeLimactl(t, "1.2.3", f.list("Stopped"), start, f.list("Stopped"))
		err := f.Start(t.Context(), nil)
		var d interface{ Detail() string }
		if !errors.As(err, &d) {
			t.Fatalf("Start() = %v; want an error with details", err)
		}
		for _, want := range []string{"exiting", "the host agent's last words", "the kernel's last words"} {
			if !strings.Contains(d.Detail(), want) {
				t.Errorf("details lack %q:\n%s", want, d.Detail())
			}
		}
		if !strings.Contains(hint.Of(err), "ha.stderr.log") {
			t.Errorf("hint %q does not name the log", hint.Of(err))
		}
	})
	t.Run("running already", func(t *testing.T) {
		f := newLimaFixture(t, nil)
		fakeLimactl(t, "1.2.3", f.list("Running"))
		if err := f.Start(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		f := newLimaFixture(t, nil)
		os.RemoveAll(f.dir())
		fakeLimactl(t, "1.2.3", call{args: "list --json bowl", exit: 1})
		if err := f.Start(t.Context(), nil); !errors.Is(err, ErrMissing) {
			t.Errorf("Start() = %v; want ErrMissing", err)
		}
	})
}

// A machine with another host key is not ours to log in to.
func TestLimaVerifiesHostKey(t *testing.T) {
	other, err := newLimaBootScript("other")
	if err != nil {
		t.Fatal(err)
	}
	f := newLimaFixture(t, scriptSigner(t, other))
	fakeLimactl(t, "1.2.3", f.list("Running"))
	ctl, err := findLimactl(t.Context(), f.spec.CacheDir)
	if err != nil {
		t.Fatal(err)
	}
	inst, err := f.mine(t.Context(), ctl)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.login(t.Context(), inst); err == nil || !strings.Contains(err.Error(), "host key mismatch") {
		t.Errorf("login() = %v; want a host key mismatch", err)
	}
}

func TestLimaEndpoint(t *testing.T) {
	f := newLimaFixture(t, nil)
	fakeLimactl(t, "1.2.3", f.list("Running"), f.list("Stopped"))
	got, err := f.Endpoint(t.Context())
	want := Endpoint{Host: "127.0.0.1", Port: f.port, User: "alice",
		IdentityFile:   filepath.Join(limaHome(), "user"),
		KnownHostsFile: filepath.Join(f.spec.StateDir, "known_hosts")}
	if err != nil || got != want {
		t.Errorf("Endpoint() = %+v, %v; want %+v", got, err, want)
	}
	if _, err := f.Endpoint(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Endpoint() of a stopped machine = %v; want ErrNotRunning", err)
	}
}

func TestLimaStop(t *testing.T) {
	f := newLimaFixture(t, nil)
	stop, force := call{args: "stop --tty=false bowl"}, call{args: "stop --tty=false --force bowl"}
	t.Run("in order", func(t *testing.T) {
		fakeLimactl(t, "1.2.3", f.list("Running"), stop)
		if err := f.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("by force where it does not", func(t *testing.T) {
		stop := stop
		stop.exit = 1
		fakeLimactl(t, "1.2.3", f.list("Running"), stop, force)
		if err := f.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("stopped already", func(t *testing.T) {
		fakeLimactl(t, "1.2.3", f.list("Stopped"), f.list("Stopped"))
		if err := errors.Join(f.Stop(t.Context()), f.Kill(t.Context())); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("killed", func(t *testing.T) {
		fakeLimactl(t, "1.2.3", f.list("Running"), force)
		if err := f.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("destroyed", func(t *testing.T) {
		fakeLimactl(t, "1.2.3", f.list("Running"), call{args: "delete --tty=false --force bowl"})
		if err := f.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// After a reboot of this computer a pid file may name anybody's process.
func TestLimaSparesForeignProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	f := newLimaFixture(t, nil)
	bystander := exec.Command("sleep", "60")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { bystander.Process.Kill(); bystander.Wait() }()
	own := exec.Command("sh", "-c", "sleep 60; :", f.dir())
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { own.Process.Kill(); own.Wait() }()
	f.write(t, "ha.pid", strconv.Itoa(bystander.Process.Pid)+"\n")
	f.write(t, "qemu.pid", strconv.Itoa(own.Process.Pid)+"\n")
	fakeLimactl(t, "1.2.3", f.list("Broken"),
		call{args: "stop --tty=false --force bowl", do: "test ! -e " + f.dir() + "/ha.pid && test -e " + f.dir() + "/qemu.pid || exit 1"})
	if err := f.Kill(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLimaRefusesRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	_, err := NewLima(Spec{Name: "bowl", StateDir: "/s", CacheDir: "/c"})
	if err == nil || !strings.Contains(hint.Of(err), "nspawn") {
		t.Errorf("NewLima() as root = %v, hint %q; want one that names nspawn", err, hint.Of(err))
	}
}
