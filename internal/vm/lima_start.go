package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	sshconfig "github.com/kevinburke/ssh_config"
	"golang.org/x/crypto/ssh"

	"devbox/internal/hint"
)

// Start boots the machine and waits until SSH shows its host key.
func (l *Lima) Start(ctx context.Context, p Progress) error {
	ctl, err := findLimactl(ctx, l.spec.CacheDir)
	if err != nil {
		return err
	}
	unlock, err := l.lock(ctx, p)
	if err != nil {
		return err
	}
	defer unlock()
	inst, err := l.mine(ctx, ctl)
	if err != nil {
		return err
	}
	if inst == nil {
		return hint.Errorf("run `devbox up`", "machine %s: %w", l.spec.Name, ErrMissing)
	}
	if inst.Status == limaRunning {
		if l.login(ctx, inst) == nil {
			return l.pin(inst)
		}
		p.Step("wait for the machine, which is booting")
		if err := l.answers(ctx, ctl, startTimeout(emulated(inst.DriverPID))); err != nil {
			return err
		}
		return l.pinNow(ctx, ctl)
	}
	if err := l.repair(ctx, ctl, inst, p); err != nil {
		return err
	}
	l.tellChanges(inst, p)
	if err := l.boot(ctx, ctl, p); err != nil {
		return err
	}
	return l.pinNow(ctx, ctl)
}

func (l *Lima) boot(ctx context.Context, ctl limactl, p Progress) error {
	noKVM := canKVM()
	timeout := startTimeout(noKVM != nil)
	if noKVM != nil {
		env, err := emulateIn(filepath.Join(l.spec.StateDir, "qemu"), runtime.GOARCH)
		if err != nil {
			return fmt.Errorf("start machine %s: %w", l.spec.Name, err)
		}
		ctl.env = env
		p.Step("boot the virtual machine, slowly: no KVM (%v), the processor is emulated; this takes minutes", noKVM)
	} else {
		p.Step("boot the virtual machine")
	}
	begin := time.Now()
	_, err := ctl.run(ctx, "start", "--tty=false", "--timeout="+timeout.String(), l.spec.Name)
	if err != nil {
		failed := new(LimactlError)
		if !errors.As(err, &failed) {
			return err
		}
		// After its own timeout, or when something but SSH is amiss (it says
		// DEGRADED), limactl exits with 1 and the machine runs on.
		inst, listErr := l.mine(ctx, ctl)
		if listErr != nil || inst == nil || inst.Status != limaRunning {
			return l.explain(fmt.Errorf("start machine %s: %w", l.spec.Name, errors.Join(err, listErr)))
		}
		p.Step("note: limactl is not content (%s); see whether SSH answers", lastMessage(failed.Stderr))
	}
	p.Step("wait for SSH with the machine's own key")
	return l.answers(ctx, ctl, max(timeout-time.Since(begin), time.Minute))
}

// pin writes the machine's known_hosts, for the port of this boot.
func (l *Lima) pin(inst *limaInstance) error {
	e, err := l.endpoint(inst)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.spec.StateDir, 0o700); err != nil {
		return err
	}
	return writeKnownHosts(e.KnownHostsFile, e.Host, e.Port, limaHostKey(inst.scripts()))
}

func (l *Lima) pinNow(ctx context.Context, ctl limactl) error {
	inst, err := l.running(ctx, ctl)
	if err != nil {
		return err
	}
	return l.pin(inst)
}

// startTimeout is how long a boot may take until SSH answers.
func startTimeout(slow bool) time.Duration {
	if slow {
		return 12 * time.Minute
	}
	return 5 * time.Minute
}

// pollSSH is the pause between two attempts to log in. OpenSSH 9.8 and newer
// count a second against a client for each attempt that ends before its login
// (PerSourcePenalties), so it must be longer than that.
const pollSSH = 2 * time.Second

