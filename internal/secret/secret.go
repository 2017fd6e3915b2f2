// Package secret keeps the secrets of apps on a host: values that services
// read as credentials (systemd.exec(5)), encrypted with the host's key by
// systemd-creds(1).
//
// A secret NAME of APP is the file APP.NAME in /etc/credstore.encrypted, and
// carries that name inside, so that it passes for no other. An app's name has
// no dot: what stands before the first one tells whose a secret is.
package secret

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"devbox/internal/image"
	"devbox/internal/protocol"
)

// MaxValue is the largest value of a secret, in bytes. systemd gives a unit
// 1 MiB for all its credentials together.
const MaxValue = 64 << 10

var secretName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// ValidName checks the name of a secret, which becomes part of a file's. The
// error does not repeat it: it may be the secret itself, in the wrong place.
func ValidName(name string) error {
	if !secretName.MatchString(name) {
		return errors.New("that is no secret's name: letters, digits and . _ -, a letter or digit first, at most 64")
	}
	return nil
}

// ValidValue checks the size of a value.
func ValidValue(value []byte) error {
	switch {
	case len(value) == 0:
		return errors.New("the value is empty")
	case len(value) > MaxValue:
		return fmt.Errorf("the value has more than %d KiB, which is the most for a secret", MaxValue>>10)
	}
	return nil
}

// Credential is the name that a secret of app has for systemd.
func Credential(app, name string) string { return app + "." + name }

// owner splits a credential's name into app and secret; ok is false if it is
// none that devbox would make.
func owner(credential string) (app, name string, ok bool) {
	app, name, _ = strings.Cut(credential, ".")
	return app, name, protocol.ValidApp(app) == nil && ValidName(name) == nil
}

// Entry is what is known of one secret of an app on a host.
type Entry struct {
	Name  string    `json:"name"`
	Set   time.Time `json:"set,omitzero"`    // when; zero if a unit wants it and it is not set
	Units []string  `json:"units,omitempty"` // that load it, in the release that runs
	Stale []string  `json:"stale,omitempty"` // units that have run since before it was set
}

// Missing says whether a unit wants the secret and it is not there.
func (e Entry) Missing() bool { return e.Set.IsZero() }

// names are the secrets of app that a unit asks for by name.
func names(app string, u image.Unit) []string {
	var all []string
	for _, c := range u.Credentials() {
		if of, name, ok := owner(c.Stored()); ok && of == app && c.Field != "LoadCredential" {
			all = append(all, name)
		}
	}
	return all
}

// loads says whether a unit loads the secret called credential, by its name or
// by a pattern.
func loads(u image.Unit, credential string) bool {
	for _, c := range u.Credentials() {
		prefix, pattern := strings.CutSuffix(c.Stored(), "*")
		if c.Stored() == credential || pattern && c.Field == "ImportCredential" && strings.HasPrefix(credential, prefix) {
			return true
		}
	}
	return false
}

// Input is how a client hands over a value: as one JSON object, so that one
// that was cut off on the way is noticed.
type Input struct {
	Value []byte `json:"value"`
}
