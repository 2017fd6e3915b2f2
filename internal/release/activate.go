package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"devbox/internal/hint"
	"devbox/internal/image"
	"devbox/internal/protocol"
	"devbox/internal/secret"
)

// Activate makes a received image what the app runs, or leaves what ran before
// running. event is told of the plan, of each phase, and last of the Result;
// after that, Activate still cleans up. Once begun it is not interrupted by
// ctx: half a switch is worse than a finished one.
func (h *Host) Activate(ctx context.Context, req protocol.Activate, event func(protocol.Event)) error {
	a, err := h.open(req.App)
	if err != nil {
		return err
	}
	who := req.By
	if who == "" {
		who = "another session"
	}
	unlock, err := a.lock(ctx, who, lockWait)
	if err != nil {
		return err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx)
	h.shelter(ctx, req.App)
	if _, err := a.recover(ctx, Online); err != nil {
		return fmt.Errorf("finish what was interrupted: %w", err)
	}
	rep := newReport(event)
	act, err := a.prepare(ctx, req, rep)
	if err != nil {
		return err
	}
	if req.DryRun {
		act.answer(protocol.Result{Outcome: protocol.Planned, Serving: act.serving(), Migration: act.finds})
		return nil
	}
	if act.same {
		return act.leave(ctx)
	}
	return act.change(ctx)
}

// activation is one on its way.
type activation struct {
	*app
	state state
	was   target // what runs, as far as its image is there
	to    target
	plan  Plan
	seen  seen
	same  bool // the release runs already
	// renewed says that it does, and that what is kept of it is new all the same.
	renewed bool
	finds   *protocol.Migration // what a release of the history finds of its data
	snap    *snapshot           // of the data as it is, to be made or to be what is put aside; nil for none
	back    *snapshot           // to be brought back, nil for none
	rep     *report
}

// prepare finds out what is to be done. It changes nothing.
func (a *app) prepare(ctx context.Context, req protocol.Activate, rep *report) (*activation, error) {
	st, err := a.readState()
	if err != nil {
		return nil, err
	}
	act := &activation{app: a, state: st, rep: rep}
	next, err := act.choose(ctx, req)
	if err != nil {
		return nil, err
	}
	reasons, diff, err := act.compare(next)
	if err != nil {
		return nil, missing(req, err)
	}
	switch {
	case req.WithData:
		restartAll(reasons, act.to, "its data is exchanged")
	case req.All:
		restartAll(reasons, act.to, "restart of everything was asked for")
	}
	if err := a.foreign(act.to); err != nil {
		return nil, err
	}
	// What runs already has been started with what it has.
	if !act.same {
		if err := secret.Check(a.root, a.name, act.to.images()); err != nil {
			return nil, &CodedError{protocol.CodeNoSecret, err}
		}
	}
	if act.seen, err = a.observe(ctx, act.to); err != nil {
		return nil, err
	}
	if err := act.foresee(ctx, req); err != nil {
		return nil, err
	}
	down := DownNudge
	if act.same {
		down = DownRestart
	}
	act.plan = makePlan(a.place, act.to, act.seen, reasons, down)
	health := next.Settings.Health
	act.plan.Public.Release, act.plan.Public.Of = next.ID, next.Of
	act.plan.Public.Digest, act.plan.Public.Source = next.Digest, next.Source
	act.plan.Public.Within = deadlineOf(health) + next.Settings.Trial
	act.plan.Public.First = st.Current == nil
	act.plan.Public.Changed = edits(diff)
	if act.back != nil {
		act.plan.Public.Data = act.back.At
	}
	if act.plan.Attach {
		if err := a.checkProfile(ctx, act.to.profile()); err != nil {
			return nil, err
		}
	}
	rep.phase("compare")
	rep.event(protocol.Event{Plan: &act.plan.Public})
	return act, nil
}

// choose settles which release is meant, that it may run and that its image is
// there.
func (act *activation) choose(ctx context.Context, req protocol.Activate) (protocol.Release, error) {
	cur, keep := act.state.Current, act.state.Keep
	if runs := cmp.Or(act.serving(), protocol.NoRelease); req.Instead != "" && req.Instead != runs {
		return protocol.Release{}, &CodedError{protocol.CodeChanged, hint.Errorf("run the same command again: it makes a new plan",
			"%s runs here now, and not %s as when this was planned", runs, req.Instead)}
	}
	next, err := act.requested(req, act.state)
	if err != nil {
		return next, err
	}
	last, err := act.lastID()
	if err != nil {
		return next, err
	}
	next.ID, next.By, next.At = "r"+strconv.Itoa(last+1), req.By, time.Now().UTC().Truncate(time.Second)
	if req.Keep > 0 {
		act.state.Keep = req.Keep
	}
	if cur != nil && same(*cur, next) && !req.All && !req.WithData {
		act.same = true
		signature := next.Signature
		if next = *cur; signature != "" {
			next.Signature = signature
		}
		act.renewed = act.state.Keep != keep || next.Signature != cur.Signature
	}
	// Before anything is read of an image that nobody may have vouched for.
	signer, err := act.permit(ctx, next)
	if err != nil {
		return next, err
	}
	if signer != "" {
		next.SignedBy = signer
	}
	if _, err := act.sumsOf(ctx, next.Digest); err != nil {
		return next, missing(req, err)
	}
	return next, nil
}

