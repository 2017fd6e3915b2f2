package deploy

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"devbox/internal/image"
)

// verified is what systemd said of an app's units, kept beside its images.
type verified struct {
	Key   string          `json:"key"`
	Found []image.Problem `json:"found"`
}

// Verify has systemd-analyze look at the units of an image and returns its
// warnings, if it is not too old to know hosts' settings. It is no part of
// Build, since a save need not wait for it: it takes a tenth of a second or two.
// Of units as they were the last time, what was said then is repeated.
func (p *Project) Verify(ctx context.Context, a *Artifact) []image.Problem {
	warning := func(err error) []image.Problem { return []image.Problem{{Text: err.Error(), Warning: true}} }
	key, err := image.VerifyKey(a.tree)
	if err != nil {
		return warning(err)
	}
	name := filepath.Join(p.imageDir(), "verified.json")
	var last verified
	if b, err := os.ReadFile(name); err == nil && json.Unmarshal(b, &last) == nil && last.Key == key {
		return last.Found
	}
	if !image.VerifyKnows(ctx) {
		return nil
	}
	found, err := image.Verify(ctx, a.tree)
	if err != nil {
		return warning(err)
	}
	if b, err := json.Marshal(verified{key, found}); err == nil {
		_ = renameio.WriteFile(name, b, 0o644) // or else it is asked again the next time
	}
	return found
}
