package provision

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	cloudinit "devbox/cloud-init"
	"devbox/internal/hint"
)

func b64(s string) string {
	if s == "" {
		return "-"
	}
	return base64.StdEncoding.EncodeToString([]byte(s))
}

// seen is a Debian 13 as look.sh tells it, with more records.
func seen(t *testing.T, more ...string) *Seen {
	t.Helper()
	lines := []string{
		"os " + b64("debian") + " " + b64("13") + " " + b64("Debian GNU/Linux 13 (trixie)"),
		"init " + b64("systemd") + " " + b64("systemd 257 (257.8-1~deb13u2)"),
		"arch " + b64("x86_64"),
		"clock " + b64(fmt.Sprint(time.Now().Unix())),
		"space " + b64("/etc") + " " + b64("9000000"),
		"apt -",
	}
	s, err := parseSeen(strings.Join(append(append(lines, more...), "end"), "\n") + "\n")
	if err != nil {
		t.Fatal(err)
	}
	s.skew = time.Until(s.clock)
	return s
}

func fileRecord(path, mode, owner, content string) string {
	return fmt.Sprintf("file %s %s %s %s %d %s", b64(path), Hash([]byte(content)), mode, owner, len(content), b64(content))
}

func TestCompare(t *testing.T) {
	key := testKey(t, "me@test")
	config := []byte(`#cloud-config
groups: [staff2]
users:
  - default
  - name: deploy
    ssh_authorized_keys: ["` + key + `"]
packages: [curl, [git, "1.2"]]
timezone: Europe/Berlin
write_files:
  - {path: /etc/a, content: "one\ntwo\n"}
  - {path: /etc/secret, content: "new", permissions: "0600", owner: "root:root"}
  - {path: /etc/b64, content: aGVsbG8=, encoding: b64}
  - {path: /etc/more, content: x, append: true}
runcmd:
  - set -eu
  - [echo, a b]
`)
	host := Host{Sum: Hash(nil), Version: "v2"}
	record := func(config []byte) string {
		return "state " + b64(fmt.Sprintf(`{"hash":"%s","version":%d,"at":"2026-01-02T03:04:05Z"}`, Hash(config), Version)+"\n"+host.Sum+"  /x\n")
	}
	left := func(path, mode, owner, content string) string {
		return Hash([]byte(content)) + " " + mode + " " + owner + " " + path + "\n"
	}
	all := []string{
		fileRecord("/etc/a", "0644", "root:root", "one\ntwo\n"), fileRecord("/etc/secret", "0600", "root:root", "new"),
		fileRecord("/etc/b64", "0644", "root:root", "hello"), fileRecord("/etc/more", "0644", "root:root", "was\nx"),
	}
	for name, tt := range map[string]struct {
		seen  []string
		want  []Change
		apply bool
		force bool
	}{
		"bare": {apply: true, want: []Change{
			{Kind: "install", Name: "cloud-init", Why: "devbox needs it"},
			{Kind: "install", Name: "python3-jsonschema", Why: "devbox needs it"},
			{Kind: "install", Name: "sudo", Why: "devbox needs it"},
			{Kind: "install", Name: "curl"}, {Kind: "install", Name: "git"},
			{Kind: "group", Name: "staff2"}, {Kind: "user", Name: "deploy"}, {Kind: "key", Name: "me@test", Why: "for deploy"},
			{Kind: "new file", Name: "/etc/a"}, {Kind: "new file", Name: "/etc/secret"}, {Kind: "new file", Name: "/etc/b64"}, {Kind: "new file", Name: "/etc/more"},
			{Kind: "do", Name: "timezone"}, {Kind: "run", Name: "set -eu"}, {Kind: "run", Name: "echo a b"},
			{Kind: "devbox-host", Name: "v2", Why: "there is none"},
		}},
		"all there, an older cloud-config": {apply: true, seen: append([]string{
			record(nil), "host " + b64("v2\n"), "package " + b64("cloud-init"), "package " + b64("python3-jsonschema"), "package " + b64("sudo"),
			"package " + b64("curl"), "package " + b64("git"), "group " + b64("staff2"), "user " + b64("deploy"), "keys " + b64("deploy") + " " + b64("# mine\n"+key+"\n"),
			fileRecord("/etc/a", "0600", "root:mail", "one\nthree\n"), fileRecord("/etc/secret", "0600", "root:root", "old"), "notfile " + b64("/etc/b64"),
		}, all[3]), want: []Change{
			{Kind: "file", Name: "/etc/a", Why: "content, mode 0600 to 0644, owner root:mail to root:root"},
			{Kind: "file", Name: "/etc/secret", Why: "content"},
			{Kind: "file", Name: "/etc/b64", Why: "no file lies there"},
			{Kind: "file", Name: "/etc/more", Why: "appended to"},
			{Kind: "do", Name: "timezone"}, {Kind: "run", Name: "set -eu"}, {Kind: "run", Name: "echo a b"},
		}},
		"applied": {seen: append(all, record(config))},
		"applied, and changed by its own runcmd": {seen: append([]string{
			record(config), fileRecord("/etc/a", "0644", "root:root", "other"),
			"written " + b64(left("/etc/a", "0644", "root:root", "other")+left("/etc/secret", "0600", "root:root", "new")+left("/etc/more", "0644", "root:root", "was\nx")),
		}, all[1], all[3])}, // and /etc/b64 was removed by it
		"applied, and changed by hand": {apply: true, force: true, seen: append([]string{
			record(config), fileRecord("/etc/a", "0644", "root:root", "one\n2\n"),
			"written " + b64(left("/etc/a", "0644", "root:root", "one\ntwo\n")+left("/etc/b64", "0644", "root:root", "hello")+
				left("/etc/secret", "0600", "root:root", "new")+left("/etc/more", "0644", "root:root", "was\nx")),
			"package " + b64("cloud-init"), "package " + b64("python3-jsonschema"), "package " + b64("sudo"), "package " + b64("curl"), "package " + b64("git"),
			"group " + b64("staff2"), "user " + b64("deploy"), "keys " + b64("deploy") + " " + b64(key),
		}, all[1], all[3]), want: []Change{
			{Kind: "file", Name: "/etc/a", Why: "changed on the host: content", Diff: "--- on the host\n+++ to be\n@@ -1,2 +1,2 @@\n one\n-2\n+two\n"},
			{Kind: "new file", Name: "/etc/b64", Why: "it was removed on the host"},
			{Kind: "do", Name: "timezone"}, {Kind: "run", Name: "set -eu"}, {Kind: "run", Name: "echo a b"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Compare(config, seen(t, tt.seen...), host)
			if got.Apply != tt.apply || got.Force != tt.force || got.None() != (len(tt.want) == 0) {
				t.Errorf("apply %v, force %v, none %v", got.Apply, got.Force, got.None())
			}
			if !reflect.DeepEqual(got.All, tt.want) {
				t.Errorf("got\n%+v\nwant\n%+v", got.All, tt.want)
			}
		})
	}
}

func TestRefuse(t *testing.T) {
	for name, tt := range map[string]struct {
		records  []string
		skew     time.Duration
		installs bool
		want     string
	}{
		"as it should be": {installs: true},
		"another system": {
			records: []string{"os " + b64("ubuntu") + " " + b64("24.04") + " " + b64("Ubuntu 24.04 LTS"), "init " + b64("systemd") + " " + b64("systemd 255 (255.4)")},
			want:    "it is Ubuntu 24.04 LTS, not Debian 13; its systemd is 255, older than 257",
		},
		"a container without systemd":   {records: []string{"init " + b64("sh") + " -"}, want: `its process 1 is "sh", not systemd`},
		"a small computer":              {records: []string{"arch " + b64("armv7l")}, want: `it is a "armv7l" machine, neither x86_64 nor aarch64`},
		"read-only":                     {records: []string{"readonly " + b64("/etc")}, want: "/etc cannot be written to"},
		"full":                          {records: []string{"space " + b64("/usr") + " " + b64("300000")}, installs: true, want: "only 292 MiB are free for /usr, and 512 are needed"},
		"full, with nothing to install": {records: []string{"space " + b64("/usr") + " " + b64("300000")}},
		"half-installed packages":       {records: []string{"apt " + b64("bad packages:\n libc6\n")}, installs: true, want: "apt cannot be used: bad packages:  libc6"},
		"a wrong clock":                 {skew: -49 * time.Hour, want: "which is 49h0m0s from this computer's"},
	} {
		t.Run(name, func(t *testing.T) {
			s := seen(t, tt.records...)
			s.skew += tt.skew
			err := s.Refuse(tt.installs)
			if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || hint.Of(err) == "") {
				t.Errorf("got %v (%s), want %q", err, hint.Of(err), tt.want)
			}
		})
	}
}

