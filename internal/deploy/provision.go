package deploy

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"devbox/internal/hint"
	"devbox/internal/provision"
	"devbox/internal/remote"
	"devbox/internal/ui"

	"golang.org/x/crypto/ssh"
)

// trialTime is how long a server waits for the proof that people still get in.
const trialTime = 3 * time.Minute

// Provisioning is a server that was looked at, and what is to be done there. So
// far nothing was changed.
type Provisioning struct {
	Seen    *provision.Seen
	Changes provision.Changes

	target *Target
	ask    *memory
	trial  time.Duration
	id     string // of the trial
	conn   *remote.Conn
	root   asAdmin
	config []byte // the cloud-config
	host   provision.Host
	unlock func()
}

// Provisioning logs in to the server as its administrator and finds out what it
// lacks. The caller closes it. Errors: [*provision.RefusedError] of a host that
// is not one, [provision.Problems] of the cloud-config.
func (t *Target) Provisioning(ctx context.Context, u *ui.UI) (_ *Provisioning, err error) {
	g := &Provisioning{target: t, ask: remember(t.project.SSH), trial: trialTime, id: rand.Text()}
	p := t.project
	if g.config, err = p.cloudConfig(); err != nil {
		return nil, err
	}
	if err := p.CheckHostPrograms(); err != nil {
		return nil, err
	}
	if g.unlock, err = lockFile(ctx, filepath.Join(p.Paths.State, "targets", p.Config.Name+"_"+t.Name+".lock"), "sets up "+t.Name, u.Say); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.Close()
		}
	}()
	if g.conn, err = remote.Dial(ctx, t.Endpoint(t.User), g.ask.options()); err != nil {
		err = fmt.Errorf("connect to %s: %w", t.Name, err)
		return nil, err
	}
	if g.root, err = t.becomeRoot(ctx, g.conn, t.project.SSH.Answer); err != nil {
		return nil, err
	}
	if err := g.look(ctx, u); err != nil {
		return nil, err
	}
	if g.Seen.Arch != "" {
		binary, err := p.readHostBinary(g.Seen.Arch)
		if err != nil {
			return nil, err
		}
		g.host = provision.Host{Sum: provision.Hash(binary), Version: p.Version}
	}
	g.Changes = provision.Compare(g.config, g.Seen, g.host)
	if err := g.Seen.Refuse(g.Changes.Installs()); err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	if err := g.checkKeys(); err != nil {
		return nil, err
	}
	if err := g.checkPassword(); err != nil {
		return nil, err
	}
	return g, nil
}

// look waits for a server that was made a moment ago.
func (g *Provisioning) look(ctx context.Context, u *ui.UI) (err error) {
	user := g.target.project.Config.DeployUser
	if g.Seen, err = provision.Look(ctx, g.root, g.config, user); err != nil || !g.Seen.Booting {
		return err
	}
	s := u.Step("wait for what %s does at its first boot", g.target.Name)
	if err := s.End(provision.AwaitBoot(ctx, g.root), ""); err != nil {
		return fmt.Errorf("%s: wait for its first boot: %w", g.target.Name, err)
	}
	g.Seen, err = provision.Look(ctx, g.root, g.config, user)
	return err
}

// checkPassword refuses a cloud-config that would take away the password by
// which this person becomes root, and so the way to undo that.
func (g *Provisioning) checkPassword() error {
	user := g.target.User
	if !g.Changes.Apply || g.root.password == nil || !provision.LocksPassword(g.config, user) {
		return nil
	}
	return g.target.refuse(fmt.Sprintf("add `lock_passwd: false` to the user %s in %s", user, g.target.CloudInit()),
		"you could not use sudo any more: %s would lock the password of %s", g.target.CloudInit(), user)
}

