package policy

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"devbox/internal/hint"
)

const full = `# who may do what on this host
[Policy]
AllowedApps=bowl \
  shop
AllowedProfiles=default strict
AllowedProfiles=own-profile
AllowedSigners=/etc/devbox/allowed_signers

[App bowl]
User=deploy anna
User=bert.b
AllowedProfiles=trusted
`

func parse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAllowed(t *testing.T) {
	none, p := &Policy{root: t.TempDir()}, parse(t, full)
	for _, own := range []string{"tight", "trusted"} {
		if err := os.MkdirAll(filepath.Join(none.root, ownProfiles, own), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	wider := parse(t, "[App bowl]\nUser=anna\n")
	for _, tt := range []struct {
		name               string
		policy             *Policy
		app, user, profile string
		err                string // a part of it, "" if it is allowed
	}{
		{"without a policy", none, "bowl", "deploy", "default", ""},
		{"without a policy, strict", none, "bowl", "deploy", "strict", ""},
		{"without a policy, no network", none, "bowl", "deploy", "nonetwork", ""},
		{"without a policy, trusted", none, "bowl", "root", "trusted", "does not allow bowl the profile trusted: it allows default, nonetwork, strict, tight"},
		{"without a policy, root's own profile", none, "bowl", "deploy", "tight", ""},
		{"a user of the app", p, "bowl", "anna", "trusted", ""},
		{"from another line", p, "bowl", "bert.b", "trusted", ""},
		{"another user", p, "bowl", "carl", "trusted", "the user carl may not touch the app bowl"},
		{"root", p, "bowl", "root", "trusted", ""},
		{"root without sudo", p, "bowl", "", "trusted", ""},
		{"the app's profiles take the place of the policy's", p, "bowl", "anna", "strict", "the profile strict: it allows trusted"},
		{"an app without a section", p, "shop", "carl", "own-profile", ""},
		{"the policy's profiles take the place of the default", p, "shop", "carl", "nonetwork", "it allows default, strict, own-profile"},
		{"an app that is not named", p, "bowl-x", "anna", "default", "not for the app bowl-x"},
		{"an app that is not named, root", p, "ssh", "root", "default", "not for the app ssh: its policy allows bowl, shop"},
		{"any app", wider, "other", "carl", "strict", ""},
		{"any app but this", wider, "bowl", "carl", "strict", "may not touch"},
	} {
		err := tt.policy.App(tt.app, tt.user)
		if err == nil {
			err = tt.policy.Profile(tt.app, tt.profile)
		}
		switch {
		case tt.err == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(hint.Of(err), path)):
			t.Errorf("%s: %v (hint %q), want %q", tt.name, err, hint.Of(err), tt.err)
		}
	}
}

// A mistake is not passed over: it could be the line that keeps somebody out.
func TestMistakes(t *testing.T) {
	for _, tt := range []struct{ text, err string }{
		{"[Policy]\nAllowedProfile=strict\n", `policy.conf:2: [Policy] has no setting "AllowedProfile"`},
		{"[policy]\nAllowedProfiles=strict\n", "policy.conf:2: there is no section [policy]"},
		{"[Policy]\nUser=anna\n", `no setting "User"`},
		{"[App bowl]\n\nAllowedSigners=/x\n", `policy.conf:3: [App bowl] has no setting "AllowedSigners"`},
		{"[App Bowl]\nUser=anna\n", "there is no section [App Bowl]"},
		{"[App]\nUser=anna\n", "there is no section [App]"},
		{"[App bowl]\nUser=\n", "User= is empty"},
		{"[Policy]\nAllowedApps=\n", "AllowedApps= is empty"},
		{"[App bowl]\nUser=anna,bert\n", `"anna,bert" is no name`},
		{"[App bowl]\nUser=\"anna\"\n", `is no name`},
		{"[Policy]\nAllowedApps=bowl ../x\n", `"../x" is no name`},
		{"[Policy]\nAllowedProfiles=../../x\n", `is no name`},
		{"[Policy]\nAllowedSigners=allowed_signers\n", "no absolute path"},
		{"[Policy]\nAllowedSigners=/etc/../x\n", "no absolute path"},
		{"[Policy]\nAllowedSigners=/a\nAllowedSigners=/b\n", "policy.conf:3: AllowedSigners= is there twice"},
		{"[Policy]\nAllowedApps=shop\n[App bowl]\nUser=anna\n", "AllowedApps= does not name bowl"},
		{"AllowedApps=shop\n", "stands before any section"},
		{"[Policy]\nAllowedApps\n", "not of the form"},
		{"[Policy\n", "no closing bracket"},
		{"\xff", "is not text"},
	} {
		if p, err := Parse([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), "policy.conf") {
			t.Errorf("%q: %+v, %v, want %q", tt.text, p, err, tt.err)
		}
	}
}

// Only a file that is root's alone counts; any other one forbids everything.
func TestLoad(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, root, file string)
		err  string
	}{
		{"none", func(t *testing.T, root, file string) {}, ""},
		{"no folder for it", func(t *testing.T, root, file string) { must(t, os.RemoveAll(filepath.Join(root, "etc"))) }, ""},
		{"a good one", func(t *testing.T, root, file string) { must(t, os.WriteFile(file, []byte(full), 0o644)) }, ""},
		{"a mistake in it", func(t *testing.T, root, file string) { must(t, os.WriteFile(file, []byte("[x]\ny=z\n"), 0o644)) }, "no section [x]"},
		{"a group may write it", func(t *testing.T, root, file string) {
			must(t, os.WriteFile(file, []byte(full), 0o644))
			must(t, os.Chmod(file, 0o664))
		}, "/etc/devbox/policy.conf can be written by others than root (mode 0664)"},
		{"all may write its folder", func(t *testing.T, root, file string) {
			must(t, os.WriteFile(file, []byte(full), 0o644))
			must(t, os.Chmod(filepath.Dir(file), 0o777))
		}, "/etc/devbox can be written by others"},
		{"there is none, but all may put one there", func(t *testing.T, root, file string) {
			must(t, os.Chmod(filepath.Dir(file), 0o777))
		}, "/etc/devbox can be written by others"},
		{"it is a link", func(t *testing.T, root, file string) { must(t, os.Symlink("/etc/passwd", file)) }, "too many levels of symbolic links"},
		{"it is a folder", func(t *testing.T, root, file string) { must(t, os.Mkdir(file, 0o755)) }, "is not a file"},
		{"it is a pipe", func(t *testing.T, root, file string) { must(t, syscall.Mkfifo(file, 0o600)) }, "is not a file"},
		{"its folder is a file", func(t *testing.T, root, file string) {
			must(t, os.Remove(filepath.Dir(file)))
			must(t, os.WriteFile(filepath.Dir(file), nil, 0o644))
		}, "/etc/devbox is not a folder"},
		{"it is another user's", func(t *testing.T, root, file string) {
			must(t, os.WriteFile(file, []byte(full), 0o644))
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			must(t, os.Chown(file, 1234, 0))
		}, "/etc/devbox/policy.conf does not belong to root"},
		{"its folder is another user's", func(t *testing.T, root, file string) {
			must(t, os.WriteFile(file, []byte(full), 0o644))
			if os.Geteuid() != 0 {
				t.Skip("only root can give a folder away")
			}
			must(t, os.Chown(filepath.Dir(file), 1234, 0))
		}, "/etc/devbox does not belong to root"},
		{"it is huge", func(t *testing.T, root, file string) { must(t, os.WriteFile(file, make([]byte, maxFile+1), 0o644)) }, "is larger than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			file := filepath.Join(root, File)
			must(t, os.MkdirAll(filepath.Dir(file), 0o755))
			tt.make(t, root, file)
			p, err := Load(root)
			if tt.err == "" && (err != nil || p == nil) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(hint.Of(err), path)) {
				t.Errorf("%+v, %v (hint %q), want %q", p, err, hint.Of(err), tt.err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever the file has in it: an error, or a policy of which every name is one.
func FuzzParse(f *testing.F) {
	for _, text := range []string{full, "[App x]\nUser=a \\\n#c\n b\n", "[Policy]\nAllowedSigners=/x\n", "[App x]\n", "[Policy]\nAllowedApps=a\\"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			return
		}
		for app, r := range p.rules {
			for _, name := range append(append([]string{app}, r.users...), r.profiles...) {
				if name == "" || strings.ContainsAny(name, " /,\"\n\x00") {
					t.Errorf("%q has the name %q", data, name)
				}
			}
			if len(r.users) > 0 && p.App(app, "no-such-user") == nil && r.users[0] != "no-such-user" && len(r.users) == 1 {
				t.Errorf("%q lets everybody in", data)
			}
		}
		if len(p.apps) > 0 && p.App("-", "root") == nil {
			t.Errorf("%q allows any app", data)
		}
	})
}
