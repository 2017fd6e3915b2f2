package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"time"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/image"
	"devbox/internal/protocol"
	"devbox/internal/provision"
	"devbox/internal/remote"
	"devbox/internal/secret"
	"devbox/internal/ui"
	"devbox/internal/vm"
)

// Drill is a rehearsed disaster: a machine that has nothing gets the released
// image, which brings the app's data back out of its replica.
type Drill struct {
	Of      string    `json:"of"` // the target, or "dev"
	At      time.Time `json:"at"`
	Release string    `json:"release,omitempty"` // that runs there; "" if it could not be asked
	Version string    `json:"version"`           // of the image
	// Live is what the app there says of its data, just before the replica was
	// read; nil, and Unreached why, if it could not be asked.
	Live      *protocol.Data `json:"live,omitempty"`
	Unreached string         `json:"unreached,omitempty"`
	Restored  *protocol.Data `json:"restored,omitempty"`
	// Lost is what was written there last and did not come back.
	Lost    time.Duration `json:"lost"`
	Machine time.Duration `json:"machine"` // to have a machine
	Ship    time.Duration `json:"ship"`    // to have the image on it
	Restore time.Duration `json:"restore"` // from the start of the release to its health
	Error   string        `json:"error,omitempty"`
	Hint    string        `json:"hint,omitempty"`
}

// DrillOptions are a drill's other end.
type DrillOptions struct {
	// Secrets are values for the rehearsal, and Ask gets those of others.
	Secrets map[string][]byte
	Ask     func(ctx context.Context, name string) ([]byte, error)
	Keep    bool // the machine of the rehearsal
}

// Drill rehearses the loss of target, or of the dev machine if target is nil.
// It only reads the replica: units of drill.without do not run. The machine of
// the rehearsal is new, and gone afterwards.
func (p *Project) Drill(ctx context.Context, u *ui.UI, target *Target, o DrillOptions) (*Drill, error) {
	r := &rehearsal{Drill: Drill{Of: "dev", At: time.Now()}, project: p, target: target, settings: p.settings(false), DrillOptions: o}
	if target != nil {
		r.Of, r.settings = target.Name, target.settings()
	}
	err := r.run(ctx, u)
	if err != nil {
		r.Error, r.Hint = err.Error(), hint.Of(err)
	}
	return &r.Drill, err
}

// rehearsing is the project on the machine of its rehearsals.
func (p *Project) rehearsing(c *config.Config) *Project {
	return &Project{Config: c, Paths: p.Paths, Version: p.Version, machineName: c.Name + "-drill"}
}

// DestroyRehearsal removes the machine that a rehearsal has kept or left. It waits
// for one that is under way.
func (p *Project) DestroyRehearsal(ctx context.Context, u *ui.UI) (bool, error) {
	q := p.rehearsing(p.Config)
	unlock, err := q.lockRehearsal(ctx, u)
	if err != nil {
		return false, err
	}
	defer unlock()
	return q.Destroy(ctx, u)
}

func (p *Project) lockRehearsal(ctx context.Context, u *ui.UI) (unlock func(), err error) {
	return lockFile(ctx, p.MachineDir()+".rehearsal.lock", "rehearses the loss of this app", u.Say)
}

type rehearsal struct {
	Drill
	DrillOptions
	project  *Project
	target   *Target
	there    *Host             // what is lost; nil if it cannot be reached
	settings protocol.Settings // of what is lost; of devbox.yaml, if it cannot be reached
	art      *Artifact
	secrets  map[string][]byte
}

func (r *rehearsal) run(ctx context.Context, u *ui.UI) (err error) {
	if len(r.project.Config.State.Check) == 0 {
		return hint.Errorf("set state.check in devbox.yaml to a program of the image that tells what data there is", "a drill has nothing to compare with")
	}
	if err := r.meet(ctx, u); err != nil {
		return err
	}
	if r.there != nil {
		defer r.there.Close()
	}
	if err := r.findImage(u); err != nil {
		return err
	}
	defer r.art.Close()
	// All that is asked of a person is asked before the minutes begin.
	if err := r.readImage(ctx); err != nil {
		return err
	}
	defer func() {
		for _, v := range r.secrets {
			clear(v)
		}
	}()
	q := r.stage()
	unlock, err := q.lockRehearsal(ctx, u)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := q.Destroy(ctx, u); err != nil { // that of a rehearsal that was killed has data
		return err
	}
	defer func() {
		if r.Keep {
			q.sayKept(context.WithoutCancel(ctx), u)
			return
		}
		s := u.Step("remove the machine of the rehearsal")
		_, left := q.Destroy(context.WithoutCancel(ctx), u)
		if s.End(left, "") == nil {
			return
		}
		if ctx.Err() != nil { // this matters more than that it was interrupted
			err = nil
		}
		err = errors.Join(err, hint.Errorf("run `devbox destroy`", "the machine of the rehearsal is there still, with the data: %w", left))
	}()
	return r.rehearse(ctx, u, q)
}

