package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"devbox/internal/forward"
	"devbox/internal/protocol"
	"devbox/internal/provision"
	"devbox/internal/remote"
	"devbox/internal/ui"
	"devbox/internal/vm"

	"golang.org/x/crypto/ssh"
)

// Up brings the dev machine to what devbox.yaml and the cloud-config say, as
// far as it is not there: created, booted, set up, its ports open here. The
// caller closes the Host.
func (p *Project) Up(ctx context.Context, u *ui.UI) (_ *Host, err error) {
	defer func() { err = p.Paths.fullState(err) }()
	unlock, err := p.lockMachine(ctx, u.Say)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Making a machine takes minutes: what would fail after that fails before.
	if err := p.CheckHostPrograms(); err != nil {
		return nil, err
	}
	m, err := p.startMachine(ctx, u)
	if err != nil {
		return nil, err
	}
	conn, e, err := p.logIn(ctx, u, m)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := p.setUp(ctx, u, conn, e); err != nil {
		return nil, err
	}
	if err := p.forwardPorts(ctx, e); err != nil {
		return nil, err
	}
	h, err := p.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if h.Welcome.Recovered != "" {
		u.Say("%s", h.Welcome.Recovered)
	}
	if err := errors.Join(p.releaseBeside(ctx, u), h.setGiven(ctx)); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// startMachine creates and boots what is missing of the machine, after a look
// at what would fail once that has taken its minutes.
func (p *Project) startMachine(ctx context.Context, u *ui.UI) (vm.Machine, error) {
	m, why, err := p.Machine(ctx)
	if err != nil {
		return nil, err
	}
	return m, p.start(ctx, u, m, why)
}

func (p *Project) start(ctx context.Context, u *ui.UI, m vm.Machine, why string) error {
	st, err := m.Status(ctx)
	if err != nil {
		return err
	}
	if st.State != vm.Missing {
		if err := p.checkOwner(); err != nil {
			return err
		}
	}
	if err := forward.CanListen(ctx, p.MachineDir(), p.ports()); err != nil {
		return err
	}
	p.noteUnused(u, m.Driver())
	if st.State == vm.Running && st.Drift != "" {
		u.Say("note: %s", st.Drift)
	}
	if st.State != vm.Running {
		u.Say("machine %s: %s, %s", p.Spec().Name, m.Driver(), why)
	}
	if st.State == vm.Missing || st.State == vm.Broken {
		s := u.Step("create the machine")
		if err := s.End(m.Create(ctx, s.Progress()), ""); err != nil {
			return err
		}
	}
	if err := p.own(); err != nil {
		return err
	}
	if st.State != vm.Running {
		s := u.Step("boot the machine")
		return s.End(m.Start(ctx, s.Progress()), "")
	}
	return nil
}

// bootPatience is how long a machine that was started may take to let devbox in.
const bootPatience = 3 * time.Minute

// logIn connects to the machine as its administrator. One that runs and does
// not answer is started once more: that waits for one that boots, and mends the
// network of one that lost it.
func (p *Project) logIn(ctx context.Context, u *ui.UI, m vm.Machine) (*remote.Conn, vm.Endpoint, error) {
	e, err := m.Endpoint(ctx)
	if err != nil {
		return nil, e, err
	}
	conn, err := remote.Dial(ctx, endpoint(e, e.User), p.dialOptions())
	if err == nil {
		return conn, e, nil
	}
	s := u.Step("get an answer from the machine")
	if err := s.End(m.Start(ctx, s.Progress()), ""); err != nil {
		return nil, e, err
	}
	if e, err = m.Endpoint(ctx); err != nil { // its address may be another one now
		return nil, e, err
	}
	conn, err = remote.DialWait(ctx, endpoint(e, e.User), p.dialOptions(), remote.Wait{For: bootPatience})
	if err != nil {
		return nil, e, fmt.Errorf("log in to the machine: %w", err)
	}
	return conn, e, nil
}

// setUp applies the cloud-config and installs devbox-host, as the machine's
// administrator.
func (p *Project) setUp(ctx context.Context, u *ui.UI, conn *remote.Conn, e vm.Endpoint) error {
	root := asAdmin{conn: conn, sudo: true}
	state, err := provision.ReadState(ctx, root)
	if err != nil {
		return err
	}
	config, err := os.ReadFile(p.Config.Abs(p.Config.CloudInit))
	if err != nil {
		return fmt.Errorf("read the cloud-config: %w", err)
	}
	if !state.Current(config) {
		if err := p.apply(ctx, u, root, config); err != nil {
			return err
		}
	}
	// Every time: a kill between the two would leave the machine shut for good.
	if err := p.authorize(ctx, root, e.IdentityFile); err != nil {
		return err
	}
	return p.installHost(ctx, u, conn, state)
}

func (p *Project) apply(ctx context.Context, u *ui.UI, root asAdmin, config []byte) error {
	s := u.Step("set the machine up by %s", p.Config.CloudInit)
	_, err := provision.Apply(ctx, root, config, provision.Options{
		Name:   p.Config.CloudInit,
		OnStep: func(x provision.Step) { s.Note("%s", x.Name) },
	})
	return s.End(err, "")
}

// authorize lets devbox's own key for this machine log in as the deploy user,
// beside the people whom the cloud-config names.
func (p *Project) authorize(ctx context.Context, root asAdmin, identity string) error {
	pem, err := os.ReadFile(identity)
	if err != nil {
		return fmt.Errorf("read the machine's key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return fmt.Errorf("read the machine's key %s: %w", identity, err)
	}
	_, err = provision.AuthorizeKey(ctx, root, p.Config.DeployUser, string(ssh.MarshalAuthorizedKey(key.PublicKey())))
	return err
}

// installHost installs the devbox-host that belongs to this devbox, for the
// host's own architecture.
func (p *Project) installHost(ctx context.Context, u *ui.UI, conn *remote.Conn, state provision.State) error {
	arch, err := askArch(ctx, conn)
	if err != nil {
		return err
	}
	binary, err := p.readHostBinary(arch)
	if err != nil {
		return err
	}
	sum := provision.Hash(binary)
	if state.Host == sum {
		return nil
	}
	s := u.Step("install devbox-host for %s", arch)
	_, err = provision.InstallHost(ctx, asAdmin{conn: conn, sudo: true}, binary, sum)
	return s.End(err, "")
}

// askArch asks the host for its architecture and names it as GOARCH does.
func askArch(ctx context.Context, conn *remote.Conn) (string, error) {
	out, err := conn.Output(ctx, "uname", "-m")
	if err != nil {
		return "", fmt.Errorf("ask the host for its architecture: %w", err)
	}
	return goArch(string(trimNewline(out)))
}

func goArch(machine string) (string, error) {
	switch machine {
	case "x86_64":
		return "amd64", nil
	case "aarch64":
		return "arm64", nil
	default:
		return "", fmt.Errorf("the host is a %q machine; devbox serves x86_64 and aarch64", machine)
	}
}

func trimNewline(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		return b[:n-1]
	}
	return b
}

// Release builds the source as it is and makes it the running release. The
// Cycle tells what became of it, also beside an error.
func (p *Project) Release(ctx context.Context, u *ui.UI, h *Host) (*Cycle, error) {
	c := &Cycle{At: time.Now()}
	err := p.release(ctx, u, h, c)
	c.Took = time.Since(c.At)
	if err != nil {
		c.fail(err)
	}
	return c, err
}

func (p *Project) release(ctx context.Context, u *ui.UI, h *Host, c *Cycle) error {
	s := u.Step("build for %s", h.Welcome.Arch)
	a, err := p.Build(ctx, h.Welcome.Arch, c.ended)
	if s.End(err, "") != nil {
		return err
	}
	defer a.Close()
	for _, w := range append(a.Warnings, p.Verify(ctx, a)...) {
		u.Say("warning: %s", w)
	}
	if h.Welcome.Current == a.Digest.String() {
		s = u.Step("check release %s", a.Version())
	} else {
		s = u.Step("ship and activate %s, %s", a.Version(), ui.Bytes(a.Size))
	}
	err = h.Deliver(ctx, a, c, u.Say)
	result := ""
	if c.Outcome == protocol.Unchanged {
		result = "runs already"
	}
	return s.End(err, result)
}

// forwardPorts opens machine.ports on this computer, in a process of its own.
func (p *Project) forwardPorts(ctx context.Context, e vm.Endpoint) error {
	spec := forward.Spec{
		Dir: p.MachineDir(), Version: p.Version, Ports: p.ports(), Endpoint: endpoint(e, p.Config.DeployUser), Options: p.dialOptions(),
	}
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return fmt.Errorf("make the machine's folder: %w", err)
	}
	_, err := forward.Start(ctx, spec, p.Paths.Executable, ForwardCommand)
	return err
}

