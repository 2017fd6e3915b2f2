package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strings"
	"time"

	"devbox/internal/protocol"
)

// Cycle is one way from the source to a running release, as `up` and `watch`
// report it. Its JSON is what --json prints.
type Cycle struct {
	At      time.Time          `json:"at"`
	Target  string             `json:"target,omitempty"`  // the server; "" is the dev machine
	Trigger []string           `json:"trigger,omitempty"` // changed files, relative to the project
	Outcome string             `json:"outcome"`           // one of protocol's outcomes, or one below
	Version string             `json:"version,omitempty"` // of the image
	Release string             `json:"release,omitempty"`
	Serving string             `json:"serving,omitempty"`
	Of      string             `json:"of,omitempty"`  // the release that a rollback brings back
	Data    time.Time          `json:"data,omitzero"` // of when the snapshot of the data is that it brings back with it
	Restart []protocol.UnitWhy `json:"restart,omitempty"`
	Stay    []protocol.UnitWhy `json:"stay,omitempty"`
	Remove  []protocol.UnitWhy `json:"remove,omitempty"`
	Wire    int64              `json:"wire_bytes"`
	Phases  []protocol.Phase   `json:"phases,omitempty"`
	Took    time.Duration      `json:"took"`
	Error   string             `json:"error,omitempty"`
	Hint    string             `json:"hint,omitempty"`
	Failure *protocol.Failure  `json:"failure,omitempty"`
	// Migration is what a release that came back, or is to, finds of its data.
	Migration *protocol.Migration `json:"migration,omitempty"`
}

// Outcomes of a cycle that never got to an activation.
const (
	BuildFailed = "build-failed" // the old release serves on
	BadImage    = "bad-image"    // the old release serves on
	BadSettings = "bad-settings" // the old release serves on, by the settings before
	HostLost    = "host-lost"    // the host finishes or undoes it by itself
	NotBegun    = "not-begun"    // nothing that runs was touched
)

// shipTime bounds sending an image, whole and over a slow line, and that what ran
// before ends, beside the deadline of its health and what that does not count.
const shipTime = 5 * time.Minute

// Deliver ships an image and makes it the running release. A release that was
// not kept is a [RolledBackError]; c says in either case what happened. The end
// of ctx does not cut it short, since an activation is never left half-way: say
// hears that it is waited for.
func (h *Host) Deliver(ctx context.Context, a *Artifact, c *Cycle, say func(format string, args ...any)) error {
	stop := context.AfterFunc(ctx, func() {
		say("finishing the release that is on its way; a second Ctrl-C leaves that to the host")
	})
	defer stop()
	return h.deliver(context.WithoutCancel(ctx), a, c)
}

// deliver is Deliver of a release that nobody misses if it is left half-way.
func (h *Host) deliver(ctx context.Context, a *Artifact, c *Cycle) error {
	limit := h.settings().Health.Deadline + shipTime + protocol.PrepareTime
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the host did not answer within %s", limit))
	defer cancel()
	c.Version = a.Version()
	result, err := h.shipAndActivate(ctx, a, c)
	var refused *HostError
	if errors.As(err, &refused) && refused.Code == protocol.CodeNoImage {
		// The host deletes old images, and told of them once, as the session began.
		h.forget(a)
		result, err = h.shipAndActivate(ctx, a, c)
	}
	if err != nil {
		return err
	}
	c.Outcome, c.Release, c.Serving = result.Outcome, result.Release, result.Serving
	c.planned(result.Plan)
	c.Failure, c.Migration = result.Failure, result.Migration
	switch result.Outcome {
	case protocol.Committed, protocol.Unchanged:
		h.Welcome.Current = a.Digest.String()
		return nil
	default:
		return &RolledBackError{Result: result}
	}
}

func (h *Host) shipAndActivate(ctx context.Context, a *Artifact, c *Cycle) (protocol.Result, error) {
	begin := time.Now()
	sent, err := h.Ship(ctx, a)
	c.Wire = sent.Wire
	c.ended(protocol.Phase{Name: "ship", Took: time.Since(begin)})
	if err != nil {
		return protocol.Result{}, err
	}
	here := len(c.Phases)
	result, err := h.Activate(ctx, protocol.Activate{
		App:      h.project.Config.Name,
		Digest:   a.Digest.String(),
		Settings: h.settings(),
		By:       whoAmI(),
		Source:   a.Source,
	}, c.hear)
	if err == nil {
		c.Phases = append(c.Phases[:here], result.Phases...)
	}
	return result, err
}

// hear notes what the host tells while it works. It is all that is known of a
// host that never gets to tell the result.
func (c *Cycle) hear(e protocol.Event) {
	if e.Plan != nil {
		c.planned(*e.Plan)
	}
	if e.Phase != nil {
		c.ended(*e.Phase)
	}
}

func (c *Cycle) planned(p protocol.Plan) { c.Restart, c.Stay, c.Remove = p.Restart, p.Stay, p.Remove }

func (c *Cycle) ended(x protocol.Phase) { c.Phases = append(c.Phases, x) }

// whoAmI names the person at this computer, for the host's history.
func whoAmI() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// revision is the git commit that the source stands on, with a mark if there
// is more than that; "" outside git. It goes into the host's history only.
func (p *Project) revision(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "-C", p.Config.Dir, "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
