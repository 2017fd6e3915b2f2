// Package policy reads what the administrator of a host allows devbox-host to
// do for those who may run it: the file /etc/devbox/policy.conf, in the syntax
// of unit files.
//
//	[Policy]
//	AllowedApps=bowl shop
//	AllowedProfiles=default strict
//	AllowedSigners=/etc/devbox/allowed_signers
//
//	[App bowl]
//	User=deploy anna
//	AllowedProfiles=trusted
//
// It is read strictly: what it does not understand, or what somebody else than
// root could have written, is an error, and then nothing is allowed.
package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"devbox/internal/hint"
	"devbox/internal/image"
	"devbox/internal/protocol"
)

// File is where the policy is, below the root of the host's file tree.
const File = "etc/devbox/policy.conf"

// path is what the administrator knows the file by.
const path = "/" + File

// defaultProfiles are allowed where the file names none, and with them those
// that root has put into ownProfiles. "trusted" is not one, not even root's own
// of that name: a service under it may do to the host what its user may.
var defaultProfiles = []string{"default", "nonetwork", "strict"}

const ownProfiles = "etc/systemd/portable/profile"

// Policy is what is allowed. The zero value is that of a host without the file,
// which allows every app to every user of devbox-host, unsigned.
type Policy struct {
	root     string
	apps     []string // none: any
	profiles []string // none: the default
	signers  string   // the path of allowed signers; "": nothing needs to be signed
	rules    map[string]rules
}

// rules are those of one app.
type rules struct {
	users    []string // none: any
	profiles []string // none: the policy's
}

// Load reads the policy of the host whose file tree is below root.
func Load(root string) (*Policy, error) {
	data, err := readTrusted(root, path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Policy{root: root}, nil
	}
	if err == nil {
		var p *Policy
		if p, err = Parse(data); err == nil {
			p.root = root
			return p, nil
		}
	}
	// Without knowing what is allowed, nothing is.
	return nil, hint.Wrap(fmt.Errorf("this host's policy cannot be followed: %w", err), "have root of the host put "+path+" right")
}

// Parse reads a policy.
func Parse(data []byte) (*Policy, error) {
	lines, err := image.ParseAssignments(path, data)
	if err != nil {
		return nil, err
	}
	p := &Policy{rules: map[string]rules{}}
	for _, line := range lines {
		if err := p.set(line); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, line.Line, err)
		}
	}
	for app := range p.rules {
		if len(p.apps) > 0 && !slices.Contains(p.apps, app) {
			return nil, fmt.Errorf("%s: there is a section [App %s], but AllowedApps= does not name %s", path, app, app)
		}
	}
	return p, nil
}

// What the words of a list may be. The names are of what a host can have; a
// comma or a quote, which are of other syntaxes, would else be part of one.
var (
	profileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
	userName    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]*$`)
)

// set takes one line in.
func (p *Policy) set(line image.Assignment) error {
	if line.Value == "" {
		return fmt.Errorf("%s= is empty: leave the line out if that is not to be restricted", line.Name)
	}
	app, ofApp := strings.CutPrefix(line.Section, "App ")
	var err error
	switch {
	case line.Section == "Policy" && line.Name == "AllowedApps":
		return words(&p.apps, line.Value, func(w string) bool { return protocol.ValidApp(w) == nil })
	case line.Section == "Policy" && line.Name == "AllowedProfiles":
		return words(&p.profiles, line.Value, profileName.MatchString)
	case line.Section == "Policy" && line.Name == "AllowedSigners":
		if p.signers != "" {
			return errors.New("AllowedSigners= is there twice")
		}
		if !filepath.IsAbs(line.Value) || filepath.Clean(line.Value) != line.Value {
			return fmt.Errorf("AllowedSigners=%s is no absolute path in its shortest form", line.Value)
		}
		p.signers = line.Value
		return nil
	case ofApp && protocol.ValidApp(app) == nil:
		r := p.rules[app]
		switch line.Name {
		case "User":
			err = words(&r.users, line.Value, userName.MatchString)
		case "AllowedProfiles":
			err = words(&r.profiles, line.Value, profileName.MatchString)
		default:
			return fmt.Errorf("[App %s] has no setting %q: it has User= and AllowedProfiles=", app, line.Name)
		}
		p.rules[app] = r
		return err
	case line.Section == "Policy":
		return fmt.Errorf("[Policy] has no setting %q: it has AllowedApps=, AllowedProfiles= and AllowedSigners=", line.Name)
	}
	return fmt.Errorf("there is no section [%s]: there are [Policy] and [App NAME]", line.Section)
}

// words adds the words of a value to a list.
func words(list *[]string, value string, valid func(string) bool) error {
	for _, w := range strings.Fields(value) {
		if !valid(w) {
			return fmt.Errorf("%q is no name; names are separated by spaces", w)
		}
		*list = append(*list, w)
	}
	return nil
}

// App refuses an app that this host is not for, and a user who has no say in
// it. root, or "", may do with every app that the host is for what it likes.
func (p *Policy) App(app, user string) error {
	if len(p.apps) > 0 && !slices.Contains(p.apps, app) {
		return hint.Errorf("have root of the host add "+app+" to AllowedApps= in "+path,
			"this host is not for the app %s: its policy allows %s", app, strings.Join(p.apps, ", "))
	}
	if users := p.rules[app].users; user != "" && user != "root" && len(users) > 0 && !slices.Contains(users, user) {
		return hint.Errorf("log in as another user (deploy_user in devbox.yaml), or have root of the host add "+user+" to User= of [App "+app+"] in "+path,
			"the user %s may not touch the app %s on this host", user, app)
	}
	return nil
}

// Profile refuses a portable profile that the app may not have.
func (p *Policy) Profile(app, profile string) error {
	allowed, where := p.rules[app].profiles, "[App "+app+"]"
	if len(allowed) == 0 {
		allowed, where = p.profiles, "[Policy]"
	}
	if len(allowed) == 0 {
		allowed = slices.Clone(defaultProfiles)
		own, err := os.ReadDir(filepath.Join(p.root, ownProfiles))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range own {
			if e.IsDir() && e.Name() != "trusted" && !slices.Contains(allowed, e.Name()) {
				allowed = append(allowed, e.Name())
			}
		}
	}
	if slices.Contains(allowed, profile) {
		return nil
	}
	return hint.Errorf("choose one of them (image.profile in devbox.yaml), or have root of the host add "+profile+" to AllowedProfiles= of "+where+" in "+path,
		"this host does not allow %s the profile %s: it allows %s", app, profile, strings.Join(allowed, ", "))
}
