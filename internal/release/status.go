package release

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"devbox/internal/protocol"
)

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
	for unit, u := range s.Units {
		if isTemplate(unit) {
			continue
		}
		us := protocol.UnitStatus{Unit: unit, Active: u.State.Active, Sub: u.State.Sub, Since: u.State.Since,
			MainPID: u.State.MainPID, Memory: u.State.Memory}
		f, ours := t.unit(unit)
		switch {
		case u.State.Active == "failed" || u.State.Sub == "auto-restart":
			us.Problem = ending(u.State)
		case ours && t.wanted(f) && u.State.gone():
			us.Problem = "should be running"
		case u.State.Restarts == 1:
			us.Problem = "restarted once by itself"
		case u.State.Restarts > 1:
			// Since it was started last: an activation that restarts it sets this back.
			us.Problem = fmt.Sprintf("restarted %d times by itself", u.State.Restarts)
		}
		out.Units = append(out.Units, us)
	}
	slices.SortFunc(out.Units, func(x, y protocol.UnitStatus) int { return strings.Compare(x.Unit, y.Unit) })
	out.Problem = strings.Join(problems, "; ")
	return out, nil
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
