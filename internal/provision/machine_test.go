package provision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	cloudinit "devbox/cloud-init"
	"devbox/internal/hint"
)

// shell runs scripts on the machine that DEVBOX_TEST_SSH leads to: a program
// that runs its arguments, joined by spaces, as a shell command as root there.
type shell struct{ program string }

func (s shell) Run(ctx context.Context, c Command) (int, error) {
	args := []string{"exec", "sh", "-c", quote(c.Script), "sh"}
	for _, a := range c.Args {
		args = append(args, quote(a))
	}
	cmd := exec.CommandContext(ctx, s.program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil && exit.ExitCode() != 255 { // 255 is ssh's own
		return exit.ExitCode(), nil
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return 0, err
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func machine(t *testing.T) shell {
	t.Helper()
	program := os.Getenv("DEVBOX_TEST_SSH")
	if program == "" {
		t.Skip("needs DEVBOX_TEST_SSH, a program that runs a command as root on a Debian 13 with cloud-init that may be changed")
	}
	return shell{program}
}

func (s shell) must(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := output(t.Context(), s, script, nil, args...)
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return strings.TrimSpace(string(out))
}

// everything is what must not differ: files, packages, users, units.
const everything = `cd /
find etc usr/local/sbin home root -xdev ! -name .ash_history -printf '%y %m %u:%g %p -> %l\n' | sort
find etc usr/local/sbin home root -xdev -type f -exec sha256sum {} + | sort
dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n'
systemctl list-unit-files --no-legend --no-pager
sysctl -a 2>/dev/null | grep -E '^(net.core.somaxconn|net.ipv4.tcp_max_syn|kernel.panic) '`

func testKey(t *testing.T, comment string) string {
	t.Helper()
	path := t.TempDir() + "/key"
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v %s", err, out)
	}
	key, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(key))
}

func stepNames(r *Report) (names []string) {
	for _, s := range r.Steps {
		names = append(names, s.Name)
	}
	return names
}

// The file of `devbox init` makes a host: what it promises is true there, a
// second time costs nothing, and even forced it changes nothing.
func TestApplyServer(t *testing.T) {
	m := machine(t)
	ctx := t.Context()
	config := cloudinit.Render([]string{testKey(t, "one@test")})
	if ps := Check(config); len(ps) > 0 {
		t.Fatal(ps)
	}
	var seen []string
	first, err := Apply(ctx, m, config, Options{Name: "cloud-init/server.yaml", OnStep: func(s Step) {
		if s.Ended {
			seen = append(seen, s.Name)
			t.Logf("%-32s %6.2fs skipped %v %v", s.Name, s.Took.Seconds(), s.Skipped, s.Warnings)
		}
	}})
	if err != nil {
		t.Fatalf("%v\nhint: %s", err, hint.Of(err))
	}
	if !first.Changed {
		t.Error("a new file is said to change nothing")
	}
	want := []string{"schema", "write_files", "users_groups", "package_update_upgrade_install", "runcmd"}
	if got := stepNames(first); !reflect.DeepEqual(got, want) || !reflect.DeepEqual(got, seen) {
		t.Errorf("steps %v, seen %v, want %v", got, seen, want)
	}
	for what, script := range map[string]string{
		"deploy may run devbox-host":     `sudo -l -U deploy | grep -Fx '    (root) NOPASSWD: /usr/local/sbin/devbox-host'`,
		"and nothing else":               `test "$(sudo -l -U deploy | grep -c '^    (')" = 1`,
		"deploy has no password":         `passwd -S deploy | grep -q '^deploy L '`,
		"deploy has the key":             `grep -q one@test ~deploy/.ssh/authorized_keys`,
		"sshd takes no passwords":        `sshd -T | grep -qx 'passwordauthentication no'`,
		"root by key only":               `sshd -T | grep -qx 'permitrootlogin without-password'`,
		"portabled can be reached":       `busctl status org.freedesktop.portable1 >/dev/null || portablectl list >/dev/null`,
		"the journal is persistent":      `journalctl --flush; ls /var/log/journal/*/system.journal >/dev/null`,
		"updates come by themselves":     `apt-config dump | grep -Fx 'APT::Periodic::Unattended-Upgrade "1";'`,
		"and no reboot does":             `apt-config dump | grep -Fx 'Unattended-Upgrade::Automatic-Reboot "false";'`,
		"the clock is set":               `systemctl is-enabled systemd-timesyncd`,
		"a queue for a burst of clients": `test "$(cat /proc/sys/net/core/somaxconn)" -ge 4096`,
		"nothing is left":                `! ls -d /run/devbox-provision.*/ 2>/dev/null`,
	} {
		if exit, err := m.Run(ctx, Command{Script: script}); exit != 0 || err != nil {
			t.Errorf("not true on the host: %s (%s: %d, %v)", what, script, exit, err)
		}
	}
	state, err := ReadState(ctx, m)
	if err != nil || !state.Current(config) || time.Since(state.At).Abs() > 24*time.Hour {
		t.Errorf("state %+v, %v", state, err)
	}

	before := m.must(t, everything)
	start := time.Now()
	again, err := Apply(ctx, m, config, Options{})
	t.Logf("a second time %v", time.Since(start))
	if err != nil || again.Changed || len(again.Steps) > 0 {
		t.Errorf("a second time: %+v, %v", again, err)
	}
	forced, err := Apply(ctx, m, config, Options{Force: true})
	if err != nil || !forced.Changed || len(forced.Steps) != len(want) {
		t.Fatalf("forced: %+v, %v", forced, err)
	}
	if s := forced.Steps[3]; !s.Skipped {
		t.Errorf("packages that are all there were not skipped: %+v", s)
	}
	if after := m.must(t, everything); after != before {
		t.Errorf("applying again changes the host:\n%s", difference(before, after))
	}
	other := append(bytes.Clone(config), "# another\n"...)
	if state.Current(other) {
		t.Error("a changed file counts as applied")
	}
}

func difference(a, b string) string {
	in := map[string]bool{}
	for l := range strings.SplitSeq(a, "\n") {
		in[l] = true
	}
	var out []string
	for l := range strings.SplitSeq(b, "\n") {
		if !in[l] {
			out = append(out, "+ "+l)
		}
		delete(in, l)
	}
	for l := range in {
		out = append(out, "- "+l)
	}
	return strings.Join(out, "\n")
}

// What cannot be applied fails with the words of who refused it.
func TestApplyFails(t *testing.T) {
	m := machine(t)
	defer m.must(t, "rm -f /etc/devbox-test-file /etc/apt/sources.list.d/devbox-test.list")
	for name, tt := range map[string]struct {
		config, step, message string
	}{
		"file where no folder can be": {
			"write_files: [{path: /proc/nope/x, content: hi}]", "write_files",
			"[Errno 2] No such file or directory: '/proc/nope'",
		},
		"unknown owner": {
			"write_files: [{path: /etc/devbox-test-file, owner: 'devbox-nobody:root', content: hi}]", "write_files",
			"Unknown user or group: \"getpwnam(): name not found: 'devbox-nobody'\"",
		},
		"unknown owner, deferred": {
			"write_files: [{path: /etc/devbox-test-file, owner: 'devbox-nobody:root', content: hi, defer: true}]", "write_files_deferred",
			"Unknown user or group",
		},
		"unknown package, package lists out of reach": {
			"write_files: [{path: /etc/apt/sources.list.d/devbox-test.list, content: 'deb http://devbox-test.invalid/x y main'}]\n" +
				"packages: [devbox-no-such-package]", "package_update_upgrade_install",
			"Failed to install the following packages: {'devbox-no-such-package'}. See associated package manager logs for more details; " +
				"W: Failed to fetch http://devbox-test.invalid/x/dists/y/InRelease",
		},
		"package lists that are wrong": {
			"write_files: [{path: /etc/apt/sources.list.d/devbox-test.list, content: 'deb nonsense'}]\n" +
				"package_update: true", "package_update_upgrade_install",
			"E: Malformed entry 1 in list file /etc/apt/sources.list.d/devbox-test.list",
		},
		"command of the script": {
			"runcmd:\n  - set -e\n  - echo fine\n  - ls /devbox-nowhere\n  - echo never\n", "runcmd",
			"stopped with exit code 2 at `ls /devbox-nowhere`: ls: cannot access '/devbox-nowhere': No such file or directory",
		},
		"unknown zone": {
			"timezone: Mars/Base", "timezone",
			"Invalid timezone Mars/Base, no file found at /usr/share/zoneinfo/Mars/Base",
		},
		"impossible user name": {
			"users: [{name: 'devbox test', lock_passwd: true}]", "users_groups", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer m.must(t, "rm -f /etc/apt/sources.list.d/devbox-test.list")
			report, err := Apply(t.Context(), m, []byte("#cloud-config\n"+tt.config+"\n"), Options{Name: "x.yaml"})
			var step *StepError
			if !errors.As(err, &step) || hint.Of(err) == "" {
				t.Fatalf("%v, want a StepError with a cure", err)
			}
			if step.Step != tt.step || !strings.Contains(step.Message, tt.message) {
				t.Errorf("%s: %s\nwant %s: %s", step.Step, step.Message, tt.step, tt.message)
			}
			t.Log(err)
			if !report.Changed {
				t.Error("a host that was changed half-way is said to be unchanged")
			}
			if state, err := ReadState(t.Context(), m); err != nil || state.Hash != "" {
				t.Errorf("after a failure the host says %+v, %v", state, err)
			}
		})
	}
}

