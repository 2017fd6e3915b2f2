package provision

import (
	"encoding/base64"
	"strings"

	"github.com/goccy/go-yaml"
)

// Declared is what a cloud-config asks of a host, as far as a host can be
// compared with it.
type Declared struct {
	Files    map[string][]byte   // path -> content; nil where only cloud-init knows it
	Users    map[string][]string // name -> lines for authorized_keys
	Packages []string            // names, without versions
	Timezone string              // "" is not said
}

// Declares reads a cloud-config that passed [Check].
func Declares(cloudConfig []byte) (Declared, error) {
	var doc struct {
		Files []struct {
			Path, Content, Encoding string
			Append                  bool
			Source                  map[string]any
		} `yaml:"write_files"`
		Users    []any
		Packages []any
		Timezone string
	}
	d := Declared{Files: map[string][]byte{}, Users: map[string][]string{}}
	if err := yaml.Unmarshal(cloudConfig, &doc); err != nil {
		return d, err
	}
	d.Timezone = doc.Timezone
	for _, f := range doc.Files {
		content := []byte(f.Content)
		switch enc := strings.ToLower(f.Encoding); {
		case f.Append || f.Source != nil:
			content = nil
		case enc == "b64" || enc == "base64":
			var err error
			if content, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(f.Content), "")); err != nil {
				return d, err
			}
		case enc != "" && enc != "text/plain":
			content = nil
		}
		d.Files[f.Path] = content
	}
	for _, u := range doc.Users {
		m, _ := u.(map[string]any)
		if name, ok := m["name"].(string); ok {
			d.Users[name] = texts(m["ssh_authorized_keys"])
		}
	}
	for _, p := range doc.Packages {
		if list, ok := p.([]any); ok && len(list) > 0 {
			p = list[0] // a name and a version
		}
		d.Packages = append(d.Packages, texts(p)...)
	}
	return d, nil
}

// texts are the strings of a list, or of one alone.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var all []string
		for _, one := range v {
			if s, ok := one.(string); ok {
				all = append(all, s)
			}
		}
		return all
	}
	return nil
}
