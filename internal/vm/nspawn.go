package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"devbox/internal/hint"
)

// Nspawn is a Debian 13 built from packages and booted as a container by
// systemd-nspawn(1): real systemd, portabled, SSH and a network of its own on
// the host's kernel. It needs root.
//
// What it keeps is in Spec.StateDir: root (the system), key and host_key,
// known_hosts, subnet and console.log.
type Nspawn struct {
	spec Spec
	// id names what the host knows the machine by: the process, the network
	// namespace, the nft table, the control group. It differs for equal names
	// in different state folders.
	id   string
	link string // the host's end of the cable; the kernel allows 15 characters
}

var _ Machine = (*Nspawn)(nil)

// How long a container may take. Two cores shared with a build need far less.
const (
	bootLimit = 90 * time.Second
	stopLimit = 45 * time.Second // beyond it, by force
	killLimit = 15 * time.Second
)

// NewNspawn describes a machine; nothing is made or asked yet.
func NewNspawn(spec Spec) (*Nspawn, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(spec.StateDir))
	tag := hex.EncodeToString(sum[:4])
	return &Nspawn{spec: spec, id: "devbox-" + spec.Name + "-" + tag, link: "dbx-" + tag}, nil
}

// Driver is "nspawn".
func (n *Nspawn) Driver() string { return "nspawn" }

// Console is the file that the machine's boot messages go to.
func (n *Nspawn) Console() string { return n.path("console.log") }

func (n *Nspawn) path(name string) string { return filepath.Join(n.spec.StateDir, name) }

// Status asks the kernel and the state folder.
func (n *Nspawn) Status(ctx context.Context) (Status, error) {
	if err := ctx.Err(); err != nil {
		return Status{}, err
	}
	pid, err := n.supervisor()
	if err != nil {
		return Status{}, fmt.Errorf("look for machine %s: %w", n.spec.Name, err)
	}
	whole := fileExists(n.path("root"))
	switch {
	case pid != 0 && whole:
		st := Status{
			State: Running, Detail: fmt.Sprintf("systemd-nspawn, process %d", pid), Since: startedAt(pid), NetNS: n.id, Link: n.link,
			Drift: n.drift(),
		}
		if st.Drift != "" {
			st.Detail += ", " + st.Drift
		}
		return st, nil
	case pid != 0:
		return Status{State: Broken, Detail: "it runs, but its files are gone"}, nil
	case len(n.Processes()) > 0:
		return Status{State: Broken, Detail: "processes of it are left over"}, nil
	case whole && !(fileExists(n.path("key")) && fileExists(n.path("host_key"))):
		return Status{State: Broken, Detail: "the keys to it are lost"}, nil
	case whole:
		return Status{State: Stopped}, nil
	case fileExists(n.path("root.new")) || fileExists(n.path("root.gone")):
		return Status{State: Broken, Detail: "making or removing it was interrupted"}, nil
	}
	return Status{State: Missing}, nil
}

// begin checks that this process may do what follows, and takes the lock.
func (n *Nspawn) begin(ctx context.Context, p Progress) (lock *os.File, err error) {
	if runtime.GOOS != "linux" {
		return nil, hint.Errorf("use `driver: lima`", "machine %s: systemd-nspawn runs on Linux only", n.spec.Name)
	}
	if os.Geteuid() != 0 {
		return nil, hint.Errorf("run devbox as root, or use `driver: lima`", "machine %s: systemd-nspawn needs root", n.spec.Name)
	}
	return takeLock(ctx, n.path("lock"), p)
}

