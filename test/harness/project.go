// Package harness runs devbox as a person does: the built program, on a copy of
// the example, with a home folder of its own, as whatever user is asked for.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// UserVariable names the unprivileged user that root runs devbox as where
// devbox refuses root.
const UserVariable = "DEVBOX_TEST_USER"

// Root is the repository.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Project is a copy of the example, and the environment to run devbox in.
type Project struct {
	Dir        string
	Home       string
	Cache      string // XDG_CACHE_HOME
	Port       int    // of this computer, that leads to the app
	SecurePort int    // the same, for TLS
	Key        string // of SSH, public, with the end of its line
	Env        []string
	devbox     string
	cred       *syscall.Credential // nil: as this process
}

// Options say whose a project is.
type Options struct {
	Cache string // XDG_CACHE_HOME; "" is one of its own, over that of this user
	User  *user.User
	Key   bool // that the person has one of SSH
}

// New makes a home folder, copies the example there and asks devbox for what is
// missing, as a person does who has cloned it. At the end of the test its
// machines are destroyed and all is removed.
func New(t testing.TB, o Options) *Project {
	t.Helper()
	home := makeHome(t)
	if os.Geteuid() == 0 && o.User == nil {
		layDisk(t, home)
	}
	if o.Cache == "" {
		o.Cache = cache(t, home)
	}
	p := &Project{Dir: filepath.Join(home, "bowl"), Home: home, Cache: o.Cache, Port: freePort(t), SecurePort: freePort(t), devbox: filepath.Join(Root(), "bin", "devbox")}
	if _, err := os.Stat(p.devbox); err != nil {
		t.Fatalf("%v: run `make build` first", err)
	}
	if o.Key {
		p.Key = makeKey(t, home)
	}
	p.Env = []string{
		"HOME=" + home, "XDG_CACHE_HOME=" + o.Cache, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8",
		"GOFLAGS=-buildvcs=false", "GOTOOLCHAIN=local",
	}
	if o.User == nil {
		// The home folder is new, the caches of go are not.
		for _, name := range []string{"GOCACHE", "GOMODCACHE"} {
			p.Env = append(p.Env, name+"="+strings.TrimSpace(Output(t, "go", "env", name)))
		}
	}
	Output(t, "cp", "-a", filepath.Join(Root(), "examples", "bowl"), p.Dir)
	if o.User != nil {
		p.hand(t, o.User)
	}
	for _, made := range []string{"bin", "cloud-init"} {
		if err := os.RemoveAll(filepath.Join(p.Dir, made)); err != nil {
			t.Fatal(err)
		}
	}
	p.Edit(t, "devbox.yaml", `"8443:443", "8080:8080"`, fmt.Sprintf(`"%d:443", "%d:8080"`, p.SecurePort, p.Port))
	p.Must(t, "init")
	t.Cleanup(func() {
		if r := p.Run(t, "destroy", "--yes"); r.Code != 0 {
			t.Error(r)
		}
	})
	return p
}

