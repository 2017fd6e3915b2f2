package release

import (
	"context"
	"fmt"
	"slices"
	"time"

	"devbox/internal/protocol"
)

// graceful leaves a service the time to stop that its unit file gives it.
const graceful time.Duration = 0

// stopGrace is what a service of a release that is being given up gets.
const stopGrace = 2 * time.Second

// logLines of a failed unit are shown.
const logLines = 20

// job is one that systemd is working on.
type job struct {
	unit   string
	result <-chan string
}

func (a *app) queueAll(ctx context.Context, verb Verb, units []string) ([]job, error) {
	var jobs []job
	for _, unit := range units {
		ch, err := a.sys.Queue(ctx, verb, unit)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, job{unit, ch})
	}
	return jobs, nil
}

// stop stops units and waits until they have. Those that take longer than
// hurry, or than their own TimeoutStopSec= if that is graceful, are killed.
func (a *app) stop(ctx context.Context, units []string, hurry time.Duration) error {
	units = slices.DeleteFunc(slices.Clone(units), isTemplate)
	jobs, err := a.queueAll(ctx, Stop, units)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if err := a.awaitStop(ctx, j, hurry); err != nil {
			return err
		}
	}
	return nil
}

// killWait is how long systemd gets to notice that a killed unit is gone.
const killWait = 10 * time.Second

func (a *app) awaitStop(ctx context.Context, j job, hurry time.Duration) error {
	limit := hurry
	if hurry == graceful {
		st, err := a.sys.Unit(ctx, j.unit)
		if err != nil {
			return err
		}
		limit = st.stopLimit()
	}
	select {
	case <-j.result:
		return nil
	case <-time.After(limit):
	}
	if err := a.sys.Kill(ctx, j.unit); err != nil {
		return err
	}
	select {
	case <-j.result:
		return nil
	case <-time.After(killWait):
		return fmt.Errorf("stop %s: it is still there %s after it was killed", j.unit, killWait)
	}
}

// restartAll restarts units, all jobs at once so that systemd orders them, and
// waits until each is ready. limit is for getting ready, and begins at the returned
// time: that which an old process takes to end does not count, but it is killed if
// that is longer than hurry, or than its own TimeoutStopSec= if that is graceful.
func (a *app) restartAll(ctx context.Context, units []string, limit, hurry time.Duration) (counts time.Time, err error) {
	jobs, err := a.queueAll(ctx, Restart, units)
	if err != nil {
		return counts, err
	}
	w := waiter{app: a, limit: limit, hurry: hurry, began: time.Now(), last: time.Now(), ending: map[string]time.Time{}, killed: map[string]bool{}}
	for len(jobs) > 0 {
		left, err := w.round(ctx, jobs)
		if err != nil {
			return counts, err
		}
		jobs = left
	}
	if w.prepared { // since when is not known so exactly
		return time.Now(), nil
	}
	return w.last, nil
}

type waiter struct {
	*app
	limit, hurry time.Duration
	began        time.Time
	last         time.Time            // when time that does not count was last seen to pass
	prepared     bool                 // that was the time of oneshots
	ending       map[string]time.Time // when each was first seen to be
	killed       map[string]bool
}

// round waits for the first of jobs, or a moment, and returns those left.
func (w *waiter) round(ctx context.Context, jobs []job) ([]job, error) {
	select {
	case result := <-jobs[0].result:
		return jobs[1:], w.ended(ctx, jobs[0].unit, result)
	case <-time.After(50 * time.Millisecond):
	}
	// One that failed may be what the first waits for.
	for i, j := range jobs {
		select {
		case result := <-j.result:
			return slices.Delete(slices.Clone(jobs), i, i+1), w.ended(ctx, j.unit, result)
		default:
		}
	}
	for _, j := range jobs {
		st, err := w.sys.Unit(ctx, j.unit)
		if err != nil {
			return nil, err
		}
		if st.Active != "deactivating" {
			continue
		}
		w.last = time.Now()
		if w.ending[j.unit].IsZero() {
			w.ending[j.unit] = w.last
		}
		limit := w.hurry
		if limit == graceful {
			limit = st.stopLimit()
		}
		if time.Since(w.ending[j.unit]) > limit && !w.killed[j.unit] {
			w.killed[j.unit] = true
			if err := w.sys.Kill(ctx, j.unit); err != nil {
				return nil, err
			}
		}
	}
	if time.Since(w.last) < w.limit {
		return jobs, nil
	}
	late := jobs[0].unit
	for _, j := range jobs {
		st, err := w.sys.Unit(ctx, j.unit)
		if err != nil {
			return nil, err
		}
		by, its := hindrance(ctx, w.sys, st)
		if by == "" {
			continue
		}
		late = j.unit
		if its.Type == "oneshot" && its.Active == "activating" && time.Since(w.began) < protocol.PrepareTime {
			w.last, w.prepared = time.Now(), true
			return jobs, nil
		}
	}
	return nil, w.fault(ctx, late, fmt.Sprintf("%s was not ready within %s", late, w.limit))
}

func (w *waiter) ended(ctx context.Context, unit, result string) error {
	switch result {
	case "done", "skipped": // skipped: a Condition*= of the unit does not hold
		return nil
	case "canceled":
		// A person, or a unit that this one is bound to, has put another job in
		// its place. What counts is what comes of it.
		return w.becomesUp(ctx, unit)
	case "dependency":
		return w.fault(ctx, unit, unit+" was not started: a unit that it requires failed")
	case "timeout":
		return w.fault(ctx, unit, fmt.Sprintf("%s was not ready within its TimeoutStartSec=", unit))
	}
	st, err := w.sys.Unit(ctx, unit)
	if err != nil {
		return err
	}
	return w.faultOf(ctx, unit, st, "")
}

func (w *waiter) becomesUp(ctx context.Context, unit string) error {
	until := time.Now().Add(w.limit)
	for {
		st, err := w.sys.Unit(ctx, unit)
		if err != nil {
			return err
		}
		if st.up() {
			return nil
		}
		if st.Active == "failed" || time.Now().After(until) {
			return w.faultOf(ctx, unit, st, "")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// fault describes what went wrong with a unit, with its log.
func (a *app) fault(ctx context.Context, unit, cause string) error {
	st, err := a.sys.Unit(ctx, unit)
	if err != nil {
		return err
	}
	if by, its := hindrance(ctx, a.sys, st); by != "" {
		return &fault{unit: by, cause: cause + ": " + by + " " + ending(its), log: a.logOf(ctx, by, its)}
	}
	return &fault{unit: unit, cause: cause, log: a.logOf(ctx, unit, st)}
}

func (a *app) faultOf(ctx context.Context, unit string, st UnitState, suffix string) error {
	return &fault{unit: unit, cause: unit + " " + ending(st) + suffix, log: a.logOf(ctx, unit, st)}
}

// logOf is best effort: that a log cannot be read must not hide the failure.
func (a *app) logOf(ctx context.Context, unit string, st UnitState) []string {
	lines, err := a.sys.Log(ctx, unit, st.Invocation, logLines)
	if err != nil {
		return []string{"(its log cannot be read: " + err.Error() + ")"}
	}
	if len(lines) > logLines {
		lines = lines[len(lines)-logLines:]
	}
	return lines
}