// lastID is the number of the newest release, or snapshot: there is one of a release
// that never began where its activation was cut off before the journal was written.
func (act *activation) lastID() (int, error) {
	last := act.state.Last
	names, err := namesIn(act.snapshots())
	for _, name := range names {
		last = max(last, number(filepath.Base(name)))
	}
	return last, err
}

// missing gives the error of a request whose image is not there the code by
// which the client knows what to do.
func missing(req protocol.Activate, err error) error {
	switch {
	case !errors.Is(err, errNoImage):
		return err
	case req.Release != "":
		return noRelease(fmt.Errorf("the image of %s is gone: %w", req.Release, err))
	}
	return hint.Wrap(&CodedError{protocol.CodeNoImage, err}, "send it first")
}

// compare reads the units of the release and of the one that runs, and what
// changes between their images.
func (act *activation) compare(next protocol.Release) (map[string]why, image.Diff, error) {
	none := image.Diff{}
	img, err := act.openImage(next.Digest)
	if err != nil {
		return nil, none, err
	}
	defer img.Close()
	if act.to, err = targetOf(img, act.name, next); err != nil {
		return nil, none, err
	}
	if err := checkable(img.FS(), next.Settings.State); err != nil {
		return nil, none, err
	}
	cur := act.state.Current
	if cur == nil {
		return allOf(act.to, "first release"), none, nil
	}
	old, err := act.openImage(cur.Digest)
	if errors.Is(err, errNoImage) {
		return allOf(act.to, "the image that runs is no longer on disk to compare with"), none, nil
	}
	if err != nil {
		return nil, none, err
	}
	defer old.Close()
	act.was, err = targetOf(old, act.name, protocol.Release{Digest: cur.Digest})
	if err != nil {
		return nil, none, err
	}
	diff := none
	if cur.Digest != next.Digest {
		if diff, err = image.Compare(old, img, act.sameBytes(cur.Digest, next.Digest)); err != nil {
			return nil, none, err
		}
	}
	return reasonsOf(image.Affected(act.was.images(), act.to.images(), diff)), diff, nil
}

// sameBytes knows from the sums beside two images where they are equal, so that
// comparing them reads only the blocks that differ.
func (a *app) sameBytes(old, new string) image.Same {
	was, is := a.knownSums(short(old)), a.knownSums(short(new))
	if was == nil || is == nil {
		return nil
	}
	return func(at, n int64) bool { return was.Same(is, at, n) }
}

func (t target) images() []image.Unit {
	var units []image.Unit
	for _, u := range t.Units {
		units = append(units, u.Unit)
	}
	return units
}

func allOf(t target, text string) map[string]why {
	m := map[string]why{}
	for _, u := range t.Units {
		m[u.Name] = why{Restart: true, Text: text}
	}
	return m
}

// restartAll has all services of a target restart.
func restartAll(reasons map[string]why, t target, text string) {
	for _, u := range t.Units {
		if u.Type == "service" {
			reasons[u.Name] = why{Restart: true, Text: text}
		}
	}
}

func (act *activation) serving() string {
	if act.state.Current != nil {
		return act.state.Current.ID
	}
	return ""
}

// answer sends the result, as the last event of the request.
func (act *activation) answer(r protocol.Result) {
	r.Release = act.to.Release.ID
	r.Plan, r.Phases = act.plan.Public, act.rep.phases
	act.noteResult(act.name, act.to.Release, r)
	act.rep.event(protocol.Event{Result: &r, Done: true})
}

// leave makes sure that what runs already does run.
func (act *activation) leave(ctx context.Context) error {
	r := protocol.Result{Outcome: protocol.Unchanged, Serving: act.to.Release.ID}
	if !act.plan.Empty() {
		if err := act.carryOut(ctx, act.to, &act.plan, act.rep); err != nil {
			r.Outcome, r.Failure = protocol.Failed, failure(err)
		}
	}
	if !act.renewed {
		act.answer(r)
		return nil
	}
	st := act.state
	st.Current = &act.to.Release
	if err := writeJSON(act.place.state(), st); err != nil {
		return err
	}
	act.answer(r)
	return act.finish(st, act.to.Release, protocol.Committed)
}

