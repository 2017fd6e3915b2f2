package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"devbox/internal/protocol"
)

// When says in which state of the host something is put right.
type When int

const (
	// Online is when systemd is up: what should run is started.
	Online When = iota
	// AtBoot is before the app's units start, and before portabled can: what was
	// interrupted is dealt with, and systemd starts the units.
	AtBoot
)

// verdict is what is to be done about a journal that was found.
type verdict int

const (
	nothing  verdict = iota // there is no journal
	complete                // the release was committed: only the cleaning up is missing
	undo                    // it was not
)

// judge decides about an interrupted activation, from what is on disk alone.
func judge(st state, j *journal) verdict {
	switch {
	case j == nil:
		return nothing
	case st.Current != nil && st.Current.ID == j.To.ID:
		return complete
	}
	return undo
}

// Hello finishes or undoes an interrupted activation and attaches again what
// portabled lost, and says what it did. If the app is being changed right now,
// it leaves that alone.
func (h *Host) Hello(ctx context.Context, name string) (string, error) {
	a, err := h.open(name)
	if err != nil {
		return "", err
	}
	unlock, err := a.lock(ctx, "a session that is being opened", 0)
	var coded *CodedError
	if errors.As(err, &coded) && coded.Code == protocol.CodeBusy {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := h.sys.Sweep(ctx); err != nil {
		return "", err
	}
	return a.recover(context.WithoutCancel(ctx), Online)
}

// Recover is Hello and starts what is down, and says each thing that it did.
func (h *Host) Recover(ctx context.Context, name string, when When) ([]string, error) {
	a, err := h.open(name)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(a.dir()); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	unlock, err := a.lock(ctx, "devbox-host recover", lockWait)
	if err != nil {
		return nil, err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx)
	if when == Online {
		h.shelter(ctx, name)
	}
	var done []string
	text, err := a.recover(ctx, when)
	if text != "" {
		done = append(done, text)
	}
	if err != nil || when == AtBoot {
		return done, err
	}
	st, err := a.readState()
	if err != nil || st.Current == nil {
		return done, err
	}
	p, err := a.restore(ctx, *st.Current, nil, newReport(nil), DownRestart)
	for _, u := range p.Public.Restart {
		text := "restarted " + u.Unit + ": " + u.Why
		done = append(done, text)
		h.sys.Note(Note{App: name, Text: text, Release: st.Current.ID, Outcome: recovered})
	}
	return done, err
}

// recover deals with a journal that an interrupted activation left, and with
// unit files that are not what the current release wants.
func (a *app) recover(ctx context.Context, when When) (string, error) {
	text, err := a.putRight(ctx, when)
	if text != "" {
		a.sys.Note(Note{App: a.name, Text: text, Outcome: recovered})
	}
	if err != nil {
		a.sys.Note(Note{App: a.name, Text: "cannot be recovered: " + err.Error(), Outcome: protocol.Failed})
	}
	return text, err
}

func (a *app) putRight(ctx context.Context, when When) (string, error) {
	st, err := a.readState()
	if err != nil {
		return "", err
	}
	j, err := a.readJournal()
	if err != nil {
		return "", err
	}
	found := judge(st, j)
	if found != nothing && when == Online {
		a.shelter(ctx, a.name)
	}
	switch found {
	case complete:
		return "completed " + j.To.ID, a.finish(st, *st.Current, protocol.Committed)
	case undo:
		back, runs := a.undo, " runs"
		if when == AtBoot {
			back, runs = a.undoAtBoot, " starts"
		}
		err := back(ctx, j)
		if err != nil && !undone(err) {
			return "", fmt.Errorf("undo %s: %w", j.To.ID, err)
		}
		st.Last = number(j.To.ID)
		if werr := writeJSON(a.place.state(), st); werr != nil {
			return "", werr
		}
		text := "undid " + j.To.ID + ", which was interrupted; nothing ran before"
		if j.From != nil {
			text = "undid " + j.To.ID + ", which was interrupted; " + j.From.ID + runs
		}
		if err != nil {
			text = "undid " + j.To.ID + ", which was interrupted; " + j.From.ID + " was put back but is not well: " + err.Error()
		}
		r, outcome := j.undone(err)
		if j.From != nil && when == Online {
			if m := a.migrated(ctx, *j.From); m != nil {
				text += "; " + m.String()
				r.Cause += "; " + m.String()
			}
		}
		return text, a.finish(st, r, outcome)
	}
	if st.Current == nil || when == AtBoot {
		return "", nil
	}
	return a.repairFiles(ctx, *st.Current)
}

// repairFiles puts back unit files, drop-ins and the attached image if
// something else than devbox has changed or lost them.
func (a *app) repairFiles(ctx context.Context, cur protocol.Release) (string, error) {
	t, s, err := a.look(ctx, cur)
	if errors.Is(err, errNoImage) {
		return "the image of " + cur.ID + " is no longer on the host; the next release brings one", nil
	}
	if err != nil {
		return "", err
	}
	var reasons map[string]why
	if _, err := os.Lstat(a.attached()); err == nil && !s.Linked {
		// Whoever put another image there may have started services from it.
		reasons = map[string]why{}
		for _, u := range t.Units {
			if u.Type == "service" {
				reasons[u.Name] = why{Restart: true, Text: "another image was in place"}
			}
		}
	}
	p := makePlan(a.place, t, s, reasons, DownRestart)
	if !p.Switch && !p.Reload {
		return "", nil
	}
	a.shelter(ctx, a.name)
	text := "put the unit files and the image of " + cur.ID + " back in place"
	if err := a.carryOut(ctx, t, &p, newReport(nil)); undone(err) {
		text += ", but it is not well: " + err.Error()
	} else if err != nil {
		return "", fmt.Errorf("put %s back in place: %w", cur.ID, err)
	}
	return text, nil
}

// undone says of the error of going back to a release that all of it is done
// that can be: the release is in place and not well, or its image is gone.
// Trying again would not cure that, and must not keep the next release away.
func undone(err error) bool {
	return errors.As(err, new(*fault)) || errors.Is(err, errNoImage)
}

func (a *app) carryOut(ctx context.Context, t target, p *Plan, rep *report) error {
	if err := a.install(ctx, t, p, rep); err != nil {
		return err
	}
	if p.Reload {
		if err := a.syncUnits(t); err != nil {
			return err
		}
	}
	return a.run(ctx, t, p, rep, stopGrace)
}

// look reads a release's units and what the host has of them.
func (a *app) look(ctx context.Context, r protocol.Release) (target, seen, error) {
	img, err := a.openImage(r.Digest)
	if err != nil {
		return target{}, seen{}, err
	}
	defer img.Close()
	t, err := targetOf(img, a.name, r)
	if err != nil {
		return target{}, seen{}, err
	}
	s, err := a.observe(ctx, t)
	return t, s, err
}

// undo brings back what ran before an activation.
func (a *app) undo(ctx context.Context, j *journal) error {
	if err := a.swapTo(j.Swap, before); err != nil {
		return err
	}
	if j.From == nil {
		added, err := a.added(j)
		if err != nil {
			return err
		}
		return a.dismantle(ctx, added)
	}
	_, err := a.restore(ctx, *j.From, j, newReport(nil), DownNudge)
	return err
}

// restore brings a release back. j, if there is one, is the activation that is
// to be undone: what it did not touch is left alone.
func (a *app) restore(ctx context.Context, r protocol.Release, j *journal, rep *report, down Down) (Plan, error) {
	t, s, err := a.look(ctx, r)
	if err != nil {
		return Plan{}, err
	}
	var reasons map[string]why
	if j != nil {
		added, err := a.added(j)
		if err != nil {
			return Plan{}, err
		}
		for _, unit := range added {
			if s.has(unit) {
				continue
			}
			if s.Units[unit], err = a.observeUnit(ctx, t, unit); err != nil {
				return Plan{}, err
			}
		}
		reasons = touched(s, j, r.ID)
	}
	p := makePlan(a.place, t, s, reasons, down)
	if j != nil && j.Plan.Reload {
		// What is enabled, and what systemd has read, does not show in the files.
		p.Enable, p.Reload = t.enabled(), true
	}
	if err := a.stopHung(ctx, t, &p, s); err != nil {
		return p, err
	}
	return p, a.carryOut(ctx, t, &p, rep)
}

// touched finds the units that an activation has stopped, started or restarted.
// Those that were not well before are left to systemd, which tries them again, but
// for one that may have been started with data that is no longer in place.
func touched(s seen, j *journal, id string) map[string]why {
	m := map[string]why{}
	back := why{Restart: true, Ran: true, Text: "back to " + id}
	for name, st := range s.states() {
		invocation, ran := j.Before[name]
		if ran && !st.up() || !st.gone() && st.Invocation != invocation && (j.Swap != nil || !slices.Contains(j.Unwell, name)) {
			m[name] = back
		}
	}
	// Instances that ended are not loaded any more.
	for name := range j.Before {
		if tmpl := templateOf(name); tmpl != name && s.has(tmpl) {
			if _, there := s.Units[tmpl].Instances[name]; !there {
				m[name] = back
			}
		}
	}
	return m
}

// hungGrace is what a unit gets to stop that never became ready.
const hungGrace = 500 * time.Millisecond

// stopHung ends units that are on their way up or down: a restart would wait
// for them as long as their unit files allow.
func (a *app) stopHung(ctx context.Context, t target, p *Plan, s seen) error {
	var hung []string
	for _, name := range p.Restart {
		if st := s.Units[name].State; !st.up() && !st.gone() {
			hung = append(hung, name)
		}
	}
	for name, u := range s.Units {
		if _, ok := t.unit(name); !ok && !u.State.gone() {
			hung = append(hung, name)
		}
	}
	return a.stop(ctx, hung, hungGrace)
}