// cache is a cache of its own for what the project builds, over the user's for
// what takes long to make.
func cache(t testing.TB, home string) string {
	t.Helper()
	users, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(home, "cache")
	for _, kept := range []string{"nspawn", "tools"} {
		from := filepath.Join(users, "devbox", kept)
		if err := os.MkdirAll(from, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(own, "devbox"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(from, filepath.Join(own, "devbox", kept)); err != nil {
			t.Fatal(err)
		}
	}
	return own
}

// makeKey makes the key of a person, which devbox finds and puts into the
// project's cloud-config, and returns its public line.
func makeKey(t testing.TB, home string) string {
	t.Helper()
	file := filepath.Join(home, ".ssh", "id_ed25519")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	Output(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ann@laptop", "-f", file)
	public, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return string(public)
}

// hand gives the project to u: the program that u may run, the modules that u
// cannot read in this user's cache.
func (p *Project) hand(t testing.TB, u *user.User) {
	t.Helper()
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	p.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	p.Env = append(p.Env, "USER="+u.Username, "LOGNAME="+u.Username)
	Output(t, "cp", "-a", filepath.Join(Root(), "bin"), filepath.Join(p.Home, "devbox"))
	p.devbox = filepath.Join(p.Home, "devbox", "devbox")
	vendor := exec.Command("go", "mod", "vendor")
	vendor.Dir = p.Dir
	if out, err := vendor.CombinedOutput(); err != nil {
		t.Fatalf("go mod vendor: %v\n%s", err, out)
	}
	Output(t, "chown", "-R", u.Uid+":"+u.Gid, p.Home)
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// URL is a page of the app, through the forwarded port.
func (p *Project) URL(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", p.Port, path) }

// Where devbox keeps what cannot be made again, below the home folder.
const (
	state    = ".local/state"
	machines = state + "/devbox/machines"
)

// MachineDir is where devbox keeps the machine.
func (p *Project) MachineDir() string { return filepath.Join(p.Home, machines, "bowl") }

// Ran is a devbox that has ended.
type Ran struct {
	Args           []string
	Code           int
	Stdout, Stderr string
	Took           time.Duration
}

func (r Ran) String() string {
	return fmt.Sprintf("devbox %s: exit %d after %s\n%s%s", strings.Join(r.Args, " "), r.Code, r.Took.Round(time.Millisecond), r.Stdout, r.Stderr)
}

// Limit is how long one devbox may take; a virtual machine on an emulated
// processor takes minutes.
var Limit = 15 * time.Minute

// Command is devbox with args, not started.
func (p *Project) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.devbox, args...)
	cmd.Dir, cmd.Env = p.Dir, p.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Run runs devbox to its end.
func (p *Project) Run(t testing.TB, args ...string) Ran { return p.Feed(t, nil, args...) }

// Feed is Run with a standard input.
func (p *Project) Feed(t testing.TB, stdin []byte, args ...string) Ran {
	t.Helper()
	r, err := p.Try(stdin, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, r)
	}
	return r
}

// Try is Feed for a goroutine, which must not end the test.
func (p *Project) Try(stdin []byte, args ...string) (Ran, error) {
	// Not the test's own context: cleaning up runs after that has ended.
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	cmd := p.Command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	begin := time.Now()
	err := cmd.Run()
	r := Ran{args, cmd.ProcessState.ExitCode(), stdout.String(), stderr.String(), time.Since(begin)}
	if _, ended := errors.AsType[*exec.ExitError](err); ended && ctx.Err() == nil {
		err = nil // the exit code tells
	}
	return r, err
}

// Must is Run of what has to exit with 0.
func (p *Project) Must(t testing.TB, args ...string) Ran {
	t.Helper()
	r := p.Run(t, args...)
	if r.Code != 0 {
		t.Fatal(r)
	}
	return r
}

// Inside runs a shell command on the machine as root and returns what it prints.
func (p *Project) Inside(t testing.TB, script string) string {
	t.Helper()
	return strings.TrimSpace(p.Must(t, "ssh", "sudo", "sh", "-c", "'"+strings.ReplaceAll(script, "'", `'\''`)+"'").Stdout)
}

// Read returns a file of the project.
func (p *Project) Read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Write saves a file of the project as editors do, under another name first.
func (p *Project) Write(t testing.TB, name, text string) {
	t.Helper()
	p.write(t, filepath.Join(p.Dir, name), text)
}

// WriteHome is Write for a file of the home folder.
func (p *Project) WriteHome(t testing.TB, name, text string) {
	t.Helper()
	p.write(t, filepath.Join(p.Home, name), text)
}

func (p *Project) write(t testing.TB, path, text string) {
	t.Helper()
	mode := fs.FileMode(0o644)
	if old, err := os.Stat(path); err == nil {
		mode = old.Mode().Perm()
	}
	temp := filepath.Join(filepath.Dir(path), ".#"+filepath.Base(path)+"~")
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(temp, []byte(text), mode))
	if err == nil && p.cred != nil {
		err = os.Lchown(temp, int(p.cred.Uid), int(p.cred.Gid))
	}
	if err = errors.Join(err, os.Rename(temp, path)); err != nil {
		t.Fatal(err)
	}
}

// Remove deletes a file of the project.
func (p *Project) Remove(t testing.TB, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(p.Dir, name)); err != nil {
		t.Fatal(err)
	}
}

// Edit replaces old, which must be there once, in a file of the project.
func (p *Project) Edit(t testing.TB, name, old, new string) {
	t.Helper()
	text := p.Read(t, name)
	if n := strings.Count(text, old); n != 1 {
		t.Fatalf("%s has %q %d times", name, old, n)
	}
	p.Write(t, name, strings.Replace(text, old, new, 1))
}

// Undo returns a function that gives files back the content that they have now.
func (p *Project) Undo(t testing.TB, names ...string) func() {
	t.Helper()
	was := map[string]string{}
	for _, name := range names {
		was[name] = p.Read(t, name)
	}
	return func() {
		t.Helper()
		for _, name := range names {
			p.Write(t, name, was[name])
		}
	}
}

// Tools builds the programs that the example builds from their modules once,
// which takes minutes, and returns the folders that they are kept in, one for
// each version.
func Tools(t testing.TB) []string {
	t.Helper()
	example := filepath.Join(Root(), "examples", "bowl")
	Output(t, filepath.Join(example, "scripts/tool.sh"), "github.com/benbjohnson/litestream/cmd/litestream", "v0.5.18")
	Output(t, "env", "DEVBOX_STAGE="+t.TempDir(), filepath.Join(example, "standins/scripts/build.sh"))
	users, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(users, "devbox", "tools", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Output runs a program of this computer that must succeed.
func Output(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
