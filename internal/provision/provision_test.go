package provision

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	cloudinit "devbox/cloud-init"
	"devbox/internal/hint"
)

func TestPlan(t *testing.T) {
	key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBzoZhXmB/zJ7vVXyUTdnqJyr0gc5Z0vZkZFhUeTyyQx me@laptop"
	for name, tt := range map[string]struct {
		config   string
		steps    string
		packages string
		problems []string
	}{
		"what init writes": {
			config:   string(cloudinit.Render([]string{key})),
			steps:    "write_files users_groups package_update_upgrade_install runcmd",
			packages: "ca-certificates dbus sudo systemd-container systemd-timesyncd unattended-upgrades",
		},
		"in cloud.cfg's order, not the file's": {
			config:   "#cloud-config\nruncmd: [a]\npackages: [zstd, 'libc6:arm64']\ntimezone: UTC\nusers: [x]\nwrite_files: [{path: /a, defer: true}]\napt: {}\n",
			steps:    "write_files users_groups apt_configure timezone package_update_upgrade_install write_files_deferred runcmd",
			packages: "zstd libc6:arm64",
		},
		"packages with versions are never taken for installed": {
			config: "#cloud-config\npackages: [zstd, [nginx, 1.2]]\n", steps: "package_update_upgrade_install",
		},
		"nor when the rest is to be upgraded": {
			config: "#cloud-config\npackages: [zstd]\npackage_upgrade: true\n", steps: "package_update_upgrade_install",
		},
		"nor with options for apt": {
			config: "#cloud-config\npackages: ['-o x', '$(reboot)']\n", steps: "package_update_upgrade_install",
		},
		"not upgrading is nothing special": {
			config: "#cloud-config\npackages: [zstd]\npackage_upgrade: false\n", steps: "package_update_upgrade_install", packages: "zstd",
		},
		"only comments": {config: "#cloud-config\n# later\n"},
		"no header":     {config: "users: []\n", problems: []string{":1:1: not a cloud-config; let the first line be #cloud-config"}},
		"empty":         {config: "", problems: []string{":1:1: not a cloud-config; let the first line be #cloud-config"}},
		"a template":    {config: "## template: jinja\n#cloud-config\n", problems: []string{":1:1: not a cloud-config; let the first line be #cloud-config"}},
		"a list":        {config: "#cloud-config\n- a\n", problems: []string{":2:1: not a mapping; write `key: value` lines"}},
		"two documents": {config: "#cloud-config\nruncmd: [a]\n---\nruncmd: [b]\n", problems: []string{
			":1:1: more than one YAML document; keep everything in one, without a --- line in between"}},
		"not YAML": {config: "#cloud-config\nusers: [\n", problems: []string{":2:8: not YAML: "}},
		"twice":    {config: "#cloud-config\nruncmd: [a]\nruncmd: [b]\n", problems: []string{":3:1: not YAML: mapping key \"runcmd\" already defined"}},
		"a typo":   {config: "#cloud-config\npakages: [x]\n", problems: []string{`:2:1: pakages is not run by devbox; did you mean "packages"?`}},
		"modules that must not run, all at once": {
			config: "#cloud-config\n\"power_state\": {mode: reboot}\nbootcmd: [a]\nruncmd: [b]\nhostname: x\nsnap: {}\n",
			steps:  "runcmd",
			problems: []string{
				":2:1: power_state is not run by devbox; devbox does not restart",
				":3:1: bootcmd is not run by devbox; it would run at each boot",
				":5:1: hostname is not run by devbox; the provider",
				":6:1: snap is not run by devbox; remove it, or do what it does by runcmd; devbox runs write_files, ",
			},
		},
		"a key that cloud-init would drop silently": {
			config:   "#cloud-config\nusers:\n  - name: a\n    ssh_authorized_keys:\n      - " + key + "\n      - ssh-ed25519 AAAA… you@laptop\n",
			steps:    "users_groups",
			problems: []string{":6:9: not a public key; put the line of your"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, problems := plan([]byte(tt.config))
			if len(problems) != len(tt.problems) {
				t.Fatalf("problems\n%v\nwant\n%s", problems, strings.Join(tt.problems, "\n"))
			}
			for i, p := range problems {
				if !strings.HasPrefix(p.Error(), tt.problems[i]) {
					t.Errorf("%v\nwant %s", p, tt.problems[i])
				}
			}
			if steps := strings.Join(got.steps, " "); steps != tt.steps || got.packages != tt.packages {
				t.Errorf("steps %q, packages %q\nwant  %q, packages %q", steps, got.packages, tt.steps, tt.packages)
			}
		})
	}
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The logs are cloud-init 25.1.4's own.
func TestMessage(t *testing.T) {
	for _, tt := range []struct {
		rec  record
		want string
	}{
		{record{name: "package_update_upgrade_install", code: 1, log: read(t, "package.log"), output: "Reading package lists...\nE: Unable to locate package no-such-package-zz\n"},
			"Failed to install the following packages: {'no-such-package-zz'}. See associated package manager logs for more details; E: Unable to locate package no-such-package-zz"},
		{record{name: "write_files", code: 1, log: read(t, "chown.log")}, `Unknown user or group: "getpwnam(): name not found: 'nobodyzz'"`},
		{record{name: "users_groups", code: 1, log: read(t, "useradd.log")},
			"Unexpected error while running command; Command: ['useradd', 'devbox test', '-m']; Exit code: 19; Reason: -; Stdout; Stderr: useradd: invalid user name 'devbox test': use --badname to ignore"},
		{record{name: "apt_configure", code: 1, log: "2026-11-22 02:47:20,382 - main.py[ERROR]: no traceback here.\n"}, "no traceback here"},
		{record{name: "boot", code: 1, output: "status: error\n"}, "status: error"},
		{record{name: "boot", code: 7}, "exit code 7"},
		{record{name: "runcmd", code: 1, output: "+ set -eu\n+ visudo -cqf x\nx:1: syntax error\n+ rm x\n+ exit 1\n"}, "stopped with exit code 1 at `visudo -cqf x`: x:1: syntax error"},
		{record{name: "runcmd", code: 2, output: "+ echo a\na\n+ ls /nope\nls: no\n"}, "stopped with exit code 2 at `ls /nope`: ls: no"},
		{record{name: "runcmd", code: 1, log: read(t, "chown.log")}, `Unknown user or group: "getpwnam(): name not found: 'nobodyzz'"`},
	} {
		if got := message(tt.rec); got != tt.want {
			t.Errorf("%s\ngot  %s\nwant %s", tt.rec.name, got, tt.want)
		}
	}
	if got := warnings(read(t, "lock.log")); len(got) != 1 || !strings.HasPrefix(got[0], "Not unlocking blank password") {
		t.Errorf("warnings %q", got)
	}
}

func TestSchemaProblems(t *testing.T) {
	want := Problems{
		{Line: 4, Column: 1, Problem: "[] is too short", Cure: "see `ssh_authorized_keys: []`"},
		{Line: 6, Column: 1, Problem: "'path' is a required property", Cure: "see `- paths: /proc/nope/x`"},
		{Line: 6, Column: 1, Problem: "Additional properties are not allowed ('paths' was unexpected)", Cure: "see `- paths: /proc/nope/x`"},
		{Line: 8, Column: 1, Problem: "False is not of type 'array'", Cure: "see `packages: no`"},
	}
	if got := schemaProblems(read(t, "annotate.txt")); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	broken := "Error: Cloud config schema errors: format-l3.c1: File y.yaml is not valid YAML. while parsing a flow node\nexpected\n"
	if got := schemaProblems(broken); len(got) != 1 || got[0].Line != 3 || got[0].Problem != "not YAML: while parsing a flow node" {
		t.Errorf("got %+v", got)
	}
	if got := schemaProblems("Traceback\n"); got != nil {
		t.Errorf("got %+v", got)
	}
}

// canned answers one script with lines, and fails on any other.
type canned struct {
	t      *testing.T
	script string
	lines  string
	exit   int
	err    error
	args   []string
}

func (c *canned) Run(_ context.Context, cmd Command) (int, error) {
	if cmd.Script != c.script {
		c.t.Errorf("ran another script: %s", cmd.Script)
	}
	c.args = cmd.Args
	if cmd.Stdin != nil {
		if _, err := io.Copy(io.Discard, cmd.Stdin); err != nil {
			return 0, err
		}
	}
	if _, err := io.WriteString(cmd.Stdout, c.lines); err != nil {
		return 0, err
	}
	fmt.Fprint(cmd.Stderr, "said on stderr\n")
	return c.exit, c.err
}

func TestApplyFollowsRecords(t *testing.T) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	lost := errors.New("connection lost")
	for name, tt := range map[string]struct {
		host    canned
		err     string // "" is none
		hint    string
		changed bool
		steps   []string
		noted   string // the first that is told while it runs
	}{
		"same":           {host: canned{lines: "same\n"}},
		"all":            {host: canned{lines: "begin schema\nend schema 0 - -\nskip package_update_upgrade_install\nbegin runcmd\nend runcmd 0 - " + b64("x") + "\ndone\n"}, changed: true, steps: []string{"schema", "package_update_upgrade_install", "runcmd"}},
		"busy":           {host: canned{lines: "waiting\nbusy\n"}, err: "another devbox is setting this host up", hint: "wait for it", noted: Waiting},
		"waited":         {host: canned{lines: "waiting\nsame\n"}, noted: Waiting},
		"missing":        {host: canned{lines: "missing cloud-init\n"}, err: "cloud-init is not installed on the host", hint: "apt-get install cloud-init"},
		"cut":            {host: canned{lines: "begin schema\nend schema 0 - -\nbegin runcmd\n"}, err: "stopped answering before the end", changed: true, steps: []string{"schema"}},
		"half line":      {host: canned{lines: "begin schema\nend sch"}, err: "unexpected EOF"},
		"lost":           {host: canned{lines: "begin schema\n", err: lost}, err: "connection lost"},
		"lost in a line": {host: canned{lines: "begin schema\nend sch", err: lost}, err: "connection lost"},
		"no root":        {host: canned{exit: 1}, err: "exit code 1: said on stderr"},
		"chatter":        {host: canned{lines: "Welcome to Debian!\n"}, err: `the host answers with "Welcome to Debian!", which is no record`},
		"flood":          {host: canned{lines: strings.Repeat("x", maxRecord+1)}, err: "more than a record may hold"},
		"failure": {host: canned{lines: "begin runcmd\nend runcmd 3 - " + b64("+ false\n") + "\n"}, changed: true,
			err: "apply x.yaml: runcmd: stopped with exit code 3 at `false`", hint: "correct x.yaml and run this again"},
		"schema": {host: canned{lines: "begin schema\nend schema 1 - " + b64(read(t, "annotate.txt")) + "\n"},
			err: "x.yaml:4:1: [] is too short", hint: "nothing was changed"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.host.t, tt.host.script = t, applyScript
			config := []byte("#cloud-config\npackages: [zstd]\nruncmd: [x]\n")
			noted := ""
			report, err := Apply(t.Context(), &tt.host, config, Options{Name: "x.yaml", OnStep: func(s Step) { noted = cmp.Or(noted, s.Name) }})
			if (err == nil) != (tt.err == "") || err != nil && (!strings.Contains(err.Error(), tt.err) || !strings.Contains(hint.Of(err), tt.hint)) {
				t.Fatalf("%v (%s), want %s (%s)", err, hint.Of(err), tt.err, tt.hint)
			}
			if tt.noted != "" && noted != tt.noted {
				t.Errorf("it is told that it is at %q", noted)
			}
			if tt.host.err != nil && !errors.Is(err, tt.host.err) {
				t.Errorf("%v hides its cause", err)
			}
			if got := stepNames(report); report.Changed != tt.changed || !reflect.DeepEqual(got, tt.steps) {
				t.Errorf("changed %v, steps %v", report.Changed, got)
			}
			want := []string{Hash(config), "1", "no", "zstd", "", "0", "", "", "", "", "package_update_upgrade_install", "runcmd"}
			if !reflect.DeepEqual(tt.host.args, want) {
				t.Errorf("arguments %q", tt.host.args)
			}
		})
	}
}

