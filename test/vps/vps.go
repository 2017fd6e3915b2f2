// Package vps is the server that tests of the production half rent: a Debian 13
// as a provider hands it over, with root's key and an SSH server on it, a disk
// and an address of its own, whose power can be cut.
//
// It is a container booted by systemd-nspawn, by the driver that dev machines
// have. Its disk is an ext4 image behind a loop device, so that a power cut can
// take from it what was not synced. It needs root.
package vps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"devbox/internal/vm"

	"golang.org/x/sys/unix"
)

// Options say which server to rent.
type Options struct {
	Name string // its host name; "" is "vps"
	// UserData is what the first boot's cloud-init gets from the provider. nil
	// is a server without cloud-init: systemd, an SSH server and apt.
	UserData []byte
	Disk     string // its size, as truncate(1) takes it; "" is 4G
	// Authorized are public keys that root has beside the server's own, each
	// with the end of its line. With UserData they are those of the provider's
	// user, debian, as in Debian's cloud image.
	Authorized []string
}

// bare is a provider's smallest Debian.
var bare = []string{"systemd", "systemd-sysv", "openssh-server"}

// cloudy is one that reads user data, as Debian's cloud image has it.
var cloudy = []string{
	"systemd", "systemd-sysv", "libpam-systemd", "dbus", "cloud-init", "openssh-server", "sudo", "ca-certificates",
	"iproute2", "netbase", "procps", "unattended-upgrades",
}

// Server is one server. Its methods that take a context are those that take time.
type Server struct {
	options Options
	dir     string
	owner   *os.File // locked as long as the process that rented it lives
	machine *vm.Nspawn
}

// New rents a server, boots it, and gives it back at the end of the test.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := Rent(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Not the test's own context, which has ended.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Destroy(ctx); err != nil {
			t.Errorf("give the server back: %v", err)
		}
	})
	if err := s.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// Enclose has this computer refuse, until the end of the test, what goes to a
// server that is off. It would leave by the default route, and somebody there
// might answer. The network is the one around those that the driver chooses
// from: it keeps away from any that is smaller.
func Enclose(t testing.TB) {
	t.Helper()
	route := []string{"unreachable", "10.212.0.0/15"}
	if _, err := run(t.Context(), "ip", append([]string{"route", "replace"}, route...)...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = run(context.Background(), "ip", append([]string{"route", "del"}, route...)...) })
}

// Rent makes a server, without booting it.
func Rent(ctx context.Context, o Options) (_ *Server, err error) {
	if o.Name == "" {
		o.Name = "vps"
	}
	if o.Disk == "" {
		o.Disk = "4G"
	}
	if err := sweep(ctx); err != nil {
		return nil, fmt.Errorf("give back the servers of tests that were killed: %w", err)
	}
	dir, err := os.MkdirTemp("", prefix+o.Name+"-")
	if err != nil {
		return nil, err
	}
	s, err := open(dir, o)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make server %s: %w", o.Name, err), s.Destroy(context.WithoutCancel(ctx)))
		}
	}()
	return s, s.install(ctx)
}

// prefix is how the folders of servers begin.
const prefix = "devbox-vps-"

