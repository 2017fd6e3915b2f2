package deploy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/ui"
)

// DeployOptions are choices about one deployment.
type DeployOptions struct {
	Unproven bool // also an image that never ran on the dev machine
	All      bool // restart every unit, changed or not
}

// Offer is a release that a server has all it needs for, and what it would do
// to become the running one. What runs there was not touched.
type Offer struct {
	Plan protocol.Plan
	// Cycle is what has happened so far, and after Accept all of it.
	Cycle *Cycle
	// Proof says where the image ran before, or that it did not.
	Proof string

	target *Target
	host   *Host // nil until it is connected
	req    protocol.Activate
	art    *Artifact // nil: a release of the server's own history
}

// Unchanged says that the release runs there already, with the same settings.
func (o *Offer) Unchanged() bool { return o.Plan.Release == o.Cycle.Serving }

// Close ends the connection, and lets go of the image.
func (o *Offer) Close() {
	if o.art != nil {
		o.art.Close()
	}
	if o.host != nil {
		o.host.Close()
	}
}

// UnprovenError is an image that did not run on the dev machine.
type UnprovenError struct {
	Version string
	Why     string
}

func (e *UnprovenError) Error() string {
	return fmt.Sprintf("image %s is not proven: %s", e.Version, e.Why)
}

// Offer builds the image, brings it to the server and asks what it would do.
// The caller closes the Offer. Beside an error its Cycle tells how far that came.
func (t *Target) Offer(ctx context.Context, u *ui.UI, opts DeployOptions) (*Offer, error) {
	o := &Offer{target: t, Cycle: &Cycle{At: time.Now(), Target: t.Name}}
	return o.begun(o.deployment(ctx, u, opts))
}

// RollbackOptions are choices about one rollback.
type RollbackOptions struct {
	Release  string // "rN" of the server's history, or [protocol.Previous]
	WithData bool   // the data comes back, too, that it ran on last
}

// OfferRelease asks what it would take to bring a release of the server's
// history back. It is like Offer in all else.
func (t *Target) OfferRelease(ctx context.Context, u *ui.UI, opts RollbackOptions) (*Offer, error) {
	o := &Offer{target: t, Cycle: &Cycle{At: time.Now(), Target: t.Name}}
	return o.begun(o.rollback(ctx, u, opts))
}

// begun ends the making of an offer. Whatever went wrong, nothing that runs was
// touched.
func (o *Offer) begun(err error) (*Offer, error) {
	if err == nil {
		return o, nil
	}
	c := o.Cycle
	c.Took = time.Since(c.At)
	if c.fail(err); c.Outcome == protocol.Failed || c.Outcome == HostLost {
		c.Outcome = NotBegun
	}
	if Lost(err) {
		err = hint.Wrap(&NotBegunError{err}, "nothing that runs was touched; run the same command again")
	}
	return o, err
}

func (o *Offer) deployment(ctx context.Context, u *ui.UI, opts DeployOptions) error {
	dev := make(chan devSeen, 1)
	go func() { dev <- o.target.project.askDev(ctx) }()
	if err := o.connect(ctx, u); err != nil {
		return err
	}
	if err := o.build(ctx, u, dev, opts); err != nil {
		return err
	}
	o.req = protocol.Activate{Digest: o.art.Digest.String(), Settings: o.host.settings(), Source: o.art.Source, All: opts.All}
	var err error
	if o.req.Signature, err = o.target.sign(ctx, o.req); err != nil {
		return err
	}
	if err := o.ship(ctx, u); err != nil {
		return err
	}
	err = o.plan(ctx)
	var refused *HostError
	if errors.As(err, &refused) && refused.Code == protocol.CodeNoImage {
		// What the server had of it is gone meanwhile, or damaged.
		o.host.forget(o.art)
		if err := o.ship(ctx, u); err != nil {
			return err
		}
		err = o.plan(ctx)
	}
	if errors.As(err, &refused) && refused.Code == protocol.CodeNoSecret {
		// A host does not know what it is called here.
		err = hint.Wrap(refused, strings.ReplaceAll(hint.Of(err), "[TARGET]", o.target.Name))
	}
	return err
}

func (o *Offer) rollback(ctx context.Context, u *ui.UI, opts RollbackOptions) error {
	if err := o.connect(ctx, u); err != nil {
		return err
	}
	if o.host.Welcome.Current == "" {
		none := &HostError{protocol.CodeNoRelease, fmt.Sprintf("nothing has been released on %s that could be brought back", o.target.Name)}
		return hint.Wrap(none, fmt.Sprintf("`devbox deploy %s` makes the first release", o.target.Name))
	}
	o.req = protocol.Activate{Release: opts.Release, WithData: opts.WithData}
	err := o.plan(ctx)
	var refused *HostError
	if errors.As(err, &refused) && refused.Code == protocol.CodeNoRelease {
		return hint.Wrap(err, fmt.Sprintf("choose another one: `devbox releases %s` lists them", o.target.Name))
	}
	return err
}

