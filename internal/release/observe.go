package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"devbox/internal/image"
	"devbox/internal/protocol"
)

// observe looks at what the host has of t's units, and of units of this app
// that are attached and not t's.
func (a *app) observe(ctx context.Context, t target) (seen, error) {
	s := seen{Linked: sameFile(a.attached(), a.image(short(t.Release.Digest))), Units: map[string]seenUnit{}}
	names, err := a.attachedUnits()
	if err != nil {
		return s, err
	}
	for _, u := range t.Units {
		names[u.Name] = true
	}
	for name := range names {
		u, err := a.observeUnit(ctx, t, name)
		if err != nil {
			return s, err
		}
		s.Units[name] = u
	}
	return s, nil
}

func (a *app) observeUnit(ctx context.Context, t target, name string) (u seenUnit, err error) {
	if u.Body, err = readIfThere(a.unit(name)); err != nil {
		return u, err
	}
	dropIn, err := readIfThere(a.dropIn(name))
	if err != nil {
		return u, err
	}
	u.DropIn = string(dropIn)
	u.Sandboxed = a.sandboxed(name, t.profile()) == nil
	if isTemplate(name) {
		names, err := a.sys.Instances(ctx, name)
		u.Instances = map[string]UnitState{}
		for _, instance := range names {
			if u.Instances[instance], err = a.sys.Unit(ctx, instance); err != nil {
				return u, err
			}
		}
		return u, err
	}
	u.State, err = a.sys.Unit(ctx, name)
	return u, err
}

// attachedUnits finds the units that portabled installed from the app's
// attached path. It refuses if a unit of the app's name came from elsewhere.
func (a *app) attachedUnits() (map[string]bool, error) {
	names := map[string]bool{}
	entries, err := os.ReadDir(filepath.Join(a.root, attachedDir))
	if errors.Is(err, fs.ErrNotExist) {
		return names, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".d")
		if protocol.ValidUnit(a.name, name) != nil || names[name] {
			continue
		}
		from, err := a.markerPath(name)
		if err != nil {
			return nil, err
		}
		if from == a.attached() {
			names[name] = true
		}
	}
	return names, nil
}

// markerPath is the image that portabled says a unit comes from, "" if none.
func (a *app) markerPath(unit string) (string, error) {
	data, err := readIfThere(filepath.Join(a.unitD(unit), markerName))
	if err != nil {
		return "", err
	}
	_, rest, ok := strings.Cut(string(data), "created for image '")
	from, _, closed := strings.Cut(rest, "'")
	if !ok || !closed {
		return "", nil
	}
	return filepath.Join(a.root, from), nil
}

// sandboxed checks portabled's drop-ins of a unit. A service without them would
// run on the host's root, unconfined.
func (a *app) sandboxed(unit, profile string) error {
	from, err := a.markerPath(unit)
	if err != nil {
		return err
	}
	if from != a.attached() {
		return fmt.Errorf("unit %s: %s does not name %s", unit, filepath.Join(a.unitD(unit), markerName), a.attached())
	}
	if !strings.HasSuffix(unit, ".service") {
		return nil
	}
	marker, err := readIfThere(filepath.Join(a.unitD(unit), markerName))
	if err != nil {
		return err
	}
	drop, err := image.ParseUnit(unit, marker)
	if err != nil || filepath.Join(a.root, drop.Last("Service", "RootImage")) != a.attached() {
		return fmt.Errorf("unit %s: %s has no RootImage=%s", unit, filepath.Join(a.unitD(unit), markerName), a.attached())
	}
	link := filepath.Join(a.unitD(unit), profileName)
	to, err := os.Readlink(link)
	if err != nil {
		return fmt.Errorf("unit %s has no profile: %w", unit, err)
	}
	if filepath.Base(filepath.Dir(to)) != profile {
		return fmt.Errorf("unit %s: %s is %s, not profile %s", unit, link, to, profile)
	}
	if _, err := os.Stat(filepath.Join(a.root, to)); err != nil {
		return fmt.Errorf("unit %s has no profile: %w", unit, err)
	}
	return nil
}

// verify checks that what is on disk is t, before any unit of it is started.
func (a *app) verify(t target) error {
	for _, u := range t.Units {
		body, err := readIfThere(a.unit(u.Name))
		if err != nil {
			return err
		}
		if string(body) != string(u.Body) {
			return fmt.Errorf("unit %s: %s is not the image's unit file after attaching", u.Name, a.unit(u.Name))
		}
		if err := a.sandboxed(u.Name, t.profile()); err != nil {
			return err
		}
	}
	if !sameFile(a.attached(), a.image(short(t.Release.Digest))) {
		return fmt.Errorf("%s is not the image of %s after switching", a.attached(), t.Release.ID)
	}
	return nil
}

func readIfThere(name string) ([]byte, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	return data, err
}