// A file that the schema rejects is shown with its lines and touches nothing.
func TestApplyRefusesBySchema(t *testing.T) {
	m := machine(t)
	good := []byte("#cloud-config\nruncmd: ['true']\n")
	if _, err := Apply(t.Context(), m, good, Options{}); err != nil {
		t.Fatal(err)
	}
	before := m.must(t, everything)
	bad := "#cloud-config\nusers:\n  - name: devboxtest\n    ssh_authorized_keys: []\nwrite_files:\n  - content: hi\npackages: 3\n"
	_, err := Apply(t.Context(), m, []byte(bad), Options{Name: "x.yaml"})
	var ps Problems
	if !errors.As(err, &ps) || hint.Of(err) == "" {
		t.Fatalf("%v, want Problems with a cure", err)
	}
	for i, want := range []string{"x.yaml:4:1: [] is too short", "x.yaml:6:1: 'path' is a required property", "x.yaml:7:1: 3 is not of type 'array'"} {
		if i >= len(ps) || !strings.HasPrefix(ps[i].Error(), want) {
			t.Errorf("got\n%v\nwant %s", ps, want)
		}
	}
	if after := m.must(t, everything); after != before {
		t.Errorf("a refused file changes the host:\n%s", difference(before, after))
	}
	if state, err := ReadState(t.Context(), m); err != nil || !state.Current(good) {
		t.Errorf("a refused file makes the host forget what is applied: %+v, %v", state, err)
	}
}