// checkKeys refuses a cloud-config that would leave this person outside.
func (g *Provisioning) checkKeys() error {
	t := g.target
	user := t.project.Config.DeployUser
	let, err := t.letIn(g.config, g.Seen)
	if err != nil || let == nil {
		return err
	}
	hops, err := remote.Resolve(t.Endpoint(user), t.project.SSH)
	if err != nil {
		return err
	}
	own := offered(hops[len(hops)-1])
	for _, k := range own {
		for _, l := range let {
			if bytes.Equal(k.Marshal(), l.Marshal()) {
				return nil
			}
		}
	}
	if len(own) == 0 {
		return nil // what is offered cannot be told
	}
	return t.refuse(t.keyCure(), "you could not log in as %s: of your keys (%s first) none stands for that user in %s",
		user, ssh.FingerprintSHA256(own[0]), t.CloudInit())
}

func (t *Target) refuse(cure, format string, args ...any) error {
	why := fmt.Sprintf(format, args...)
	return hint.Wrap(fmt.Errorf("%s: %w", t.Name, &provision.RefusedError{Reasons: []string{why}}), cure)
}

// letIn are the keys that may log in as the deploy user: nil if sshd is told to
// find keys elsewhere, too, and an error if there are none.
func (t *Target) letIn(config []byte, seen *provision.Seen) ([]ssh.PublicKey, error) {
	user := t.project.Config.DeployUser
	keys := provision.KeysOf(config, seen, user)
	if provision.OtherKeys(config) {
		return nil, nil
	}
	if len(keys) == 0 {
		return nil, t.refuse(t.keyCure(), "nobody could log in as %s: %s has no key for that user", user, t.CloudInit())
	}
	return keys, nil
}

// CloudInit is the cloud-config's name in the repository.
func (t *Target) CloudInit() string { return t.project.Config.CloudInit }

// UserData is the cloud-config to create the server with.
func (t *Target) UserData() ([]byte, error) {
	config, err := t.project.cloudConfig()
	if err != nil {
		return nil, err
	}
	if _, err := t.letIn(config, &provision.Seen{}); err != nil {
		return nil, err
	}
	return provision.UserData(config)
}

// Close ends the connection.
func (g *Provisioning) Close() {
	if g.conn != nil {
		g.conn.Close()
	}
	g.unlock()
}

// cloudConfig is the repository's, checked. Errors: [provision.Problems].
func (p *Project) cloudConfig() ([]byte, error) {
	file := p.Config.CloudInit
	data, err := os.ReadFile(p.Config.Abs(file))
	if err != nil {
		return nil, fmt.Errorf("read the cloud-config: %w", err)
	}
	problems := provision.Check(data)
	for i := range problems {
		problems[i].File = file
	}
	if len(problems) > 0 {
		return nil, hint.Wrap(problems, "correct "+file+"; nothing was changed")
	}
	return data, nil
}

func (t *Target) keyCure() string {
	return fmt.Sprintf("put the line of your public key, such as ~/.ssh/id_ed25519.pub, into %s, under ssh_authorized_keys of the user %s",
		t.CloudInit(), t.project.Config.DeployUser)
}

// Do brings the server to the cloud-config and to this devbox's devbox-host,
// and proves that people still get in. Errors: [*provision.StepError],
// [*provision.UndoneError], and those of connections.
func (g *Provisioning) Do(ctx context.Context, u *ui.UI) (*provision.Report, error) {
	for _, line := range g.Seen.Undone {
		u.Say("note: an earlier run was undone: %s", line)
	}
	if g.Seen.Trial {
		u.Say("note: what another run changed is on trial there; it is waited for until that is kept or undone")
	}
	report := &provision.Report{Hash: provision.Hash(g.config)}
	var err error
	if g.Changes.Apply {
		if report, err = g.apply(ctx, u); err != nil {
			return report, g.backOut(ctx, u, report, err)
		}
	}
	if g.Changes.Install {
		if err := g.install(ctx, u); err != nil {
			return report, g.backOut(ctx, u, report, err)
		}
		report.Changed = true
	}
	if report.Changed {
		err = g.prove(ctx, u, report)
	}
	return report, err
}

func (g *Provisioning) apply(ctx context.Context, u *ui.UI) (*provision.Report, error) {
	file := g.target.CloudInit()
	s := u.Step("set %s up by %s", g.target.Name, file)
	report, err := provision.Apply(ctx, g.root, g.config, provision.Options{
		Name: file, Force: g.Changes.Force,
		Trial:  &provision.Trial{ID: g.id, For: g.trial, Users: g.users()},
		OnStep: func(x provision.Step) { s.Note("%s", x.Name) },
	})
	return report, s.End(err, "")
}

