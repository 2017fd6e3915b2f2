package provision

import "github.com/goccy/go-yaml"

// Declared is what a cloud-config asks of a host, as far as a host's facts can
// be compared with it.
type Declared struct {
	Files    map[string][]byte   // path -> content; nil where only cloud-init knows it
	Users    map[string][]string // name -> lines for authorized_keys
	Packages []string            // names, without versions
	Timezone string              // "" is not said
}

// Declares reads a cloud-config that passed [Check].
func Declares(cloudConfig []byte) Declared {
	w := readWanted(cloudConfig)
	d := Declared{Files: map[string][]byte{}, Users: map[string][]string{}, Packages: w.packages}
	for _, f := range w.files {
		if d.Files[f.path] = f.content; f.opaque != "" {
			d.Files[f.path] = nil
		}
	}
	for _, u := range w.users {
		d.Users[u.name] = append(d.Users[u.name], u.keys...)
	}
	var zone struct{ Timezone any }
	_ = yaml.Unmarshal(cloudConfig, &zone) // as in readWanted
	d.Timezone = scalar(zone.Timezone)
	return d
}