// answers waits until the machine's SSH server shows the machine's host key and
// lets its user in.
func (l *Lima) answers(ctx context.Context, ctl limactl, deadline time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, deadline,
		fmt.Errorf("SSH did not answer within %s", deadline))
	defer cancel()
	var last error
	for {
		inst, err := l.mine(ctx, ctl)
		if err != nil {
			return err
		}
		if inst == nil || inst.Status != limaRunning {
			return l.explain(fmt.Errorf("machine %s stopped while it booted", l.spec.Name))
		}
		if last = l.login(ctx, inst); last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return l.explain(fmt.Errorf("wait for machine %s: %w: %w", l.spec.Name, context.Cause(ctx), last))
		case <-time.After(pollSSH):
		}
	}
}

// login opens one SSH connection and closes it.
func (l *Lima) login(ctx context.Context, inst *limaInstance) error {
	e, err := l.endpoint(inst)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(e.IdentityFile)
	if err != nil {
		return err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return fmt.Errorf("read %s: %w", e.IdentityFile, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	addr := net.JoinHostPort(e.Host, strconv.Itoa(e.Port))
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	// QEMU accepts the connection before the guest does: the deadline is for
	// the silence that follows.
	if t, ok := ctx.Deadline(); ok {
		conn.SetDeadline(t)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	key := limaHostKey(inst.scripts())
	client, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User:              e.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   ssh.FixedHostKey(key),
		HostKeyAlgorithms: []string{key.Type()},
	})
	if err != nil {
		return err
	}
	return ssh.NewClient(client, chans, reqs).Close()
}

// endpoint is how to reach the instance: its port now, and the user and key from
// the ssh.config that Lima writes into its folder.
func (l *Lima) endpoint(inst *limaInstance) (Endpoint, error) {
	if inst.SSHLocalPort == 0 {
		return Endpoint{}, fmt.Errorf("machine %s: Lima has not chosen its SSH port yet", l.spec.Name)
	}
	path := inst.SSHConfigFile
	if path == "" {
		path = filepath.Join(inst.Dir, "ssh.config")
	}
	user, identity, err := readLimaSSHConfig(path, "lima-"+l.spec.Name)
	if err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{
		Host: "127.0.0.1", Port: inst.SSHLocalPort, User: user, IdentityFile: identity,
		KnownHostsFile: filepath.Join(l.spec.StateDir, "known_hosts"),
	}
	if inst.SSHAddress != "" {
		e.Host = inst.SSHAddress
	}
	return e, nil
}

func readLimaSSHConfig(path, host string) (user, identity string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	if user, identity, err = decodeLimaSSHConfig(f, host); err != nil {
		return "", "", fmt.Errorf("read %s: %w", path, err)
	}
	return user, identity, nil
}

func decodeLimaSSHConfig(r io.Reader, host string) (user, identity string, err error) {
	config, err := sshconfig.Decode(r)
	if err != nil {
		return "", "", err
	}
	get := func(key string) string {
		value, getErr := config.Get(host, key)
		err = errors.Join(err, getErr)
		return strings.Trim(value, `"`)
	}
	user, identity = get("User"), get("IdentityFile")
	if err == nil && (user == "" || !filepath.IsAbs(identity)) {
		err = errors.New("no User or no IdentityFile for " + host)
	}
	return user, identity, err
}

// explain adds the ends of the instance's logs to an error, and a cure where the
// error has none.
func (l *Lima) explain(err error) error {
	failed := new(LimactlError)
	if !errors.As(err, &failed) {
		failed = &LimactlError{}
		err = &limaFailure{error: err, logs: failed}
	}
	failed.HostAgent = logTail(filepath.Join(l.dir(), "ha.stderr.log"), 2<<10)
	failed.Console = logTail(l.Console(), 2<<10)
	if hint.Of(err) != "" {
		return err
	}
	return hint.Wrap(err, fmt.Sprintf("see %s and %s", filepath.Join(l.dir(), "ha.stderr.log"), l.Console()))
}

// limaFailure is an error of ours that limactl's logs explain.
type limaFailure struct {
	error
	logs *LimactlError
}

func (f *limaFailure) Unwrap() error { return f.error }

// Detail is what the instance's logs say, for a person, or "".
func (f *limaFailure) Detail() string { return f.logs.Detail() }