// Create unpacks the machine's system, unless it is there, and repairs what a
// crash left.
func (n *Nspawn) Create(ctx context.Context, p Progress) error {
	lock, err := n.begin(ctx, p)
	if err != nil {
		return err
	}
	defer lock.Close()
	st, err := n.Status(ctx)
	if err != nil {
		return err
	}
	switch st.State {
	case Running, Stopped:
		return nil
	case Broken:
		p.Step("repair the machine: %s", st.Detail)
		if err := n.kill(ctx); err != nil {
			return err
		}
	}
	if fileExists(n.path("root")) {
		err = n.restoreAccess()
	} else {
		err = n.unpackRoot(ctx, lock, p)
	}
	if err == nil {
		err = errors.Join(removeTree(n.path("root.new")), removeTree(n.path("root.gone")))
	}
	if err != nil {
		return fmt.Errorf("create machine %s: %w", n.spec.Name, err)
	}
	return nil
}

// Start boots the machine, repairs the network of a running one, and waits for
// SSH either way.
func (n *Nspawn) Start(ctx context.Context, p Progress) error {
	if err := n.startLocked(ctx, p); err != nil {
		return fmt.Errorf("start machine %s: %w", n.spec.Name, err)
	}
	p.Step("wait for SSH")
	err := waitFor(ctx, bootLimit, 50*time.Millisecond, "wait for SSH", n.answers)
	if err != nil {
		log, _ := os.ReadFile(n.Console())
		err = fmt.Errorf("start machine %s: %w", n.spec.Name, err)
		if tail := lastLines(string(log), 15); tail != "" {
			err = fmt.Errorf("%w; its console says:\n%s", err, tail)
		}
		return hint.Wrap(err, "read "+n.Console())
	}
	return nil
}

func (n *Nspawn) startLocked(ctx context.Context, p Progress) error {
	lock, err := n.begin(ctx, p)
	if err != nil {
		return err
	}
	defer lock.Close()
	st, err := n.Status(ctx)
	if err != nil {
		return err
	}
	if st.State == Running {
		if st.Drift != "" {
			p.Step("note: %s", st.Drift)
		}
		pid, err := n.supervisor()
		if err != nil {
			return err
		}
		if init := leader(pid); init != 0 {
			return n.ensureNet(ctx, init)
		}
		return nil // it was started this moment, with its network
	}
	if !fileExists(n.path("root")) {
		return hint.Wrap(ErrMissing, "make it: `devbox up`")
	}
	if st.State == Broken {
		p.Step("repair the machine: %s", st.Detail)
		if err := n.restoreAccess(); err != nil {
			return err
		}
	}
	if err := n.kill(ctx); err != nil {
		return err
	}
	if err := n.ensureNet(ctx, 0); err != nil {
		return err
	}
	if err := n.copyResolvConf(p); err != nil {
		return fmt.Errorf("copy the host's name servers: %w", err)
	}
	p.Step("boot")
	return n.launch(ctx)
}

// answers says whether the machine's SSH server lets users in. It looks into
// the container first and connects once, when that must succeed: sshd takes
// note of who only tries (PerSourcePenalties, sshd_config(5)).
func (n *Nspawn) answers() (bool, error) {
	pid, err := n.supervisor()
	if err != nil {
		return false, err
	}
	if pid == 0 {
		return false, errors.New("the machine went down")
	}
	init := leader(pid)
	if init == 0 || !listens(init, 22) || fileExists(fmt.Sprintf("/proc/%d/root/run/nologin", init)) {
		return false, nil
	}
	subnet, err := n.subnet()
	if err != nil {
		return false, err
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(guestEnd(subnet).String(), "22"), 5*time.Second)
	if err != nil {
		return false, hint.Wrap(err, "it listens but is not reached: look for a firewall rule that drops what goes out by "+n.link)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	banner := make([]byte, 8)
	if _, err := io.ReadFull(conn, banner); err != nil || !strings.HasPrefix(string(banner), "SSH-2.0-") {
		return false, fmt.Errorf("port 22 is no SSH server: %q, %v", banner, err)
	}
	return true, nil
}

// listens says whether a TCP port is listened on in the network of a process
// (proc_net(5): state 0A).
func listens(pid, port int) bool {
	for _, table := range []string{"tcp", "tcp6"} {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return true
			}
		}
	}
	return false
}