func (o *Offer) connect(ctx context.Context, u *ui.UI) (err error) {
	if o.host, err = o.target.Connect(ctx); err == nil && o.host.Welcome.Recovered != "" {
		u.Say("%s: %s", o.target.Name, o.host.Welcome.Recovered)
	}
	return err
}

func shippedText(s Shipped) string {
	switch {
	case s.Wire == 0:
		return "the server has it"
	case s.Base == "":
		return ui.Bytes(s.Wire) + " sent, the whole image compressed"
	}
	return fmt.Sprintf("%s sent, what changed since %s", ui.Bytes(s.Wire), s.Base)
}

// build makes the image for the server, and finds out whether it is proven. dev
// tells what ran on the dev machine, which is asked meanwhile.
func (o *Offer) build(ctx context.Context, u *ui.UI, dev <-chan devSeen, opts DeployOptions) (err error) {
	there := o.host.Welcome.Arch
	if o.art, err = o.buildFor(ctx, u, there); err != nil {
		return err
	}
	o.Cycle.Version = o.art.Version()
	for _, w := range append(o.art.Warnings, o.target.project.Verify(ctx, o.art)...) {
		u.Say("warning: %s", w)
	}
	seen := <-dev
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if seen.arch == "" || seen.arch == there {
		return o.prove(seen, o.art, opts)
	}
	// The server's image cannot run on the dev machine. What the same tree makes
	// for that one can.
	home, err := o.buildFor(ctx, u, seen.arch)
	if err != nil {
		return err
	}
	home.Close()
	err = o.prove(seen, home, opts)
	o.Proof = fmt.Sprintf("for %s, from the same tree as %s for %s, which %s", there, home.Version(), seen.arch, o.Proof)
	return err
}

func (o *Offer) buildFor(ctx context.Context, u *ui.UI, arch string) (*Artifact, error) {
	s := u.Step("build for %s", arch)
	a, err := o.target.project.Build(ctx, arch, o.Cycle.ended)
	return a, s.End(err, "")
}

// devSeen is what the dev machine tells about what ran on it.
type devSeen struct {
	arch string
	all  []protocol.Release // newest first
	why  string             // it could not be asked
}

func (p *Project) askDev(ctx context.Context) devSeen {
	h, err := p.Connect(ctx)
	if err != nil {
		return devSeen{why: "the dev machine cannot be asked: " + err.Error()}
	}
	defer h.Close()
	all, err := h.Releases(ctx)
	if err != nil {
		return devSeen{why: "the dev machine does not tell: " + err.Error()}
	}
	return devSeen{arch: h.Welcome.Arch, all: all}
}

// green finds the release that an image was kept as on the dev machine, and
// otherwise says why there is none.
func (d devSeen) green(digest string) (id, why string) {
	switch {
	case d.why != "":
		return "", d.why
	case len(d.all) == 0:
		return "", "nothing has run on the dev machine yet"
	}
	why = "the source has changed since it last ran on the dev machine"
	for _, r := range d.all {
		switch {
		case r.Digest != digest:
		case r.Outcome == protocol.Committed:
			return r.ID, ""
		case r.Cause != "":
			why = "it was not kept on the dev machine (" + r.ID + ": " + r.Cause + ")"
		}
	}
	return "", why
}

func (o *Offer) prove(dev devSeen, a *Artifact, opts DeployOptions) error {
	id, why := dev.green(a.Digest.String())
	switch {
	case id != "":
		o.Proof = "ran on the dev machine as " + id
	case opts.Unproven:
		o.Proof = "is not proven: " + why
	default:
		return hint.Wrap(&UnprovenError{a.Version(), why}, "run `devbox up` to try it at home first, or give --allow-unproven")
	}
	return nil
}

func (o *Offer) ship(ctx context.Context, u *ui.UI) error {
	ctx, cancel := context.WithTimeoutCause(ctx, shipLimit, fmt.Errorf("not sent within %s", shipLimit))
	defer cancel()
	s := u.Step("ship %s, %s", o.art.Version(), ui.Bytes(o.art.Size))
	begin := time.Now()
	sent, err := o.host.Ship(ctx, o.art)
	o.Cycle.Wire += sent.Wire
	o.Cycle.ended(protocol.Phase{Name: "ship", Took: time.Since(begin)})
	return s.End(err, shippedText(sent))
}

// shipLimit bounds sending an image over a slow line.
const shipLimit = 30 * time.Minute