// What is still at work on the host is no host that does not answer, nor one
// that refuses.
func TestUndoTellsWhyNot(t *testing.T) {
	for exit, want := range map[int]error{0: nil, undoneNot: ErrAtWork, undonePartly: ErrPartly} {
		lines, err := Undo(t.Context(), &canned{t: t, script: trialScript, lines: "restored /etc/x\n", exit: exit}, "id")
		if !errors.Is(err, want) || (err == nil) != (len(lines) == 1) {
			t.Errorf("exit code %d: %q, %v", exit, lines, err)
		}
	}
	_, err := Undo(t.Context(), &canned{t: t, script: trialScript, exit: 1}, "id")
	if err == nil || errors.Is(err, ErrAtWork) || errors.Is(err, ErrPartly) || !strings.Contains(err.Error(), "exit code 1: said on stderr") {
		t.Errorf("sudo refuses: %v", err)
	}
}

// A file that is refused here never reaches the host.
func TestApplyChecksFirst(t *testing.T) {
	_, err := Apply(t.Context(), nil, []byte("#cloud-config\npower_state: {}\n"), Options{Name: "x.yaml"})
	if err == nil || !strings.HasPrefix(err.Error(), "x.yaml:2:1: power_state is not run by devbox") || hint.Of(err) == "" {
		t.Errorf("%v (%s)", err, hint.Of(err))
	}
}