// change goes to the new release, and back if it is no good.
func (act *activation) change(ctx context.Context) error {
	j := journal{From: act.state.Current, To: act.to.Release, Plan: act.plan.Public, Before: map[string]string{}}
	for name, st := range act.seen.states() {
		switch {
		case st.up():
			j.Before[name] = st.Invocation
		case !st.gone():
			j.Unwell = append(j.Unwell, name)
		}
	}
	if act.plan.Reload {
		if err := act.remember(&j, act.to); err != nil {
			return err
		}
	}
	if err := act.takeSnapshot(ctx); err != nil {
		return err
	}
	var err error
	if j.Swap, err = act.fetchData(ctx); err != nil {
		return err
	}
	act.plan.Swap = j.Swap
	if err := writeJSON(act.place.journal(), j); err != nil {
		return err
	}
	crashpoint("journal")
	act.rep.phase("journal")
	err = act.install(ctx, act.to, &act.plan, act.rep)
	if err == nil {
		err = act.run(ctx, act.to, &act.plan, act.rep, graceful)
	}
	if err == nil && act.to.Release.Settings.Trial > 0 {
		act.rep.event(protocol.Event{Phase: &protocol.Phase{Name: "trial"}})
		crashpoint("trial")
		if err = act.trial(ctx, act.to, &act.plan, j.Before); err == nil {
			act.rep.phase("trial")
		}
	}
	if err != nil {
		return act.giveUp(ctx, &j, err)
	}
	crashpoint("healthy")
	if act.plan.Reload {
		if err := act.syncUnits(act.to); err != nil {
			return act.giveUp(ctx, &j, err)
		}
	}
	st, err := act.commit(act.state, j.To)
	if err != nil {
		return act.giveUp(ctx, &j, err)
	}
	crashpoint("committed")
	act.rep.phase("commit")
	act.answer(protocol.Result{Outcome: protocol.Committed, Serving: j.To.ID, Migration: act.finds})
	return act.finish(st, j.To, protocol.Committed)
}

// giveUp brings the release before back and says so.
func (act *activation) giveUp(ctx context.Context, j *journal, cause error) error {
	r := protocol.Result{Outcome: protocol.RolledBack, Serving: act.serving(), Failure: failure(cause)}
	act.rep.phase("failure")
	// Whoever finishes this has the cause then. A disk that takes it no more is
	// no reason not to go back.
	j.To.Cause = printable(r.Failure.Cause)
	_ = writeJSON(act.place.journal(), j)
	crashpoint("gave-up")
	err := act.undo(ctx, j)
	if err != nil && !undone(err) {
		// The journal stays: units may run the one and files be of the other.
		r.Outcome = protocol.Failed
		r.Failure.Cause += fmt.Sprintf("; going back failed too, the next session tries it again: %v", err)
		act.rep.phase("rollback")
		act.answer(r)
		return nil
	}
	if err != nil {
		r.Outcome = protocol.Failed
		r.Failure.Cause += fmt.Sprintf("; %s was put back but is not well either: %v", j.From.ID, err)
	}
	if j.From == nil {
		r.Outcome = protocol.Failed
	}
	if j.From != nil {
		if r.Migration = act.migrated(ctx, *j.From); r.Migration != nil {
			r.Failure.Cause += "; " + r.Migration.String()
		}
	}
	act.rep.phase("rollback")
	st := act.state
	st.Last = number(j.To.ID)
	if werr := writeJSON(act.place.state(), st); werr != nil {
		// The journal stays, and the next session does all of this again.
		r.Failure.Cause += fmt.Sprintf("; this is noted by the next session, now it cannot be: %v", werr)
		act.answer(r)
		return nil
	}
	act.answer(r)
	j.To.Cause = printable(r.Failure.Cause)
	return act.finish(st, j.To, r.Outcome)
}

// commit makes to the confirmed release. The previous one stays what it is if
// the same was started anew: there is a way back to something else then.
func (a *app) commit(st state, to protocol.Release) (state, error) {
	to.Outcome = protocol.Committed
	if st.Current != nil && !same(*st.Current, to) {
		st.Previous = st.Current
	}
	st.Current, st.Last = &to, number(to.ID)
	return st, writeJSON(a.place.state(), st)
}

// finish writes the history, drops the journal and deletes old images. Nothing
// of it is needed for what runs.
func (a *app) finish(st state, r protocol.Release, outcome string) error {
	r.Outcome = outcome
	if err := a.addHistory(r); err != nil {
		return err
	}
	crashpoint("history")
	j, err := a.readJournal()
	if err != nil {
		return err
	}
	if j != nil {
		if err := a.endSwap(j.Swap, r); err != nil {
			return err
		}
	}
	if err := removeIfThere(a.place.journal()); err != nil {
		return err
	}
	crashpoint("dropped")
	return a.collect(st)
}