// users are who must be able to log in.
func (g *Provisioning) users() []string {
	admin, deploy := g.conn.Hop().User, g.target.project.Config.DeployUser
	if admin == deploy {
		return []string{admin}
	}
	return []string{admin, deploy}
}

func (g *Provisioning) install(ctx context.Context, u *ui.UI) error {
	binary, err := g.target.project.readHostBinary(g.Seen.Arch)
	if err != nil {
		return err
	}
	s := u.Step("install devbox-host for %s", g.Seen.Arch)
	_, err = provision.InstallHost(ctx, g.root, binary, g.host.Sum)
	return s.End(err, "")
}

// onTrial tells whether the host waits for a proof.
func onTrial(r *provision.Report) bool {
	for _, s := range r.Steps {
		if s.Name == "trial" {
			return true
		}
	}
	return false
}

const (
	undoLimit = time.Minute     // how long an undo may take
	undoPause = 5 * time.Second // between two tries of one
)

// backOut ends a run that did not come to its end. What can lock people out is
// not left half done: it is brought back at once, or by the host itself if this
// is where the person gave up or the connection is gone.
func (g *Provisioning) backOut(ctx context.Context, u *ui.UI, report *provision.Report, why error) error {
	if !onTrial(report) {
		return why
	}
	if ctx.Err() == nil && errors.Is(why, remote.ErrLost) {
		// The firewall that is being set up may have cut it, or the network: the
		// host does not go on alone.
		return g.lockedOut(ctx, u, why)
	}
	if ctx.Err() == nil {
		undoing, cancel := context.WithTimeout(ctx, undoLimit)
		lines, err := provision.Undo(undoing, g.root, g.id)
		cancel()
		for _, l := range lines {
			u.Say("undone: %s", l)
		}
		if err == nil {
			return why
		}
		u.Say("note: %v", err)
	}
	g.leave(u)
	return why
}

// leave says what becomes of a trial that nobody ends.
func (g *Provisioning) leave(u *ui.UI) {
	u.Say("note: what was changed of ssh, sudo and the firewall on %s is undone there by itself: in %v, or as soon as a step that is still at work there has ended; after a boot, %v from that",
		g.target.Name, g.trial, g.trial)
}

// prove logs in anew, as the administrator and as the deploy user, and ends the
// trial, if there is one, by what comes of it.
func (g *Provisioning) prove(ctx context.Context, u *ui.UI, report *provision.Report) error {
	s := u.Step("log in anew")
	why := g.logIn(ctx)
	if !onTrial(report) {
		return s.End(why, "")
	}
	if ctx.Err() != nil {
		s.Fail()
		return g.backOut(ctx, u, report, context.Cause(ctx))
	}
	if why == nil {
		kept, err := provision.Keep(ctx, g.root, g.id)
		if err == nil && !kept {
			err = &provision.UndoneError{Why: "the proof that people still get in came too late"}
		}
		if Lost(err) {
			err = hint.Wrap(err, fmt.Sprintf("`devbox provision %s` tells whether it was kept, or undone by the timer there", g.target.Name))
		}
		return s.End(err, "")
	}
	s.Fail()
	return g.lockedOut(ctx, u, fmt.Errorf("with %s applied: %w", g.target.CloudInit(), why))
}

// dial goes on until it gets in, or cannot.
func (g *Provisioning) dial(ctx context.Context, user string, wait remote.Wait) (*remote.Conn, error) {
	return remote.DialWait(ctx, g.target.Endpoint(user), g.ask.options(), wait)
}

// newLogin bounds one login of the proof, and what is tried again in it.
const newLogin = 30 * time.Second