func TestReadState(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for out, want := range map[string]State{
		"{}\n": {},
		`{"hash":"h","version":1,"at":"2026-01-02T03:04:05Z"}` + "\n" + sum + "  /usr/local/sbin/devbox-host\n": {Hash: "h", Version: 1, At: at, Host: sum},
		`{"hash":"h","vers` + "\n" + sum + "  x\n":                                                              {Host: sum},
		`{"hash":"h","version":1,"host":"forged"}` + "\n":                                                       {Hash: "h", Version: 1},
		"": {},
	} {
		got, err := ReadState(t.Context(), &canned{t: t, script: stateScript, lines: out})
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", out, got, err, want)
		}
	}
}

// Whatever a host prints: an answer that makes sense, or an error.
func FuzzRecords(f *testing.F) {
	f.Add("begin schema\nend schema 1 eA== eA==\n")
	f.Add("skip a\nbegin b\nend b 0 - -\ndone\n")
	f.Add("end runcmd 1 - KyBh\n")
	f.Fuzz(func(t *testing.T, lines string) {
		a := &applying{report: &Report{}, onStep: func(Step) {}, file: "x"}
		final, err := a.follow(bufio.NewReader(strings.NewReader(lines)))
		if final && err != nil {
			t.Errorf("final and %v", err)
		}
	})
}

