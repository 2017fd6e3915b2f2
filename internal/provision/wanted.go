package provision

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// wanted is what a cloud-config asks of a host, as far as it can be compared
// with one.
type wanted struct {
	files    []wantedFile
	users    []wantedUser
	groups   []string
	packages []string
	commands []string // of runcmd, as a shell would be given them
	others   []string // modules that are run each time, by name
}

type wantedFile struct {
	path    string
	mode    string // four octal digits
	owner   string // user:group
	content []byte
	opaque  string // why the content is not known here; "" if it is
}

type wantedUser struct {
	name  string
	keys  []string
	locks bool // takes away the password, which is cloud-init's default
}

// document is the part of a cloud-config that is read here. Values that may be
// of several types are any.
type document struct {
	Files []struct {
		Path        string
		Content     any
		Encoding    string
		Owner       string
		Permissions any
		Append      bool
		Source      map[string]any
	} `yaml:"write_files"`
	Users    any
	Groups   any
	Packages []any
	Runcmd   []any
}

// readWanted takes a cloud-config that passed [Check]. What has another shape than
// it should is left to cloud-init's schema.
func readWanted(cloudConfig []byte) wanted {
	var d document
	// An error of a type is one of the schema, too; the rest is decoded.
	_ = yaml.Unmarshal(cloudConfig, &d)
	var w wanted
	for _, f := range d.Files {
		if f.Path == "" {
			continue
		}
		x := wantedFile{path: f.Path, owner: f.Owner, mode: mode(f.Permissions)}
		if x.owner == "" {
			x.owner = "root:root"
		}
		switch content, err := decodeContent(scalar(f.Content), f.Encoding); {
		case f.Append:
			x.opaque = "appended to"
		case f.Source != nil:
			x.opaque = "fetched from an address"
		case err != nil:
			x.opaque = err.Error()
		default:
			x.content = content
		}
		w.files = append(w.files, x)
	}
	w.users = users(d.Users)
	w.groups = names(d.Groups)
	for _, p := range d.Packages {
		switch p := p.(type) {
		case string:
			w.packages = append(w.packages, p)
		case []any: // a name and a version
			if len(p) > 0 {
				w.packages = append(w.packages, scalar(p[0]))
			}
		}
	}
	for _, c := range d.Runcmd {
		if list, ok := c.([]any); ok {
			words := make([]string, len(list))
			for i, word := range list {
				words[i] = scalar(word)
			}
			w.commands = append(w.commands, strings.Join(words, " "))
			continue
		}
		w.commands = append(w.commands, strings.TrimRight(scalar(c), "\n"))
	}
	p, _ := plan(cloudConfig)
	for _, step := range p.steps {
		if !slices.Contains([]string{"write_files", "write_files_deferred", "users_groups", "package_update_upgrade_install", "runcmd"}, step) {
			w.others = append(w.others, step)
		}
	}
	return w
}

func scalar(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// off is the false of cloud-init's YAML 1.1.
func off(v any) bool {
	return slices.Contains([]string{"false", "no", "off"}, strings.ToLower(scalar(v)))
}

// mode is what cloud-init makes of permissions: a string is octal, and YAML
// makes a number of 0644 by itself.
func mode(v any) string {
	text := strings.TrimPrefix(scalar(v), "0o")
	if n, ok := v.(uint64); ok {
		return fmt.Sprintf("%04o", n)
	}
	if n, err := strconv.ParseUint(text, 8, 32); err == nil {
		return fmt.Sprintf("%04o", n)
	}
	return "0644"
}

// decodeContent is cloud-init's decoding of write_files.
func decodeContent(text, encoding string) ([]byte, error) {
	content := []byte(text)
	var err error
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "text/plain":
		return content, nil
	case "b64", "base64":
		return base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	case "gz+b64", "gzip+base64", "gzip+b64", "gz+base64":
		if content, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err != nil {
			return nil, err
		}
	case "gz", "gzip":
	default:
		return nil, fmt.Errorf("encoded as %s", encoding)
	}
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	const most = 1 << 20
	return io.ReadAll(io.LimitReader(r, most))
}

// users reads the forms that cloud-init takes: a list of names and mappings,
// one mapping, or names in one string. default is the provider's own user.
func users(v any) (out []wantedUser) {
	switch v := v.(type) {
	case []any:
		for _, one := range v {
			out = append(out, users(one)...)
		}
	case map[string]any:
		u := wantedUser{name: scalar(v["name"]), keys: names(v["ssh_authorized_keys"])}
		if keys, ok := v["ssh_authorized_keys"].(string); ok {
			u.keys = []string{keys}
		}
		u.locks = !off(v["lock_passwd"]) && !off(v["lock-passwd"])
		if u.name != "" {
			out = append(out, u)
		}
	case string:
		for _, name := range names(v) {
			if name != "default" {
				out = append(out, wantedUser{name: name, locks: true})
			}
		}
	}
	return out
}

// names reads a list, the keys of a mapping, or a string with commas.
func names(v any) (out []string) {
	switch v := v.(type) {
	case []any:
		for _, one := range v {
			switch one := one.(type) {
			case map[string]any:
				out = append(out, names(one)...)
			default:
				out = append(out, scalar(one))
			}
		}
	case map[string]any:
		for name := range v {
			out = append(out, name)
		}
		slices.Sort(out)
	case string:
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.TrimSpace(name); name != "" {
				out = append(out, name)
			}
		}
	}
	return out
}