func (p *Project) ports() []forward.Port {
	var all []forward.Port
	for _, port := range p.Config.Machine.Ports {
		all = append(all, forward.Port{Client: port.Client, Guest: port.Guest})
	}
	return all
}

// ForwardCommand is the hidden command of devbox that is the body of the
// forwarding process.
const ForwardCommand = "forward"

// Forward is a port of the machine that answers on this computer.
type Forward struct {
	forward.Port
	Problem string `json:"problem,omitempty"`
}

// Forwards asks which ports are open and whether they lead anywhere.
func (p *Project) Forwards() ([]Forward, error) {
	st, err := forward.Running(p.MachineDir())
	if err != nil {
		return nil, err
	}
	open := map[forward.Port]bool{}
	for _, port := range st.Ports {
		open[port] = st.Pid != 0
	}
	var all []Forward
	for _, port := range p.ports() {
		f := Forward{Port: port}
		switch {
		case !open[f.Port]:
			f.Problem = "not open; `devbox up` opens it"
		case st.State == forward.Waiting:
			f.Problem = "the machine does not answer: " + st.Error
		}
		all = append(all, f)
	}
	return all, nil
}

// stopAnyway is how long Down waits for another devbox.
const stopAnyway = 3 * time.Second

// Down stops the machine. It reports whether there was anything to stop. One
// whose boot hangs is stopped under the hands of the devbox that boots it.
func (p *Project) Down(ctx context.Context, u *ui.UI) (bool, error) {
	wait, cancel := context.WithTimeout(ctx, stopAnyway)
	defer cancel()
	unlock, err := p.lockMachine(wait, u.Say)
	switch {
	case err == nil:
		defer unlock()
	case ctx.Err() != nil || wait.Err() == nil:
		return false, err
	}
	return p.end(ctx, vm.Stopped, vm.Machine.Stop)
}