// open takes hold of the folder of a server. It fails where another process has it.
func open(dir string, o Options) (*Server, error) {
	owner, err := os.OpenFile(filepath.Join(dir, "owner"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(owner.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		owner.Close()
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		owner.Close()
		return nil, err
	}
	state := filepath.Join(dir, "state")
	m, err := vm.NewNspawn(vm.Spec{Name: o.Name, StateDir: state, CacheDir: filepath.Join(cache, "devbox")})
	if err != nil {
		owner.Close()
		return nil, err
	}
	return &Server{options: o, dir: dir, owner: owner, machine: m}, nil
}

// sweep destroys the servers whose tests were killed before they could.
func sweep(ctx context.Context) error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		name := strings.TrimPrefix(filepath.Base(dir), prefix)
		name = name[:max(strings.LastIndex(name, "-"), 0)]
		s, err := open(dir, Options{Name: name})
		if err != nil {
			continue // it is in use, or goes at this moment
		}
		if err := s.Destroy(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Root is where the server's disk is mounted on this computer.
func (s *Server) Root() string { return filepath.Join(s.dir, "state", "root") }

func (s *Server) disk() string { return filepath.Join(s.dir, "disk") }

// KeyFile is the private key of root's login.
func (s *Server) KeyFile() string { return filepath.Join(s.dir, "state", "key") }

// Mount makes the disk of a server that is off readable and writable at Root.
func (s *Server) Mount(ctx context.Context) error { return s.mount(ctx) }

// Boot switches the server on and waits for its SSH server.
func (s *Server) Boot(ctx context.Context) error {
	if err := s.mount(ctx); err != nil {
		return err
	}
	return s.machine.Start(ctx, nil)
}

// Stop shuts the server down in order.
func (s *Server) Stop(ctx context.Context) error { return s.machine.Stop(ctx) }

// Kill ends all processes at once. What they wrote is kept, synced or not: that
// is a crash of everything but the kernel.
func (s *Server) Kill(ctx context.Context) error {
	err := s.machine.Kill(ctx)
	if err == nil {
		return nil
	}
	// The driver looks for loop devices that hold files of the disk by walking
	// it, which a disk without power does not allow.
	if err := s.detachLoops(ctx); err != nil {
		return err
	}
	return s.machine.Kill(ctx)
}

// Destroy switches the server off and removes all of it. Of one that is
// destroyed nothing is left to do.
func (s *Server) Destroy(ctx context.Context) error {
	if _, err := os.Stat(s.dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := s.Kill(ctx)
	if err == nil {
		err = s.unmount(ctx)
	}
	if err == nil {
		err = s.machine.Destroy(ctx)
	}
	if err == nil {
		err = os.RemoveAll(s.dir)
	}
	s.owner.Close()
	if err != nil {
		return fmt.Errorf("destroy server %s: %w", s.options.Name, err)
	}
	return nil
}

// Address is the server's own. It has none before the first Boot.
func (s *Server) Address(ctx context.Context) (string, error) {
	e, err := s.machine.Endpoint(ctx)
	return e.Host, err
}

// KnownHosts are the server's lines for known_hosts(5), read off its disk. They
// change when cloud-init makes its keys in the first boot.
func (s *Server) KnownHosts(ctx context.Context) (string, error) {
	address, err := s.Address(ctx)
	if err != nil {
		return "", err
	}
	keys, err := filepath.Glob(filepath.Join(s.Root(), "etc/ssh/ssh_host_*_key.pub"))
	if err != nil {
		return "", err
	}
	var lines strings.Builder
	for _, name := range keys {
		key, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&lines, "%s %s\n", address, strings.TrimSpace(string(key)))
	}
	if lines.Len() == 0 {
		return "", fmt.Errorf("server %s has no host key", s.options.Name)
	}
	return lines.String(), nil
}

// Run runs a shell command as root, at the server's console as it were: neither
// its SSH server nor its network take part. It returns what the command printed
// to stdout, without the space around it.
func (s *Server) Run(ctx context.Context, command string) (string, error) {
	init, err := s.init(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "nsenter", "--target", fmt.Sprint(init), "--all", "--root", "--wd",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "sh", "-c", command)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("on server %s: %s: %w\n%s", s.options.Name, command, err, &stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// Shape limits what goes to the server and what comes from it to a rate of
// tc-tbf(8), such as 20mbit, until it is switched off.
func (s *Server) Shape(ctx context.Context, rate string) error {
	st, err := s.machine.Status(ctx)
	if err != nil {
		return err
	}
	// A burst of 10 ms at 20 Mbit/s, and a queue as home routers have it.
	filter := []string{"root", "tbf", "rate", rate, "burst", "32kb", "latency", "100ms"}
	for _, at := range [][]string{{"qdisc", "replace", "dev", st.Link}, {"-n", st.NetNS, "qdisc", "replace", "dev", "eth0"}} {
		if _, err := run(ctx, "tc", append(at, filter...)...); err != nil {
			return err
		}
	}
	return nil
}

// Traffic is how many bytes have gone to the server and come from it, with all
// that the network adds, since it was switched on.
func (s *Server) Traffic(ctx context.Context) (to, from int64, err error) {
	st, err := s.machine.Status(ctx)
	if err != nil {
		return 0, 0, err
	}
	for name, n := range map[string]*int64{"tx_bytes": &to, "rx_bytes": &from} {
		text, err := os.ReadFile(filepath.Join("/sys/class/net", st.Link, "statistics", name))
		if err == nil {
			*n, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return to, from, nil
}

// Processes are those of the server that run a program of that name, by their
// numbers on this computer.
func (s *Server) Processes(ctx context.Context, name string) ([]int, error) {
	return s.processes(ctx, func(pid int) bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return strings.TrimSpace(string(comm)) == name
	})
}

// init is the process of this computer that is the server's first.
func (s *Server) init(ctx context.Context) (int, error) {
	found, err := s.processes(ctx, func(pid int) bool {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(status)) {
			if of, ok := strings.CutPrefix(line, "NSpid:"); ok {
				f := strings.Fields(of)
				return len(f) > 1 && f[len(f)-1] == "1"
			}
		}
		return false
	})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("server %s has no init", s.options.Name)
	}
	if err != nil {
		return 0, err
	}
	return found[0], nil
}

func (s *Server) processes(ctx context.Context, is func(pid int) bool) ([]int, error) {
	st, err := s.machine.Status(ctx)
	if err != nil {
		return nil, err
	}
	if st.State != vm.Running {
		return nil, fmt.Errorf("server %s is %s", s.options.Name, st.State)
	}
	list, err := run(ctx, "ip", "netns", "pids", st.NetNS)
	if err != nil {
		return nil, err
	}
	var found []int
	for text := range strings.FieldsSeq(list) {
		if pid, err := strconv.Atoi(text); err == nil && is(pid) {
			found = append(found, pid)
		}
	}
	return found, nil
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
