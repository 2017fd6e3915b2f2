package release

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"devbox/internal/protocol"
)

// statusLines of the log of a unit that is not well are shown.
const statusLines = 3

// Status is the state of an app, asked of systemd and the disk.
func (h *Host) Status(ctx context.Context, name string) (protocol.Status, error) {
	a, err := h.open(name)
	if err != nil {
		return protocol.Status{}, err
	}
	out := protocol.Status{App: name}
	st, err := a.readState()
	if err != nil {
		return out, err
	}
	out.Current, out.Previous = st.Current, st.Previous
	j, err := a.readJournal()
	if err != nil {
		return out, err
	}
	var problems []string
	if judge(st, j) == undo {
		problems = append(problems, "the activation of "+j.To.ID+" is under way or was interrupted")
	}
	var s seen
	var t target
	if st.Current != nil {
		if t, s, err = a.look(ctx, *st.Current); err != nil {
			problems = append(problems, err.Error())
		} else if err := a.verify(t); err != nil {
			problems = append(problems, err.Error())
		}
	} else if s, err = a.observe(ctx, target{Release: protocol.Release{Digest: strings.Repeat("0", 64)}}); err != nil {
		return out, err
	}
	logged := a.errors(ctx, s)
	for unit, u := range s.Units {
		if isTemplate(unit) {
			continue
		}
		us := protocol.UnitStatus{Unit: unit, Active: u.State.Active, Sub: u.State.Sub, Since: u.State.Since,
			MainPID: u.State.MainPID, Memory: u.State.Memory}
		f, ours := t.unit(unit)
		missing := ours && t.wanted(f) && u.State.gone()
		by, its := "", UnitState{}
		if missing {
			by, its = hindrance(ctx, a.sys, u.State)
		}
		switch {
		case by != "":
			us.Problem = by + ", which it requires, " + ending(its)
		case u.State.Active == "failed" || u.State.Sub == "auto-restart":
			us.Problem = ending(u.State)
		case missing:
			us.Problem = "should be running"
		case logged[u.State.Invocation] != "":
			us.Problem = "logs errors"
			us.Log = []string{logged[u.State.Invocation]}
		case u.State.Restarts == 1:
			us.Problem = "restarted once by itself"
		case u.State.Restarts > 1:
			// Since it was started last: an activation that restarts it sets this back.
			us.Problem = fmt.Sprintf("restarted %d times by itself", u.State.Restarts)
		}
		if u.State.Active == "failed" || u.State.Active == "activating" {
			log := a.logOf(ctx, unit, u.State)
			us.Log = log[max(len(log)-statusLines, 0):]
		}
		out.Units = append(out.Units, us)
	}
	slices.SortFunc(out.Units, func(x, y protocol.UnitStatus) int { return strings.Compare(x.Unit, y.Unit) })
	out.Problem = strings.Join(problems, "; ")
	return out, nil
}

// freshErrors are those that count: who replicates, say, is up and tries again
// with the wrong keys for ever, and says so in its log alone.
const freshErrors = time.Minute

// errors are the newest errors that running units have logged, by invocation.
// It is best effort.
func (a *app) errors(ctx context.Context, s seen) map[string]string {
	var running []string
	for unit, u := range s.Units {
		if strings.HasSuffix(unit, ".service") && u.State.up() && u.State.Invocation != "" {
			running = append(running, u.State.Invocation)
		}
	}
	logged, err := a.sys.Errors(ctx, running, freshErrors)
	if err != nil {
		return nil
	}
	return logged
}

// Units lists the units of an app that systemd has, for reading their logs.
func (h *Host) Units(name string) ([]string, error) {
	a, err := h.open(name)
	if err != nil {
		return nil, err
	}
	set, err := a.attachedUnits()
	if err != nil {
		return nil, err
	}
	var units []string
	for unit := range set {
		units = append(units, unit)
	}
	slices.Sort(units)
	return units, nil
}
