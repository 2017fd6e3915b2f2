package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/remote"
)

// findOut connects to the server again, after lost, and tells how the
// activation ended: it went on to its end, or is undone, or never began.
func (o *Offer) findOut(ctx context.Context, lost error) (protocol.Result, error) {
	t := o.target
	ask := remember(t.project.SSH)
	unknown := func(err error) (protocol.Result, error) {
		return protocol.Result{}, hint.Wrap(fmt.Errorf("%w, and %s cannot be asked what became of it: %w", lost, t.Name, err), o.tells())
	}
	for {
		conn, err := remote.DialWait(ctx, t.Endpoint(t.project.Config.DeployUser), ask.options(), remote.Wait{})
		if err != nil {
			return unknown(err)
		}
		h, err := t.greet(ctx, conn)
		if err != nil {
			conn.Close()
			if Lost(err) {
				continue
			}
			return unknown(err)
		}
		o.host.Close()
		o.host = h
		result, err := o.ended(ctx, h)
		switch {
		case errors.Is(err, errUnderWay), Lost(err):
		case errors.Is(err, errNeverBegan):
			return result, err
		case err != nil:
			return unknown(err)
		default:
			return result, nil
		}
		select {
		case <-ctx.Done():
			return unknown(context.Cause(ctx))
		case <-time.After(time.Second):
		}
	}
}

var (
	errUnderWay   = errors.New("the activation is under way")
	errNeverBegan = errors.New("the connection was lost before the server began; nothing was changed")
)

// ended reads how the activation ended out of the server's history.
func (o *Offer) ended(ctx context.Context, h *Host) (protocol.Result, error) {
	// It holds the lock that a plan needs, too.
	probe := o.req
	probe.DryRun = true
	var refused *HostError
	if _, err := h.Activate(ctx, probe, nil); errors.As(err, &refused) && refused.Busy() {
		return protocol.Result{}, errUnderWay
	} else if err != nil && refused == nil {
		return protocol.Result{}, err
	}
	all, err := h.Releases(ctx)
	if err != nil {
		return protocol.Result{}, err
	}
	st, err := h.Status(ctx, h.project.Config.Name)
	if err != nil {
		return protocol.Result{}, err
	}
	r := protocol.Result{Release: o.Plan.Release, Plan: o.Plan}
	if st.Current != nil {
		r.Serving = st.Current.ID
	}
	i := slices.IndexFunc(all, func(x protocol.Release) bool {
		return x.ID == o.Plan.Release && x.By == o.req.By && x.Digest == o.Plan.Digest
	})
	if i < 0 {
		return r, hint.Wrap(errNeverBegan, "run the same command again")
	}
	r.Outcome = all[i].Outcome
	switch {
	case r.Outcome == protocol.Interrupted && r.Serving == "":
		r.Outcome = protocol.Failed // it was the first
	case r.Outcome == protocol.Interrupted:
		r.Outcome = protocol.RolledBack
	}
	if r.Outcome != protocol.Committed {
		r.Failure = &protocol.Failure{Cause: all[i].Cause}
	}
	return r, nil
}
