package vm

import (
	"path/filepath"
	"strings"
	"testing"
)

// What a server gives as digests: one of the form that Lima verifies, or none.
func FuzzFindSum(f *testing.F) {
	sum := strings.Repeat("0a", 64)
	f.Add(sum+"  disk.qcow2\n"+sum+" *other\n", "disk.qcow2")
	f.Add(sum[1:]+"  disk.qcow2\n", "disk.qcow2")
	f.Add("<html>disk.qcow2", "disk.qcow2")
	f.Fuzz(func(t *testing.T, sums, name string) {
		digest, err := findSum(sums, name)
		if err != nil && digest != "" {
			t.Errorf("the digest %q along with %v", digest, err)
		}
		hex, ok := strings.CutPrefix(digest, "sha512:")
		if err == nil && (!ok || len(hex) != 128 || strings.Trim(hex, "0123456789abcdef") != "" || !strings.Contains(sums, hex)) {
			t.Errorf("the digest %q", digest)
		}
	})
}

// What limactl calls itself: a version that is new enough, one that is not
// known, or an error.
func FuzzLimaVersion(f *testing.F) {
	f.Add("limactl version 1.2.3\n")
	f.Add("limactl version v2.0.0-beta.1-5-gabc")
	f.Add("limactl version 99999999999999999999.0.0")
	f.Add("limactl version HEAD")
	f.Fuzz(func(t *testing.T, out string) {
		if v, err := parseLimaVersion(out); err == nil && v != (limaVersion{}) && v.before(oldestLima) {
			t.Errorf("%q gives %s", out, v)
		}
	})
}

// What Lima writes for ssh names a user and a key, or is an error.
func FuzzLimaSSHConfig(f *testing.F) {
	f.Add("Host lima-bowl\n  IdentityFile \"/home/ann/.lima/_config/user\"\n  User ann\n")
	f.Add("Host *\nMatch\n\"\n= \nUser \"\"\nIdentityFile relative\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(strings.ToLower(text), "include") {
			return // It would read files of this machine.
		}
		user, identity, err := decodeLimaSSHConfig(strings.NewReader(text), "lima-bowl")
		if err == nil && (user == "" || !filepath.IsAbs(identity)) {
			t.Errorf("%q gives the user %q and the key %q", text, user, identity)
		}
	})
}

// What stands in apt's files becomes whole lines for mmdebstrap, or nothing.
func FuzzAptSources(f *testing.F) {
	f.Add("x.list", "deb [arch=amd64] http://mirror/debian trixie main # more\ndeb-src http://mirror/debian trixie main\n")
	f.Add("x.sources", "Types: deb\nURIs: http://a http://b\nSuites: trixie\n trixie-updates\nComponents: main\n\n# x\nEnabled: no\n")
	f.Add("x.sources", " first\n:\n\t\nTypes")
	f.Fuzz(func(t *testing.T, name, text string) {
		for _, s := range parseSources(name, text) {
			for _, word := range append(s.components, s.uri, s.suite) {
				if word == "" || strings.ContainsAny(word, " \t\n") {
					t.Errorf("%q gives %+v", text, s)
				}
			}
		}
	})
}
