package provision

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"
	"golang.org/x/crypto/ssh"
)

// Change is one thing that is to be done on a host.
type Change struct {
	Kind string `json:"kind"` // install, group, user, key, new file, file, do, run, devbox-host
	Name string `json:"name"`
	Why  string `json:"why,omitempty"`
	Diff string `json:"diff,omitempty"` // of a text file, as diff -u has it
}

// Changes is what [Apply] and [InstallHost] are to do on a host that was looked
// at.
type Changes struct {
	// Apply is false if the cloud-config is applied already.
	Apply bool `json:"apply"`
	// Force is true if a file was changed on the host since it was applied.
	Force bool `json:"-"`
	// Install is false if the devbox-host there is the one to install.
	Install bool     `json:"install"`
	All     []Change `json:"changes,omitempty"`
}

// None tells whether there is nothing to do.
func (c Changes) None() bool { return !c.Apply && !c.Install }

// Installs tells whether packages are to be installed.
func (c Changes) Installs() bool {
	return slices.ContainsFunc(c.All, func(x Change) bool { return x.Kind == "install" })
}

// Host is a devbox-host to install.
type Host struct {
	Sum     string // SHA-256, hex
	Version string // as it tells it
}

// Compare decides what is to be done. It asks nobody.
func Compare(cloudConfig []byte, s *Seen, host Host) Changes {
	w := readWanted(cloudConfig)
	c := Changes{Apply: !s.State.Current(cloudConfig), Install: s.State.Host != host.Sum}
	files := s.changedFiles(w, !c.Apply)
	if !c.Apply && len(files) > 0 {
		c.Apply, c.Force = true, true
	}
	add := func(kind, name, why string) { c.All = append(c.All, Change{Kind: kind, Name: name, Why: why}) }
	if c.Apply {
		for _, p := range base {
			if !s.packages[p] {
				add("install", p, "devbox needs it")
			}
		}
		for _, p := range w.packages {
			if !s.packages[p] && !slices.Contains(base, p) {
				add("install", p, "")
			}
		}
		for _, g := range w.groups {
			if !s.groups[g] {
				add("group", g, "")
			}
		}
		for _, u := range w.users {
			if !s.users[u.name] {
				add("user", u.name, "")
			}
			for _, k := range u.keys {
				if !hasKey(s.keys[u.name], k) {
					add("key", keyName(k), "for "+u.name)
				}
			}
		}
		c.All = append(c.All, files...)
		for _, step := range w.others {
			add("do", step, "")
		}
		for _, line := range w.commands {
			add("run", line, "")
		}
	}
	if c.Install {
		why := "there is none"
		switch {
		case s.State.Host != "":
			why = "instead of " + known(s.HostTold)
		case s.HostTold != "":
			why = "the unit that recovers at boot is not as it should be"
		}
		add("devbox-host", known(host.Version), why)
	}
	return c
}

func known(version string) string {
	if version = strings.TrimSpace(version); version != "" {
		return version
	}
	return "an unknown version"
}

// changedFiles compares files with what is to be in them or, if applied is set
// and the last run told how it left them, with that: a runcmd line may change
// a file once more.
func (s *Seen) changedFiles(w wanted, applied bool) (out []Change) {
	for i, f := range w.files {
		if slices.ContainsFunc(w.files[i+1:], func(later wantedFile) bool { return later.path == f.path && later.opaque == "" }) {
			continue // written over
		}
		is, there := s.files[f.path]
		left, known := s.written[f.path]
		switch {
		case applied && known && there && is.line() == left, applied && s.written != nil && !known && !there:
			continue
		case !there:
			c := Change{Kind: "new file", Name: f.path}
			if applied {
				c.Why = "it was removed on the host"
			}
			out = append(out, c)
			continue
		case !is.regular:
			out = append(out, Change{Kind: "file", Name: f.path, Why: "no file lies there"})
			continue
		}
		why := f.differs(is)
		if applied && known && is.line() != left {
			why = strings.Join(slices.DeleteFunc([]string{"changed on the host", why}, func(s string) bool { return s == "" }), ": ")
		}
		if why == "" || applied && !known && f.opaque != "" {
			continue
		}
		out = append(out, Change{Kind: "file", Name: f.path, Why: why, Diff: f.diff(is)})
	}
	return out
}

// differs says in what the file on the host is not as it should be.
func (f wantedFile) differs(is seenFile) string {
	var why []string
	switch {
	case f.opaque != "":
		why = append(why, f.opaque)
	case is.sum != Hash(f.content):
		why = append(why, "content")
	}
	if is.mode != f.mode {
		why = append(why, "mode "+is.mode+" to "+f.mode)
	}
	if owner := f.owner; owner != is.owner && owner+":"+owner != is.owner {
		why = append(why, "owner "+is.owner+" to "+owner)
	}
	return strings.Join(why, ", ")
}

// maxDiff bounds what is compared line by line, in bytes.
const maxDiff = 32 << 10

// diff is empty for what is no text, and for what not everyone on the host may
// read. sudo's rules are hidden there by custom and hold no secret.
func (f wantedFile) diff(is seenFile) string {
	mode, err := strconv.ParseUint(is.mode, 8, 32)
	secret := err != nil || mode&0o004 == 0 && !strings.HasPrefix(f.path, "/etc/sudoers")
	switch {
	case f.opaque != "", secret, int64(len(is.content)) != is.size, len(f.content) > maxDiff, len(is.content) > maxDiff:
		return ""
	case !utf8.Valid(f.content) || !utf8.Valid(is.content) || bytes.IndexByte(f.content, 0) >= 0 || bytes.IndexByte(is.content, 0) >= 0:
		return ""
	}
	text := diff.Diff("on the host", is.content, "to be", f.content)
	_, hunks, _ := bytes.Cut(text, []byte("\n")) // "diff old new"
	return string(hunks)
}

// bareKey is a line of authorized_keys without its options and comment.
func bareKey(line string) string {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return ""
	}
	return string(key.Marshal())
}

func hasKey(authorizedKeys, line string) bool {
	want := bareKey(line)
	for l := range strings.Lines(authorizedKeys) {
		if got := bareKey(l); got != "" && got == want {
			return true
		}
	}
	return false
}

// keyName is a key as a person knows it: its comment, or else its fingerprint.
func keyName(line string) string {
	key, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil:
		return fmt.Sprintf("%.40q", line)
	case comment != "":
		return comment
	}
	return ssh.FingerprintSHA256(key)
}

// KeysOf returns the keys that may log in as user once the cloud-config is
// applied: those that it names, and those that the host has now.
func KeysOf(cloudConfig []byte, s *Seen, user string) (keys []ssh.PublicKey) {
	lines := strings.Split(s.keys[user], "\n")
	for _, u := range readWanted(cloudConfig).users {
		if u.name == user {
			lines = append(lines, u.keys...)
		}
	}
	for _, l := range lines {
		if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(l)); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// OtherKeys tells whether the cloud-config has sshd look for keys elsewhere than
// in authorized_keys.
func OtherKeys(cloudConfig []byte) bool {
	for _, option := range []string{"TrustedUserCAKeys", "AuthorizedKeysCommand", "AuthorizedKeysFile"} {
		if bytes.Contains(bytes.ToLower(cloudConfig), []byte(strings.ToLower(option))) {
			return true
		}
	}
	return false
}

// LocksPassword tells whether the cloud-config takes away the password of user,
// one that the host has before, too.
func LocksPassword(cloudConfig []byte, user string) bool {
	return slices.ContainsFunc(readWanted(cloudConfig).users, func(u wantedUser) bool { return u.name == user && u.locks })
}
