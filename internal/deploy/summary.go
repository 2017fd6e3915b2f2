package deploy

import (
	"context"
	"slices"

	"devbox/internal/drift"
	"devbox/internal/facts"
	"devbox/internal/image"
	"devbox/internal/protocol"
)

// Summary is what a person wants to know of a server after months away.
type Summary struct {
	Drift       int                `json:"drift"` // differences from the repository that nothing explains
	Updates     *facts.Updates     `json:"updates,omitempty"`
	Reboot      []string           `json:"reboot,omitempty"`
	Stale       []string           `json:"stale,omitempty"`
	Failed      []string           `json:"failed,omitempty"` // units that are not of the app
	Disks       []facts.Disk       `json:"disks,omitempty"`
	Certificate *facts.Certificate `json:"certificate,omitempty"`
	Rollback    *protocol.Release  `json:"rollback,omitempty"` // the last release that was not kept, or brought back an older one
	Unknown     []facts.Unknown    `json:"unknown,omitempty"`  // what could not be read
}

// Summary asks a server what it is and compares that with the repository.
func (h *Host) Summary(ctx context.Context) (*Summary, error) {
	repo, err := h.project.declared()
	if err != nil {
		return nil, err
	}
	d, err := h.compared(ctx, true)
	if err != nil {
		return nil, err
	}
	f := d.Facts
	s := &Summary{
		Drift: drift.Count(drift.Compare(repo, nil, d)), Updates: f.Updates, Reboot: f.Reboot, Stale: f.Stale,
		Disks: f.Disks, Certificate: f.Certificate, Rollback: f.Rollback, Unknown: f.Unknown,
	}
	s.Failed = slices.DeleteFunc(slices.Clone(f.Failed), func(unit string) bool { return image.MatchesPrefix(unit, h.App()) })
	return s, nil
}