// A host may print whatever it likes.
func TestParseSeenTrustsNothing(t *testing.T) {
	for _, out := range []string{"", "os - - -\n", "end", "nonsense\nend\n", "file a\nend\n", "file " + b64("/a") + " x 0644 a:b many -\nend\n", "clock " + b64("noon") + "\nend\n", "os !\nend\n", "os\nend\n"} {
		s, err := parseSeen(out)
		if err == nil && s.Refuse(true) == nil {
			t.Errorf("%q is taken for a host", out)
		}
	}
}

func TestUserData(t *testing.T) {
	own := "#cloud-config\n# mine\nruncmd:\n- set -e\n- |\n  echo a # not a comment of YAML\n\n# what stands above packages\npackages: [curl]\nusers:\n  # people\n  - default\n  - name: deploy\n"
	for name, tt := range map[string]struct {
		config, want string // want: what must be in it, in this order, with … for anything
	}{
		"of devbox init": {string(cloudinit.Render([]string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3dDJkfJxJ0vrgO8PXsGvUDcS2GsrDFHJZDpMGJcHHz me"})),
			"#cloud-config\n…users:\n  - default\n  - name: deploy\n…  - systemctl enable --now systemd-timesyncd.service\n  # Added by devbox…\n  - |\n    if [ $? = 0 ]…"},
		"runcmd in the middle": {own, "  echo a # not a comment of YAML\n# Added by devbox…\n- |\n  if [ $? = 0 ]…  fi\n\n# what stands above packages\npackages: [curl]\nusers:\n  # people\n  - default\n  - name: deploy\n"},
		"without runcmd":       {"#cloud-config\npackage_update: true", "package_update: true\nruncmd:\n  # Added by devbox…"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := UserData([]byte(tt.config))
			if err != nil {
				t.Fatal(err)
			}
			rest := string(got)
			for part := range strings.SplitSeq(tt.want, "…") {
				_, after, ok := strings.Cut(rest, part)
				if !ok {
					t.Fatalf("%q is not, or not there, in\n%s", part, got)
				}
				rest = after
			}
			if !strings.Contains(string(got), Hash([]byte(tt.config))) {
				t.Error("it does not record the file's hash")
			}
			if ps := Check(got); len(ps) > 0 {
				t.Error(ps)
			}
		})
	}
	for _, bad := range []string{"#cloud-config\nruncmd: [ls]\n", "#cloud-config\nruncmd:\n", "#cloud-config\nbootcmd: [ls]\n", "runcmd:\n- ls\n"} {
		if got, err := UserData([]byte(bad)); err == nil {
			t.Errorf("%q gives\n%s", bad, got)
		}
	}
}

// Only a user that is listed loses the password, and cloud-init's default is so.
func TestLocksPassword(t *testing.T) {
	for users, want := range map[string]bool{
		"[{name: ann}]":                         true,
		"[{name: ann, lock_passwd: true}]":      true,
		"[{name: ann, lock_passwd: false}]":     false,
		"[{name: ann, lock_passwd: no}]":        false, // cloud-init reads YAML 1.1
		"[{name: ann, lock-passwd: false}]":     false,
		"[default, ann]":                        true,
		"bob, ann":                              true,
		"[default, {name: bob}, {name: annie}]": false,
	} {
		if got := LocksPassword([]byte("#cloud-config\nusers: "+users+"\n"), "ann"); got != want {
			t.Errorf("%s: %v", users, got)
		}
	}
}