// meet asks what runs there, if it can be reached: it may be gone indeed.
func (r *rehearsal) meet(ctx context.Context, u *ui.UI) error {
	var err error
	if r.target != nil {
		r.there, err = r.target.Connect(ctx)
	} else {
		r.there, err = r.project.Connect(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		if !mayBeGone(err) {
			return err
		}
		if r.target == nil && len(r.project.Config.Drill.Ports) > 0 {
			return hint.Errorf("run `devbox up`", "the replica of the dev machine is on it: %w", err)
		}
		r.Unreached = err.Error()
		u.Say("note: %s cannot be asked, so the rehearsal goes by what is here: %v", r.Of, err)
		return nil
	}
	st, err := r.there.Status(ctx, r.project.Config.Name)
	if err != nil {
		return err
	}
	if st.Current == nil {
		return hint.Errorf("deploy it first", "nothing runs on %s that could be lost", r.Of)
	}
	if len(st.Current.Settings.State.Check) == 0 {
		return hint.Errorf("deploy it with the state.check that devbox.yaml has", "%s on %s was released without a check of its data", st.Current.ID, r.Of)
	}
	r.Release, r.Version = st.Current.ID, short(st.Current.Digest)
	r.settings = st.Current.Settings
	return nil
}

// mayBeGone tells whether there may be nothing any more to connect to. Whoever answers,
// and refuses, or is another than before, is not gone.
func mayBeGone(err error) bool {
	return remote.Retryable(err) || errors.Is(err, vm.ErrNotRunning) || errors.Is(err, vm.ErrMissing)
}

// findImage opens the image that runs there, or was brought there last.
func (r *rehearsal) findImage(u *ui.UI) error {
	stores := []imageStore{r.project.images()}
	if r.target != nil {
		stores = []imageStore{r.target.shipped(), r.project.images()}
	}
	var found *stored
	var err error
	for i, s := range stores {
		if r.there != nil {
			found, err = s.find([]string{r.there.Welcome.Current})
		} else {
			found, err = s.latest()
		}
		if err != nil {
			return err
		}
		if found != nil {
			r.Version = found.digest.Short()
			if i > 0 && r.there == nil {
				u.Say("note: nothing was brought to %s from this computer; what is rehearsed is %s, the newest of the dev machine", r.Of, r.Version)
			}
			r.art = &Artifact{Path: s.path(found.digest), Digest: found.digest, Size: found.Size, Sums: found.Sums, file: found.file}
			return nil
		}
	}
	cure := "check out what runs there and build it: `devbox build`"
	if r.there == nil {
		cure = "build it: `devbox build`"
	}
	return hint.Errorf(cure, "this computer does not have the image of %s any more", strings.TrimSpace(r.Of+" "+r.Version))
}

// readImage gets the values of all secrets that units of the image name. It refuses
// an image that no machine here can run, and to hold back a unit that it does not
// have: under another name it would run, and write to the replica.
func (r *rehearsal) readImage(ctx context.Context) error {
	img, err := image.Open(r.art.Path)
	if err != nil {
		return err
	}
	defer img.Close()
	arch, err := image.BuiltFor(img.FS(), r.settings.State.Check[0])
	if err != nil {
		return hint.Errorf("write under state.check what that image has", "the image %s has no program to look at its data: %w", r.Version, err)
	}
	if arch != "" && arch != runtime.GOARCH {
		return hint.Errorf("rehearse it from a computer of that kind: of the same tree `devbox build` makes the same image there",
			"the image %s is for %s, and a machine of this computer is %s", r.Version, arch, runtime.GOARCH)
	}
	units, err := img.Units()
	if err != nil {
		return err
	}
	for _, name := range r.project.Config.Drill.Without {
		if !slices.ContainsFunc(units, func(u image.Unit) bool { return u.Name == name }) {
			return hint.Errorf("write in drill.without what the units are called in the image that runs there",
				"%s of drill.without is no unit of %s, which is to be rehearsed", name, r.Version)
		}
	}
	r.secrets = map[string][]byte{}
	wanted := secret.Wanted(r.project.Config.Name, units)
	for name := range r.Secrets {
		if !slices.Contains(wanted, name) {
			return hint.Errorf("units of that image load: "+strings.Join(wanted, ", "), "no unit of %s loads a secret %s", r.Version, name)
		}
	}
	for _, want := range wanted {
		if given, ok := r.Secrets[want]; ok {
			r.secrets[want] = slices.Clone(given)
			continue
		}
		if r.target == nil {
			if given, ok := r.project.Config.Machine.Secrets[want]; ok {
				r.secrets[want] = []byte(given)
				continue
			}
		}
		if r.secrets[want], err = r.Ask(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

// stage is the project as it is rehearsed: on a machine of its own, with the
// settings of what is lost.
func (r *rehearsal) stage() *Project {
	c := *r.project.Config
	c.Machine.Ports, c.Machine.Beside, c.Machine.Secrets = nil, nil, nil
	q := r.project.rehearsing(&c)
	s := r.settings
	s.Trial, s.State.Snapshot = 0, ""
	q.rehearses = &s
	return q
}

func (r *rehearsal) rehearse(ctx context.Context, u *ui.UI, q *Project) error {
	begin := time.Now()
	h, err := q.Up(ctx, u)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := r.holdBack(ctx, q); err != nil {
		return err
	}
	if r.target == nil {
		stop, err := r.reach(ctx, q)
		if err != nil {
			return err
		}
		defer stop()
	}
	for name, value := range r.secrets {
		if _, err := h.SetSecret(ctx, name, value); err != nil {
			return fmt.Errorf("set the secret %s on the machine of the rehearsal: %w", name, err)
		}
	}
	r.Machine = time.Since(begin)

	begin = time.Now()
	s := u.Step("ship %s, %s", r.art.Version(), ui.Bytes(r.art.Size))
	if _, err := h.Ship(ctx, r.art); s.End(err, "") != nil {
		return err
	}
	r.Ship = time.Since(begin)
	if r.there != nil {
		if err := r.askLive(ctx, u); err != nil {
			return err
		}
	}

	begin = time.Now()
	s = u.Step("restore and start")
	c := &Cycle{At: begin}
	err = h.deliver(ctx, r.art, c)
	var failed *RolledBackError
	if errors.As(err, &failed) {
		// What it says of what serves there instead is not for a rehearsal.
		err = hint.Errorf(r.lookHint(), "the release does not come up on a new machine: %s", failed.cause())
	}
	if s.End(err, "") != nil {
		return err
	}
	r.Restore = time.Since(begin)
	restored, err := r.ask(ctx, h)
	if err != nil {
		return fmt.Errorf("ask what came back: %w", err)
	}
	r.Restored = &restored
	return r.compare()
}

// lookHint is what to do about what only the machine of the rehearsal tells.
func (r *rehearsal) lookHint() string {
	if r.Keep {
		return "look for more on the machine of the rehearsal, which is kept"
	}
	again := "devbox drill --keep"
	if r.target != nil {
		again = "devbox drill " + r.target.Name + " --keep"
	}
	return "`" + again + "` keeps the machine to look at"
}

// sayKept tells how to log in to the machine, which no other command knows.
func (p *Project) sayKept(ctx context.Context, u *ui.UI) {
	e, err := p.AdminEndpoint(ctx)
	if err != nil {
		return // it did not come so far
	}
	u.Say("the machine is kept until the next rehearsal or `devbox destroy`: ssh -p %d -i %s -o UserKnownHostsFile=%s %s@%s", e.Port, e.IdentityFile, e.KnownHostsFile, e.User, e.Host)
}

// askLive asks what is there to compare with. A server that cannot tell any
// more does not end its rehearsal.
func (r *rehearsal) askLive(ctx context.Context, u *ui.UI) error {
	live, err := r.ask(ctx, r.there)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil && live.Problem != "" {
		err = errors.New(live.Problem)
	}
	if err != nil {
		r.Unreached = err.Error()
		u.Say("note: %s does not tell what data it has, so there is nothing to compare with: %v", r.Of, err)
		return nil
	}
	r.Live = &live
	return nil
}

func (r *rehearsal) ask(ctx context.Context, h *Host) (protocol.Data, error) {
	return h.Data(ctx, r.project.Config.Name)
}

// compare finds out what did not come back. That some of the last rows did not is
// no failure: see Lost.
func (r *rehearsal) compare() error {
	live := r.Live
	if live == nil {
		live = &protocol.Data{}
	}
	switch {
	case r.Restored.Integrity != "" && r.Restored.Integrity != "ok":
		return hint.Errorf("the replica is damaged: see whether the data there is well, and have it replicated anew", "what came back is not whole: %s", r.Restored.Integrity)
	case r.Restored.Problem != "":
		return hint.Errorf(r.lookHint(), "what came back is not well: %s", r.Restored.Problem)
	case tellsNothing(r.Restored) && tellsNothing(live):
		return hint.Errorf("have the program under state.check tell `rows` or `newest`", "whether anything came back is not known: the check of the data tells neither rows nor when something was written last")
	case empty(r.Restored) && (r.Live == nil || !empty(live)):
		return hint.Errorf(replicaHint, "nothing came back: there is no replica, or it is empty")
	}
	if !r.Restored.Newest.IsZero() && live.Newest.After(r.Restored.Newest) {
		r.Lost = live.Newest.Sub(r.Restored.Newest)
		return nil
	}
	for _, table := range slices.Sorted(maps.Keys(live.Rows)) {
		if live.Rows[table] > 0 && r.Restored.Rows[table] == 0 {
			return hint.Errorf(replicaHint, "nothing of %s came back, which has %d rows: it is not replicated", table, live.Rows[table])
		}
	}
	return nil
}

const replicaHint = "look at the units that replicate and restore, and at where they do: `devbox status`, `devbox logs`"

func tellsNothing(d *protocol.Data) bool { return len(d.Rows) == 0 && d.Newest.IsZero() }

// empty tells whether nothing has been stored, as far as the check tells.
func empty(d *protocol.Data) bool {
	for _, n := range d.Rows {
		if n > 0 {
			return false
		}
	}
	return d.Newest.IsZero()
}

// holdBack keeps the units of drill.without from running: they would write to
// the replica. A condition is none that a release has to be sent for.
func (r *rehearsal) holdBack(ctx context.Context, q *Project) error {
	conn, err := q.asAdministrator(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	const script = `set -eu
for unit; do
	mkdir -p "/etc/systemd/system/$unit.d"
	printf '[Unit]\n# In a rehearsal this would write to the replica.\nConditionPathExists=!/\n' >"/etc/systemd/system/$unit.d/90-drill.conf"
done`
	var said strings.Builder
	exit, err := asAdmin{conn: conn, sudo: true}.Run(ctx, provision.Command{Script: script, Args: r.project.Config.Drill.Without, Stderr: &said})
	if err == nil && exit != 0 {
		err = fmt.Errorf("exit code %d: %s", exit, strings.TrimSpace(said.String()))
	}
	if err != nil {
		return fmt.Errorf("hold units back: %w", err)
	}
	return nil
}

func (p *Project) asAdministrator(ctx context.Context) (*remote.Conn, error) {
	e, err := p.AdminEndpoint(ctx)
	if err != nil {
		return nil, err
	}
	return remote.Dial(ctx, endpoint(e, e.User), p.dialOptions())
}

// reach lets the machine of the rehearsal reach ports of the dev machine, where
// the stand-ins are, as its own.
func (r *rehearsal) reach(ctx context.Context, q *Project) (stop func(), err error) {
	if len(r.project.Config.Drill.Ports) == 0 {
		return func() {}, nil
	}
	conn, err := q.asAdministrator(ctx)
	if err != nil {
		return nil, err
	}
	for _, port := range r.project.Config.Drill.Ports {
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := conn.Listen(addr)
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("open port %d of the machine of the rehearsal: %w", port, err)
		}
		go r.pass(ctx, l, addr)
	}
	return func() { conn.Close() }, nil
}

func (r *rehearsal) pass(ctx context.Context, l net.Listener, addr string) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer in.Close()
			out, err := r.there.Conn.DialContext(ctx, "tcp", addr)
			if err != nil {
				return
			}
			defer out.Close()
			go func() {
				_, _ = io.Copy(out, in)
				if half, ok := out.(interface{ CloseWrite() error }); ok {
					_ = half.CloseWrite()
				}
			}()
			_, _ = io.Copy(in, out)
		}()
	}
}