// Stop powers the machine off, by force once stopLimit has passed.
func (n *Nspawn) Stop(ctx context.Context) error {
	lock, err := n.begin(ctx, nil)
	if err != nil {
		return err
	}
	defer lock.Close()
	pid, err := n.supervisor()
	if err != nil {
		return err
	}
	if pid != 0 {
		// systemd-nspawn passes it on as the signal of --kill-signal=. One that
		// comes before init listens is lost, and the deadline decides.
		_ = syscall.Kill(pid, syscall.SIGTERM)
		err := waitFor(ctx, stopLimit, 20*time.Millisecond, "wait for the machine to stop", func() (bool, error) {
			now, err := n.supervisor()
			return now == 0, err
		})
		if err != nil && !errors.Is(err, errTimeout) {
			return fmt.Errorf("stop machine %s: %w", n.spec.Name, err)
		}
	}
	if err := errors.Join(n.kill(ctx), n.dropNet(ctx)); err != nil {
		return fmt.Errorf("stop machine %s: %w", n.spec.Name, err)
	}
	return nil
}

// Kill ends every process of the machine at once.
func (n *Nspawn) Kill(ctx context.Context) error {
	lock, err := n.begin(ctx, nil)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := errors.Join(n.kill(ctx), n.dropNet(ctx)); err != nil {
		return fmt.Errorf("kill machine %s: %w", n.spec.Name, err)
	}
	return nil
}

// kill ends all processes and frees what they held of the host.
func (n *Nspawn) kill(ctx context.Context) error {
	err := waitFor(ctx, killLimit, 10*time.Millisecond, "end all its processes", func() (bool, error) {
		pid, err := n.supervisor()
		if pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return n.killGroups() == 0 && pid == 0, err
	})
	if err != nil {
		return err
	}
	return errors.Join(n.removeGroups(), n.removeRuntime(ctx), n.detachLoops(ctx))
}

// Destroy removes the machine and all that it kept.
func (n *Nspawn) Destroy(ctx context.Context) error {
	if !fileExists(n.spec.StateDir) {
		if pid, err := n.supervisor(); err != nil || pid == 0 {
			return err
		}
	}
	lock, err := n.begin(ctx, nil)
	if err != nil {
		return err
	}
	defer lock.Close()
	err = errors.Join(n.kill(ctx), n.dropNet(ctx))
	if err == nil {
		err = errors.Join(n.removeRoot(n.path("root")), n.removeRoot(n.path("root.new")))
	}
	if err != nil {
		return fmt.Errorf("destroy machine %s: %w", n.spec.Name, err)
	}
	for _, name := range []string{
		"key", "host_key", "known_hosts", "subnet", "console.log", ".#root.lck", "lock",
	} {
		if err := ignoreMissing(os.Remove(n.path(name))); err != nil {
			return fmt.Errorf("destroy machine %s: %w", n.spec.Name, err)
		}
	}
	_ = os.Remove(n.spec.StateDir) // stays if others keep something there
	return nil
}

// Endpoint is the machine's own address.
func (n *Nspawn) Endpoint(ctx context.Context) (Endpoint, error) {
	st, err := n.Status(ctx)
	if err != nil {
		return Endpoint{}, err
	}
	if st.State != Running {
		return Endpoint{}, hint.Wrap(fmt.Errorf("machine %s: %w", n.spec.Name, ErrNotRunning), "start it: `devbox up`")
	}
	subnet, err := n.subnet()
	if err != nil || !subnet.IsValid() {
		return Endpoint{}, hint.Errorf("`devbox up` repairs it", "machine %s: its address is not known", n.spec.Name)
	}
	return Endpoint{
		Host: guestEnd(subnet).String(), Port: 22, User: AdminUser, IdentityFile: n.path("key"), KnownHostsFile: n.path("known_hosts"),
	}, nil
}
