package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"devbox/internal/protocol"
	"devbox/internal/sync/delta"
)

// Shipped tells what sending an image cost.
type Shipped struct {
	Wire int64  // bytes sent; 0 if the host had the image
	Base string // version of the image that the delta was made against, "" for none
}

// Ship brings an image to the host, as a delta against one that both sides
// have, or whole. The host verifies its digest before it is kept.
func (h *Host) Ship(ctx context.Context, a *Artifact) (Shipped, error) {
	if slices.Contains(h.Welcome.Images, a.Digest.String()) {
		return Shipped{}, nil
	}
	sent, err := h.shipDelta(ctx, a)
	var refused *HostError
	if errors.As(err, &refused) && refused.Code == protocol.CodeUnknownBase {
		sent, err = h.shipWhole(ctx, a)
	}
	if err != nil {
		return sent, fmt.Errorf("ship %s: %w", a.Version(), err)
	}
	h.Welcome.Images = append(h.Welcome.Images, a.Digest.String())
	return sent, nil
}

// forget has an image sent again that the host was thought to have.
func (h *Host) forget(a *Artifact) {
	h.Welcome.Images = slices.DeleteFunc(h.Welcome.Images, func(d string) bool { return d == a.Digest.String() })
}

// shipDelta sends against what runs on the host if that is at hand here, or
// else against any other image that both sides have.
func (h *Host) shipDelta(ctx context.Context, a *Artifact) (Shipped, error) {
	if a.prev != nil && a.prev.digest.String() == h.Welcome.Current {
		return h.send(ctx, a, a.plan, a.prev)
	}
	base, err := h.base()
	if err != nil || base == nil {
		return h.shipWhole(ctx, a)
	}
	defer base.Close()
	plan, err := delta.Compare(ctx, base.Source, a.source())
	if err != nil {
		return Shipped{}, err
	}
	return h.send(ctx, a, plan, base)
}

// base opens an image that both sides have, if there is one.
func (h *Host) base() (*stored, error) {
	there := append([]string{h.Welcome.Current}, h.Welcome.Images...)
	if h.target != nil {
		if base, err := h.target.shipped().find(there); base != nil || err != nil {
			return base, err
		}
	}
	return h.project.images().find(there)
}

func (h *Host) shipWhole(ctx context.Context, a *Artifact) (Shipped, error) {
	plan, err := delta.Compare(ctx, nil, a.source())
	if err != nil {
		return Shipped{}, err
	}
	return h.send(ctx, a, plan, nil)
}

// send sends the delta of plan, which was made against base.
func (h *Host) send(ctx context.Context, a *Artifact, plan *delta.Plan, base *stored) (Shipped, error) {
	var sent Shipped
	req := protocol.Receive{App: h.project.Config.Name, Digest: a.Digest.String(), Size: a.Size}
	if base != nil {
		req.Base, sent.Base = base.digest.String(), base.digest.Short()
	}
	err := h.do(ctx, protocol.Request{Receive: &req}, func(w io.Writer) error {
		stats, err := plan.Encode(ctx, w, delta.EncodeOptions{Mode: h.mode()})
		sent.Wire = stats.Wire
		return err
	}, nil)
	if errors.As(err, new(*HostError)) { // which has ended the session
		if rerr := h.reopen(ctx); rerr != nil {
			return sent, errors.Join(err, rerr)
		}
	}
	return sent, err
}

func (a *Artifact) source() *delta.Source {
	return &delta.Source{ReaderAt: a.file, Size: a.Size, Sums: a.Sums}
}