// What a host's cloud-init prints on failing always makes a message, and a
// problem of the file a place in it.
func FuzzMessage(f *testing.F) {
	f.Add("runcmd", "", "+ test -e /x\n+ exit 1\n")
	f.Add("write_files", "2026-01-02 15:04:05,678 - cc_x.py[WARNING]: text\nOSError: why\n more\n", "E: Unable to locate package x\n")
	f.Add("schema", "", "#cloud-config\npakages: [curl]\t\t# E1,D2\n\n# Errors: -------------\n# E1: no such key\n")
	f.Add("schema", "", "Error: format-l0.c0: File x is not valid YAML. while parsing")
	f.Fuzz(func(t *testing.T, name, log, output string) {
		if message(record{kind: "end", name: name, code: 1, log: log, output: output}) == "" {
			t.Error("no message")
		}
		for _, p := range schemaProblems(output) {
			if p.Line < 1 || p.Column < 1 {
				t.Errorf("%+v", p)
			}
		}
	})
}

// What a host says that it is counts only where it has the form of it.
func FuzzState(f *testing.F) {
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"hash":"h","version":1,"at":"2026-01-02T03:04:05Z"}` + "\n" + strings.Repeat("ab", 32) + "  /usr/local/sbin/devbox-host\n"))
	f.Add([]byte(`{"hash":"h","version":1,"host":"forged"}` + "\n" + strings.Repeat("?", 64) + " x"))
	f.Fuzz(func(t *testing.T, out []byte) {
		s := parseState(out)
		if sum, err := hex.DecodeString(s.Host); err != nil || len(sum) != 0 && len(sum) != sha256.Size {
			t.Errorf("%q gives the digest %q", out, s.Host)
		}
	})
}

func FuzzPlan(f *testing.F) {
	f.Add(string(cloudinit.Render(nil)))
	f.Add("#cloud-config\nusers: [{name: a, ssh_authorized_keys: [x]}]\nwrite_files:\n- defer: true\n")
	f.Add("#cloud-config\n? a\n: &b [*b]\n<<: {c: !!x d}\n")
	f.Fuzz(func(t *testing.T, config string) {
		got, problems := plan([]byte(config))
		for _, p := range problems {
			if p.Line < 1 || p.Column < 1 || p.Problem == "" {
				t.Errorf("%+v", p)
			}
		}
		if strings.ContainsAny(got.packages, "$`;&|<>()\\\"'*?[]{}~!#\n\t") {
			t.Errorf("packages for the shell: %q", got.packages)
		}
	})
}