// Cut off at any moment, the next one starts over; two at once take turns.
func TestApplyInterruptedAndTogether(t *testing.T) {
	m := machine(t)
	defer m.must(t, "rm -f /run/devbox-test-*")
	stamp := fmt.Sprint(time.Now().UnixNano())
	config := []byte("#cloud-config\n# " + stamp + "\nruncmd:\n  - set -e\n  - echo begin >>/run/devbox-test-" + stamp + "\n  - sleep 3\n  - echo end >>/run/devbox-test-" + stamp + "\n")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Apply(ctx, m, config, Options{OnStep: func(s Step) {
		if s.Name == "runcmd" {
			time.AfterFunc(1500*time.Millisecond, cancel)
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	type result struct {
		r   *Report
		err error
	}
	results := make(chan result)
	for range 2 {
		go func() {
			r, err := Apply(t.Context(), m, config, Options{})
			results <- result{r, err}
		}()
	}
	changed := 0
	for range 2 {
		got := <-results
		if got.err != nil {
			t.Fatal(got.err)
		}
		if got.r.Changed {
			changed++
		}
	}
	if changed != 1 {
		t.Errorf("%d of two applied the file, want 1", changed)
	}
	ran := strings.Fields(m.must(t, "cat /run/devbox-test-"+stamp))
	for i := 0; i < len(ran); i += 2 {
		if i+1 < len(ran) && (ran[i] != "begin" || ran[i+1] != "end") && i > 0 {
			t.Errorf("scripts ran at once: %v", ran)
		}
	}
	if n := len(ran); n < 3 || ran[n-2] != "begin" || ran[n-1] != "end" {
		t.Errorf("ran %v, want the last one whole", ran)
	}
}

func TestInstallHost(t *testing.T) {
	m := machine(t)
	m.must(t, `[ ! -e "$1" ] || mv "$1" /var/tmp/devbox-test-host`, HostPath)
	defer m.must(t, `rm -f "$1" "$2" "$3"; [ ! -e /var/tmp/devbox-test-host ] || mv /var/tmp/devbox-test-host "$1"`, HostPath, recoverPath, recoverLink)
	for _, binary := range [][]byte{[]byte("#!/bin/sh\necho one\n"), bytes.Repeat([]byte("#!/bin/sh\n"), 1<<20)} {
		sum := Hash(binary)
		for _, want := range []bool{true, false} {
			changed, err := InstallHost(t.Context(), m, binary, sum)
			if err != nil || changed != want {
				t.Fatalf("InstallHost: %v, %v; want %v", changed, err, want)
			}
		}
		if state, err := ReadState(t.Context(), m); err != nil || state.Host != sum {
			t.Errorf("state %+v, %v", state, err)
		}
	}
	if got := m.must(t, `stat -c '%a %U:%G' "$1"; ls -A /usr/local/sbin`, HostPath); got != "755 root:root\ndevbox-host" {
		t.Errorf("it lies there as %q", got)
	}
	if _, err := InstallHost(t.Context(), m, []byte("x"), Hash(nil)); err == nil {
		t.Error("a wrong sum is taken")
	}
	if got := m.must(t, `systemctl is-enabled devbox-recover; systemctl list-dependencies --plain sysinit.target | grep recover; systemd-analyze verify "$1" 2>&1`, recoverPath); got != "enabled\n  devbox-recover.service" {
		t.Errorf("the unit: %s", got)
	}
	// What a power cut while it was installed, or a person, leaves is put right.
	program := bytes.Repeat([]byte("#!/bin/sh\n"), 1<<20)
	for _, harm := range []string{`rm "$1"`, `rm "$2"`, `: >"$1"`, `ln -sfT /dev/null "$2"`, `echo >>"$1"`, `rm "$1" "$2"`} {
		m.must(t, harm, recoverPath, recoverLink)
		if state, err := ReadState(t.Context(), m); err != nil || state.Host != "" {
			t.Errorf("%s is not noticed: %+v, %v", harm, state, err)
		}
		if changed, err := InstallHost(t.Context(), m, program, Hash(program)); err != nil || !changed {
			t.Errorf("%s is not cured: %v, %v", harm, changed, err)
		}
		if state, err := ReadState(t.Context(), m); err != nil || state.Host != Hash(program) {
			t.Errorf("%s is not cured: %+v, %v", harm, state, err)
		}
	}
	if left := m.must(t, `ls -A "${1%/*}" "${2%/*}" | grep '^[.]devbox' || true`, recoverPath, recoverLink); left != "" {
		t.Errorf("left: %s", left)
	}
	_, err := output(t.Context(), m, installScript, bytes.NewReader([]byte("junk")), HostPath, Hash(nil), recoverPath, recoverLink, recoverUnit)
	if got := m.must(t, `ls -A /usr/local/sbin; head -c 9 "$1"`, HostPath); err == nil || got != "devbox-host\n#!/bin/sh" {
		t.Errorf("damaged on the way: %v, then %q", err, got)
	}
}

func TestAuthorizeKey(t *testing.T) {
	m := machine(t)
	m.must(t, "useradd -m -s /bin/sh devboxkeys")
	defer m.must(t, "userdel -rf devboxkeys 2>/dev/null || true")
	one, two := testKey(t, "one@test"), testKey(t, "two@test")
	for i, tt := range []struct {
		line    string
		changed bool
		lines   int
	}{
		{one, true, 1},
		{one, false, 1},
		{two + "\n", true, 2},
		{strings.TrimSuffix(one, " one@test"), false, 2}, // the same key without its comment
	} {
		changed, err := AuthorizeKey(t.Context(), m, "devboxkeys", tt.line)
		if err != nil || changed != tt.changed {
			t.Errorf("%d: %v, %v", i, changed, err)
		}
		if got := m.must(t, "grep -c . ~devboxkeys/.ssh/authorized_keys"); got != fmt.Sprint(tt.lines) {
			t.Errorf("%d: %s lines, want %d", i, got, tt.lines)
		}
	}
	if got := m.must(t, "stat -c '%a %U:%G %n' ~devboxkeys/.ssh ~devboxkeys/.ssh/*"); got !=
		"700 devboxkeys:devboxkeys /home/devboxkeys/.ssh\n600 devboxkeys:devboxkeys /home/devboxkeys/.ssh/authorized_keys" {
		t.Error(got)
	}
	// A line without its end, and a link to where only root may write.
	m.must(t, "printf 'ssh-rsa AAAA cut' >~devboxkeys/.ssh/authorized_keys")
	if _, err := AuthorizeKey(t.Context(), m, "devboxkeys", one); err != nil {
		t.Fatal(err)
	}
	if got := m.must(t, "cat ~devboxkeys/.ssh/authorized_keys"); got != "ssh-rsa AAAA cut\n"+one {
		t.Error(got)
	}
	m.must(t, "rm -r ~devboxkeys/.ssh && ln -s /etc/devbox-test-dir ~devboxkeys/.ssh")
	if _, err := AuthorizeKey(t.Context(), m, "devboxkeys", one); err == nil {
		t.Error("a link leads root out of the user's folder")
	}
	for user, line := range map[string]string{"devboxnobody": one, "devboxkeys": "not a key"} {
		if _, err := AuthorizeKey(t.Context(), m, user, line); err == nil {
			t.Errorf("%s, %q: no error", user, line)
		} else {
			t.Log(err)
		}
	}
}
