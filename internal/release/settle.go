package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"devbox/internal/protocol"
)

// stayUp is how long a unit that does not tell when it is ready must run before
// it counts as good.
const stayUp = 500 * time.Millisecond

// settle judges restarted units: the health check passes before the deadline,
// and no unit falls over meanwhile, nor before it has been up for a moment.
func (a *app) settle(ctx context.Context, t target, p *Plan, limit time.Duration) error {
	w := watcher{app: a, target: t, when: "soon after it was started"}
	until, err := w.begin(ctx, p.Restart)
	if err != nil {
		return err
	}
	why, err := w.untilHealthy(ctx, p.stay(), limit)
	if err != nil {
		return err
	}
	if why != nil {
		return a.unhealthy(ctx, p.Restart, fmt.Sprintf("not healthy within %s: %v", deadlineOf(t.Release.Settings.Health), why), why)
	}
	return w.watch(ctx, until)
}

// trial watches a release that is healthy for as long as its settings ask for,
// and asks at the end once more whether it is. It watches the services that
// shall run and did before, beside those that were restarted: one that was in
// trouble before, and still is, does not condemn the release.
func (a *app) trial(ctx context.Context, t target, p *Plan, before map[string]string) error {
	limit := t.Release.Settings.Trial
	until := time.Now().Add(limit)
	units := slices.Clone(p.Restart)
	for _, u := range t.Units {
		if _, ran := before[u.Name]; ran && t.wanted(u) && !slices.Contains(units, u.Name) {
			units = append(units, u.Name)
		}
	}
	w := watcher{app: a, target: t, when: "while it was on trial"}
	if _, err := w.begin(ctx, units); err != nil {
		return err
	}
	if err := w.watch(ctx, until); err != nil {
		return err
	}
	why, err := w.untilHealthy(ctx, p.stay(), deadlineOf(t.Release.Settings.Health))
	if err == nil && why != nil {
		err = a.unhealthy(ctx, p.Restart, fmt.Sprintf("no longer healthy at the end of its trial of %s: %v", limit, why), why)
	}
	return err
}

// untilHealthy asks until the health check passes, and returns why it did not
// within limit. Meanwhile the units are watched: a socket takes the question and
// lets it wait for a service that falls over again and again.
func (w *watcher) untilHealthy(ctx context.Context, stay []string, limit time.Duration) (why, err error) {
	if health := w.target.Release.Settings.Health; health.URL == "" && health.Command == "" {
		return nil, nil
	}
	expect, err := w.expected(ctx, w.target.Release, stay)
	if err != nil {
		return nil, err
	}
	checkCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	healthy := make(chan error, 1)
	go func() { healthy <- w.becomesHealthy(checkCtx, w.target.Release, expect) }()
	for pause := 5 * time.Millisecond; ; pause = longer(pause) {
		select {
		case why := <-healthy:
			return why, w.stillUp(ctx)
		case <-time.After(pause):
		}
		if err := w.stillUp(ctx); err != nil {
			cancel()
			<-healthy // it leaves nothing running
			return nil, err
		}
	}
}

// longer is the pause after one of d.
func longer(d time.Duration) time.Duration { return min(d*3/2, 100*time.Millisecond) }

// becomesHealthy asks until the release is healthy, or until ctx ends and then
// returns what was found last.
func (a *app) becomesHealthy(ctx context.Context, r protocol.Release, expect []string) error {
	var why error
	for pause := 5 * time.Millisecond; ; pause = longer(pause) {
		err := a.check(ctx, r, expect)
		if err == nil {
			return nil
		}
		// A check that the deadline cut short says less than the one before.
		if why == nil || ctx.Err() == nil {
			why = err
		}
		select {
		case <-ctx.Done():
			return why
		case <-time.After(pause):
		}
	}
}

// watcher notices when a unit falls over.
type watcher struct {
	*app
	target target
	when   string    // that it fell over, as in "exited with status 1 WHEN"
	units  []watched // the services first: a socket fails because of its service
}

