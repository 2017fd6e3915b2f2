package release

import (
	"context"

	"devbox/internal/policy"
	"devbox/internal/protocol"
)

// allow refuses an app that the host's policy does not let this user touch.
// root may touch all of them, whatever state the policy is in: at boot nobody
// could put it right.
func (h *Host) allow(name string) error {
	if h.isRoot() {
		return nil
	}
	p, err := h.policy()
	if err != nil {
		return err
	}
	return forbidden(p.App(name, h.user))
}

func (h *Host) isRoot() bool { return h.user == "" || h.user == "root" }

func (h *Host) policy() (*policy.Policy, error) {
	p, err := policy.Load(h.tree)
	return p, forbidden(err)
}

// permit refuses to run what the policy does not allow, to root as well, and
// returns who signed it. What runs already, and comes back after a crash or a
// failure, was permitted once and is not asked about again.
func (a *app) permit(ctx context.Context, r protocol.Release) (signer string, err error) {
	p, err := a.policy()
	if err != nil {
		return "", err
	}
	if err := p.App(a.name, a.user); err != nil {
		return "", forbidden(err)
	}
	if err := p.Profile(a.name, target{Release: r}.profile()); err != nil {
		return "", forbidden(err)
	}
	text, err := protocol.SignedText(a.name, r.Digest, r.Settings)
	if err != nil {
		return "", err
	}
	signer, err = p.Signer(ctx, text, r.Signature)
	return signer, forbidden(err)
}

// forbidden gives an error the code by which the client knows it for the policy's.
func forbidden(err error) error {
	if err == nil {
		return nil
	}
	return &CodedError{protocol.CodePolicy, err}
}
