package image

import (
	"path"
	"strings"
)

// CredStore is where a host keeps encrypted credentials, and devbox the
// secrets of apps, each as APP.NAME.
const CredStore = "/etc/credstore.encrypted"

// Credential is one line by which a service takes credentials from the host:
// LoadCredential=, LoadCredentialEncrypted= or ImportCredential= of
// systemd.exec(5). The service finds each as a file in $CREDENTIALS_DIRECTORY.
type Credential struct {
	Field string // "LoadCredentialEncrypted"
	Line  int    // in the unit file
	// ID is the name of that file. systemd decrypts nothing that carries another
	// name inside. Of ImportCredential= it is what stands instead of Source, ""
	// for nothing.
	ID string
	// Source is a path, or a name in one of the host's stores. Of
	// ImportCredential= it may end in "*", for any rest.
	Source string
}

// Credentials are those that a service takes from the host, in the order of
// the file. What has a value of its own to fall back on is left out: it cannot
// be missing.
func (u *Unit) Credentials() []Credential {
	fallback := map[string]bool{}
	for _, o := range u.values("Service", func(n string) bool { return n == "SetCredential" || n == "SetCredentialEncrypted" }) {
		id, _, _ := strings.Cut(o.value, ":")
		fallback[u.expand(id)] = true
	}
	var all []Credential
	for _, o := range u.values("Service", isLoad) {
		first, second, _ := strings.Cut(o.value, ":")
		c := Credential{Field: o.name, Line: o.line, ID: u.expand(first), Source: u.expand(second)}
		switch {
		case o.name == "ImportCredential":
			c.ID, c.Source = c.Source, c.ID
		case c.Source == "":
			c.Source = c.ID
		}
		if !fallback[c.ID] {
			all = append(all, c)
		}
	}
	return all
}

func isLoad(name string) bool {
	return name == "LoadCredential" || name == "LoadCredentialEncrypted" || name == "ImportCredential"
}

// Stored is the name that c looks for in [CredStore], "" if its source is
// elsewhere. It may end in "*" if c is an ImportCredential=.
func (c Credential) Stored() string {
	if path.IsAbs(c.Source) {
		if dir, name := path.Split(path.Clean(c.Source)); path.Clean(dir) == CredStore {
			return name
		}
		return ""
	}
	return c.Source
}