// logIn uses connections of their own: the kept one proves nothing.
func (g *Provisioning) logIn(ctx context.Context) error {
	t := g.target
	for _, user := range g.users() {
		conn, err := g.dial(ctx, user, remote.Wait{For: newLogin})
		if err != nil {
			err = fmt.Errorf("log in as %s: %w", user, err)
			if user == t.project.Config.DeployUser && errors.Is(err, remote.ErrAuth) {
				err = hint.Wrap(err, t.keyCure())
			}
			return err
		}
		err = g.check(ctx, conn, user)
		conn.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// check proves what the user is there for: to become root, and to run devbox-host.
func (g *Provisioning) check(ctx context.Context, conn *remote.Conn, user string) error {
	if user != g.target.project.Config.DeployUser {
		again := g.root
		again.conn = conn
		if exit, err := again.Run(ctx, provision.Command{Script: ":"}); err != nil || exit != 0 {
			return errors.Join(err, fmt.Errorf("become root as %s: refused with exit code %d", user, exit))
		}
		return nil
	}
	if _, err := conn.Output(ctx, "sudo", "-n", provision.HostPath, "version"); err != nil {
		return hint.Wrap(fmt.Errorf("run devbox-host as %s: %w", user, err),
			fmt.Sprintf("let %s write to /etc/sudoers.d: %s ALL=(root) NOPASSWD: %s", g.target.CloudInit(), user, provision.HostPath))
	}
	return nil
}

// lockedOut undoes: over the kept connection, if that still works, or by
// waiting for the host's own timer.
func (g *Provisioning) lockedOut(ctx context.Context, u *ui.UI, why error) error {
	undone := func(lines []string) error {
		cure := "correct " + g.target.CloudInit() + " and run this again"
		if errors.As(why, new(*remote.ExitError)) { // the deploy user's sudo
			cure = hint.Of(why) + "; then run this again"
		}
		return hint.Wrap(&provision.UndoneError{Why: why.Error(), Lines: lines}, cure)
	}
	s := u.Step("undo it")
	undoing, cancel := context.WithTimeout(ctx, undoLimit)
	lines, err := provision.Undo(undoing, g.root, g.id)
	cancel()
	if err == nil {
		s.Done("")
		return undone(lines)
	}
	s.Note("waiting for the timer on the host")
	if lines, err = g.undoAnew(ctx, s); err == nil {
		s.Done("by the timer on the host")
		return undone(lines)
	}
	s.Fail()
	if ctx.Err() != nil {
		u.Say("%v", why) // of Ctrl-C itself nothing but that is told
		g.leave(u)
		return errors.Join(why, context.Cause(ctx))
	}
	return hint.Wrap(errors.Join(why, fmt.Errorf("and that is not undone yet: %w", err)),
		fmt.Sprintf("a timer there brings back ssh, sudo and the firewall, %v after its next boot too; `devbox provision %s` tells", g.trial, g.target.Name))
}

// undoAnew undoes over new connections, until it can. Whoever lost the old one in
// the middle of a step may find that step still at work; and sudo may refuse the
// password until the timer has brought that back.
func (g *Provisioning) undoAnew(ctx context.Context, s *ui.Step) ([]string, error) {
	end := time.Now().Add(g.trial + undoLimit)
	for {
		conn, err := g.dial(ctx, g.target.User, remote.Wait{For: time.Until(end), RetryAuth: true})
		if err != nil {
			return nil, fmt.Errorf("the host does not answer: %w", err)
		}
		again := g.root
		again.conn = conn
		lines, err := provision.Undo(ctx, again, g.id)
		conn.Close()
		if err == nil || errors.Is(err, provision.ErrPartly) || ctx.Err() != nil || time.Until(end) < undoPause {
			return lines, err
		}
		s.Note("%v", err)
		select {
		case <-ctx.Done():
		case <-time.After(undoPause):
		}
	}
}

// readHostBinary is the devbox-host that belongs to this devbox.
func (p *Project) readHostBinary(arch string) ([]byte, error) {
	f, err := hostBinary(p.Paths.Executable, arch)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	binary, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read the host program: %w", err)
	}
	return binary, nil
}

// Undone tells whether err is a change of a server that was not kept.
func Undone(err error) bool { return errors.As(err, new(*provision.UndoneError)) }

// Refused tells whether err is a server that devbox does not set up.
func Refused(err error) bool { return errors.As(err, new(*provision.RefusedError)) }

// Busy tells whether err is a server that another devbox sets up.
func Busy(err error) bool { return errors.Is(err, provision.ErrBusy) }
