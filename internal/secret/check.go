package secret

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"devbox/internal/hint"
	"devbox/internal/image"
	"devbox/internal/protocol"
)

// Want is a secret that a unit names.
type Want struct {
	Name string // of the secret
	Unit string
}

// stores are where systemd looks for an encrypted credential by its name
// (credential_store_path_encrypted in systemd's src/shared/creds-util.c).
var stores = []string{
	image.CredStore, "/run/credstore.encrypted", "/usr/local/lib/credstore.encrypted", "/usr/lib/credstore.encrypted",
}

// Wanted are the secrets that units of app name, each once.
func Wanted(app string, units []image.Unit) (all []string) {
	for _, u := range units {
		for _, name := range names(app, u) {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	return all
}

// Missing finds the secrets that units of app name and this host does not
// have. systemd starts such a service without it if the unit gives no path, and
// otherwise fails it with nothing but status 243.
func Missing(root, app string, units []image.Unit) []Want {
	var all []Want
	for _, u := range units {
		for _, name := range names(app, u) {
			if !exists(root, Credential(app, name)) {
				all = append(all, Want{name, u.Name})
			}
		}
	}
	return all
}

func exists(root, credential string) bool {
	for _, dir := range stores {
		if _, err := os.Stat(filepath.Join(root, dir, credential)); err == nil {
			return true
		}
	}
	return false
}

// Check refuses units of app that name a secret which is not set, or one of
// another app on this host. It changes nothing, and is for before they run.
func Check(root, app string, units []image.Unit) error {
	if err := foreign(root, app, units); err != nil {
		return err
	}
	missing := Missing(root, app, units)
	if len(missing) == 0 {
		return nil
	}
	var texts, cures []string
	for _, w := range missing {
		texts = append(texts, fmt.Sprintf("%s wants the secret %s, which is not set on this host", w.Unit, w.Name))
		if cure := "`devbox secret set [TARGET] " + w.Name + "`"; !slices.Contains(cures, cure) {
			cures = append(cures, cure)
		}
	}
	return hint.Errorf("run "+strings.Join(cures, ", "), "%s", strings.Join(texts, "; "))
}

// foreign refuses units that take secrets of another app. It stops mistakes,
// and what a policy lets no other app do; a service that runs as root can read
// what it likes.
func foreign(root, app string, units []image.Unit) error {
	entries, err := os.ReadDir(filepath.Join(root, image.CredStore))
	if err != nil {
		return nil // there are none
	}
	for _, e := range entries {
		of, _, ok := owner(e.Name())
		if !ok || of == app {
			continue
		}
		if _, err := os.Stat(filepath.Join(root, "var/lib/devbox", of)); err != nil {
			continue // no app, but something else with a dot in its name
		}
		for _, u := range units {
			if protocol.ValidUnit(app, u.Name) == nil && loads(u, e.Name()) {
				return hint.Errorf("name secrets of its own: "+app+".NAME", "%s takes %s, which is a secret of the app %s", u.Name, e.Name(), of)
			}
		}
	}
	return nil
}