// Destroy removes the machine and its data. It reports whether there was any.
func (p *Project) Destroy(ctx context.Context, u *ui.UI) (bool, error) {
	unlock, err := p.lockMachine(ctx, u.Say)
	if err != nil {
		return false, err
	}
	defer unlock()
	return p.end(ctx, vm.Missing, p.destroy)
}

func (p *Project) destroy(m vm.Machine, ctx context.Context) error {
	if err := m.Destroy(ctx); err != nil {
		return err
	}
	return os.RemoveAll(p.MachineDir()) // its owner, and what the forwarding of its ports kept there
}

func (p *Project) end(ctx context.Context, already vm.State, end func(vm.Machine, context.Context) error) (bool, error) {
	m, _, err := p.Machine(ctx)
	if err != nil {
		return false, err
	}
	return p.endMachine(ctx, m, already, end)
}

func (p *Project) endMachine(ctx context.Context, m vm.Machine, already vm.State, end func(vm.Machine, context.Context) error) (bool, error) {
	st, err := m.Status(ctx)
	if err != nil {
		return false, err
	}
	if st.State != vm.Missing {
		if err := p.checkOwner(); err != nil {
			return false, err
		}
	}
	if err := forward.Stop(ctx, p.MachineDir()); err != nil {
		return false, err
	}
	if st.State == already || st.State == vm.Missing {
		return false, nil
	}
	return true, end(m, ctx)
}