type watched struct {
	unit string
	was  UnitState
}

// begin remembers how the units are now. Until the returned time those that do
// not tell when they are ready must stay up.
func (w *watcher) begin(ctx context.Context, units []string) (until time.Time, err error) {
	for _, unit := range units {
		u, _ := w.target.unit(templateOf(unit))
		if u.Type != "service" {
			continue
		}
		st, err := w.sys.Unit(ctx, unit)
		if err != nil {
			return until, err
		}
		if st.Type == "oneshot" || st.gone() && st.Result == "success" && st.Type != "notify" && st.ExitCode == 0 {
			continue // it has done its work, or a condition kept it from starting
		}
		w.units = append(w.units, watched{unit, st})
		if !tellsReady(st.Type) {
			until = time.Now().Add(stayUp)
		}
	}
	for _, u := range w.target.Units {
		if u.Type != "socket" || isTemplate(u.Name) {
			continue
		}
		st, err := w.sys.Unit(ctx, u.Name)
		if err != nil {
			return until, err
		}
		w.units = append(w.units, watched{u.Name, st})
	}
	return until, nil
}

func tellsReady(kind string) bool { return strings.HasPrefix(kind, "notify") || kind == "dbus" }

func (w *watcher) watch(ctx context.Context, until time.Time) error {
	for pause := 5 * time.Millisecond; ; pause = longer(pause) {
		if err := w.stillUp(ctx); err != nil {
			return err
		}
		if !time.Now().Before(until) {
			return nil
		}
		time.Sleep(pause)
	}
}

func (w *watcher) stillUp(ctx context.Context) error {
	for _, is := range w.units {
		st, err := w.sys.Unit(ctx, is.unit)
		if err != nil {
			return err
		}
		if st.up() && st.Invocation == is.was.Invocation && st.Restarts == is.was.Restarts {
			continue
		}
		if u, _ := w.target.unit(is.unit); u.Type == "socket" {
			return w.socketFault(ctx, u, st)
		}
		return w.serviceFault(ctx, is.unit, st, "")
	}
	return nil
}

// socketFault tells of the service that took its socket with it, if one did.
func (w *watcher) socketFault(ctx context.Context, socket unitFile, is UnitState) error {
	st, err := w.sys.Unit(ctx, socket.Service)
	if err != nil {
		return err
	}
	if _, ok := w.target.unit(socket.Service); ok && st.Active == "failed" {
		return w.serviceFault(ctx, socket.Service, st, ", and "+socket.Name+" is closed")
	}
	return w.faultOf(ctx, socket.Name, is, " "+w.when)
}

func (w *watcher) serviceFault(ctx context.Context, unit string, st UnitState, suffix string) error {
	cause := unit + " " + ending(st)
	if st.ExitCode == 0 && (st.Result == "" || st.Result == "success") && !st.gone() {
		// systemd has started it again, and how the one before ended only the log knows.
		cause = unit + " ended by itself"
	}
	for _, is := range w.units {
		if is.unit == unit && is.was.Invocation != "" {
			st.Invocation = is.was.Invocation // the log that tells why is the old one's
		}
	}
	return &fault{unit: unit, cause: cause + " " + w.when + suffix, log: w.logOf(ctx, unit, st)}
}

// unhealthy says what the health check found last, with its own words if it has
// any, and else with those of the service that was started last.
func (a *app) unhealthy(ctx context.Context, units []string, cause string, why error) error {
	out := &fault{cause: cause}
	for _, unit := range slices.Backward(units) {
		if !strings.HasSuffix(unit, ".service") {
			continue
		}
		st, err := a.sys.Unit(ctx, unit)
		if err != nil {
			return err
		}
		out.unit, out.log = unit, a.logOf(ctx, unit, st)
		break
	}
	var f *fault
	if errors.As(why, &f) {
		out.log = append(out.log, f.log...)
	}
	return out
}