// plan asks the server what the activation would do.
func (o *Offer) plan(ctx context.Context) error {
	h := o.host
	o.req.App, o.req.By, o.req.Keep = h.project.Config.Name, whoAmI(), o.target.Keep
	ask := o.req
	ask.DryRun = true
	result, err := h.Activate(ctx, ask, nil)
	if err != nil {
		return err
	}
	// What was agreed to is what is done, or nothing.
	if o.req.Instead = result.Serving; o.req.Instead == "" {
		o.req.Instead = protocol.NoRelease
	}
	if result.Plan.Of != "" {
		o.req.Release = result.Plan.Of
	}
	o.Plan = result.Plan
	o.Cycle.Version, o.Cycle.Of, o.Cycle.Data = short(result.Plan.Digest), result.Plan.Of, result.Plan.Data
	o.Cycle.Outcome, o.Cycle.Release, o.Cycle.Serving = result.Outcome, result.Release, result.Serving
	o.Cycle.Migration = result.Migration
	o.Cycle.planned(result.Plan)
	return nil
}

// Accept activates what was offered. A release that was not kept is a
// [RolledBackError]. A connection that is lost meanwhile changes nothing on the
// server; Accept connects again to find out how it ended.
func (o *Offer) Accept(ctx context.Context, u *ui.UI) (err error) {
	c := o.Cycle
	defer func() {
		c.Took = time.Since(c.At)
		if err == nil {
			return
		}
		c.fail(err)
		if !Lost(err) && errors.As(err, new(*HostError)) || errors.Is(err, errNeverBegan) {
			c.Outcome = NotBegun
		}
	}()
	s := u.Step("activate %s", o.Plan.Release)
	result, err := o.activate(ctx, u, s)
	if err == nil {
		c.Outcome, c.Release, c.Serving, c.Failure = result.Outcome, result.Release, result.Serving, result.Failure
		c.Migration = result.Migration
		if result.Outcome != protocol.Committed && result.Outcome != protocol.Unchanged {
			err = &RolledBackError{result, o.target.Name}
		}
	}
	if s.End(err, "") != nil {
		return err
	}
	if o.art != nil {
		// Only the next delta is larger without it.
		if kerr := o.target.shipped().keepOnly(o.art); kerr != nil {
			u.Say("note: the image is not kept here to send changes against: %v", kerr)
		}
	}
	return nil
}

// activateTime is what an activation may take beside deadline and trial: what
// ran before has to end, and may have to come back.
const activateTime = 5*time.Minute + protocol.PrepareTime

// fetchTime is what copying a snapshot may take on top of that.
const fetchTime = 10 * time.Minute

func (o *Offer) activate(ctx context.Context, u *ui.UI, s *ui.Step) (protocol.Result, error) {
	stop := context.AfterFunc(ctx, func() {
		u.Say("finishing the release that is on its way; a second Ctrl-C leaves that to the server")
	})
	defer stop()
	limit := 2*o.Plan.Within + activateTime
	if !o.Plan.Data.IsZero() {
		limit += fetchTime
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), limit, hint.Errorf(o.tells(), "%w: it did not answer within %s", ErrLost, limit))
	defer cancel()
	here := len(o.Cycle.Phases)
	result, err := o.host.Activate(ctx, o.req, func(e protocol.Event) {
		o.Cycle.hear(e)
		if e.Plan != nil {
			o.Plan = *e.Plan
		}
		if e.Phase != nil {
			s.Note("%s", phaseNote(*e.Phase))
		}
	})
	if Lost(err) && ctx.Err() == nil {
		u.Say("connection to %s lost; what the server has begun it brings to an end by itself", o.target.Name)
		result, err = o.findOut(ctx, err)
	}
	var refused *HostError
	if errors.As(err, &refused) && refused.Code == protocol.CodeNoImage {
		return result, hint.Wrap(err, "another deployment has made room meanwhile; run the same command again")
	}
	if err == nil && len(result.Phases) > 0 {
		o.Cycle.Phases = append(o.Cycle.Phases[:here], result.Phases...)
	}
	return result, err
}

// tells is what to do about an end that is not known.
func (o *Offer) tells() string {
	return fmt.Sprintf("`devbox releases %s` tells what became of it, once the server is reached again", o.target.Name)
}

// phaseNote says what has ended, or of a trial that it has begun.
func phaseNote(p protocol.Phase) string {
	if p.Name == "trial" && p.Took == 0 {
		return "on trial"
	}
	return p.Name
}

// Releases asks for the history of the app, newest first.
func (h *Host) Releases(ctx context.Context) ([]protocol.Release, error) {
	var all []protocol.Release
	err := h.do(ctx, protocol.Request{Releases: &protocol.ReleasesOf{App: h.project.Config.Name}}, nil, func(e protocol.Event) {
		if e.Releases != nil {
			all = *e.Releases
		}
	})
	return all, err
}

// short is the version that a digest gives an image.
func short(digest string) string { return digest[:min(12, len(digest))] }
