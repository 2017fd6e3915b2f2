package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// foreign refuses units that another image, a package or a person has installed.
// Attaching would take a package's unit out of sight, such as ssh.service.
func (a *app) foreign(t target) error {
	for _, u := range t.Units {
		from, err := a.elsewhere(u.Name)
		if err != nil {
			return err
		}
		cure := "name the unit, or the app, otherwise"
		if strings.HasSuffix(from, ".raw") {
			cure = "detach that image first (portablectl detach " + from + "), or name the unit otherwise"
		}
		if from != "" {
			return hint.Errorf(cure, "unit %s is on this host already, from %s", u.Name, from)
		}
	}
	return nil
}

// OwnUnit refuses a unit that is not the app's, but of the host or of another
// app whose name begins like this one's.
func (h *Host) OwnUnit(app, unit string) error {
	a, err := h.open(app)
	if err != nil {
		return err
	}
	if err := protocol.ValidUnit(app, unit); err != nil {
		return err
	}
	from, err := a.elsewhere(unit)
	if err == nil && from != "" {
		err = fmt.Errorf("unit %s is not of %s, it is from %s", unit, app, from)
	}
	return err
}

// hostUnitDirs is where a host has units of its own.
var hostUnitDirs = []string{"run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system"}

// elsewhere is the image or the file that a unit is from, if that is not the
// app's image, and else "".
func (a *app) elsewhere(unit string) (string, error) {
	from, err := a.markerPath(unit)
	if err != nil {
		return "", err
	}
	switch from {
	case "":
	case a.attached():
		return "", nil
	default:
		return from, nil
	}
	for _, name := range []string{unit, templateOf(unit)} {
		for _, dir := range hostUnitDirs {
			file := filepath.Join(a.root, dir, name)
			if _, err := os.Lstat(file); err == nil {
				return file, nil
			} else if !errors.Is(err, fs.ErrNotExist) {
				return "", err
			}
		}
		// systemd looks there before it looks where portabled attaches.
		file := filepath.Join(a.root, unitDir, name)
		if info, err := os.Lstat(file); err == nil && info.Mode().IsRegular() {
			return file, nil
		}
		// Another name of such a unit, as sshd.service is of ssh.service.
		for _, dir := range hostUnitDirs {
			if to, err := os.Readlink(file); err == nil && strings.HasPrefix(to, "/"+dir+"/") {
				return file, nil
			}
		}
	}
	return "", nil
}
