package facts_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"devbox/internal/facts"
)

// machine runs a shell command as root on a real Debian; see test/withmachine.
func machine(t *testing.T) func(script string, stdin ...byte) string {
	t.Helper()
	prefix := strings.Fields(os.Getenv("DEVBOX_TEST_SSH"))
	if len(prefix) == 0 {
		t.Skip("needs a devbox test machine: set DEVBOX_TEST_SSH to a command that runs a shell command on it as root")
	}
	return func(script string, stdin ...byte) string {
		t.Helper()
		cmd := exec.Command(prefix[0], append(prefix[1:len(prefix):len(prefix)], script)...)
		cmd.Stdin = bytes.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", script, err)
		}
		return strings.TrimSpace(string(out))
	}
}

// The facts of a real machine are what its own tools say, all of them are
// read, and that takes less than a second.
func TestRealFacts(t *testing.T) {
	sh := machine(t)
	program := filepath.Join(t.TempDir(), "devbox-host")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "../../cmd/devbox-host")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	const host = "/var/tmp/devbox-host-facts"
	sh("cat >"+host+" && chmod 755 "+host, data...)
	defer sh("rm -f " + host + "; userdel -r ann 2>/dev/null; rm -f /etc/sudoers.d/ann /etc/systemd/system/broken.service; systemctl daemon-reload; systemctl reset-failed")
	sh("useradd -m -G adm ann; echo ann:secret | chpasswd; echo 'ann ALL=(ALL) ALL' >/etc/sudoers.d/ann; chmod 440 /etc/sudoers.d/ann; " +
		`printf '[Service]\nType=oneshot\nExecStart=/bin/false\n' >/etc/systemd/system/broken.service; systemctl daemon-reload; systemctl start broken.service || true`)

	var took, best int
	var text string
	for range 3 {
		out := sh("a=$(date +%s%N); " + host + " facts bowl >/run/facts; echo $((($(date +%s%N) - a) / 1000000)); cat /run/facts; rm /run/facts")
		var first string
		first, text, _ = strings.Cut(out, "\n")
		if _, err := fmt.Sscan(first, &took); err != nil {
			t.Fatal(err)
		}
		if best == 0 || took < best {
			best = took
		}
	}
	t.Logf("%d ms, %d bytes", best, len(text))
	if best > 1000 {
		t.Errorf("the facts took %d ms", best)
	}
	var f facts.Facts
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if len(f.Unknown) > 0 {
		t.Errorf("unknown: %v", f.Unknown)
	}
	equal := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}

	versions := map[string]string{}
	for name, p := range f.Packages {
		versions[name] = p.Version
	}
	want := map[string]string{}
	for line := range strings.Lines(sh(`dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n'`)) {
		if w := strings.Fields(line); len(w) == 3 && w[0] == "installed" {
			want[w[1]] = w[2]
		}
	}
	equal("packages", versions, want)
	equal("kernel", f.System.Kernel, sh("uname -r"))
	equal("host", f.System.Host, sh("uname -n"))
	equal("virtualisation", f.System.Virt, "systemd-nspawn")
	equal("distribution", f.System.OS, "debian 13")
	equal("point release", f.System.Point, sh("cat /etc/debian_version"))
	equal("systemd", f.System.Systemd, sh("dpkg-query -W -f '${Version}' systemd"))
	equal("failed units", f.Failed, strings.Fields(sh("systemctl list-units --failed --plain --no-legend | cut -d' ' -f1")))
	if !slices.Contains(f.Failed, "broken.service") {
		t.Errorf("failed units: %q", f.Failed)
	}

	var ports []string
	for _, at := range strings.Fields(sh("ss -Hltn | awk '{print $4}'")) {
		ports = append(ports, "tcp "+at[strings.LastIndexByte(at, ':')+1:])
	}
	slices.Sort(ports)
	got := slices.DeleteFunc(slices.Sorted(maps.Keys(f.Ports)), func(k string) bool { return !strings.HasPrefix(k, "tcp") })
	equal("ports", got, slices.Compact(ports))
	equal("who listens for SSH", f.Ports["tcp 22"].By, "ssh.service")

	for name, value := range f.Sysctls {
		if live := strings.Join(strings.Fields(sh("sysctl -n "+name)), " "); live != value {
			t.Errorf("%s is %q, not %q", name, live, value)
		}
	}
	equal("sshd", f.SSHD["permitrootlogin"], strings.TrimPrefix(sh("sshd -T | grep ^permitrootlogin"), "permitrootlogin "))

	equal("a user", f.Users["ann"], facts.User{UID: f.Users["ann"].UID, Shell: "/bin/sh", Groups: []string{"adm"}, Password: true})
	equal("users", slices.Sorted(maps.Keys(f.Users)), []string{"ann", "devbox", "root"})
	equal("sudoers", f.Sudoers["/etc/sudoers.d/ann"], []string{"ann ALL=(ALL) ALL"})
	if strings.Contains(text, sh("getent shadow ann | cut -d: -f2")) {
		t.Error("a password hash is among the facts")
	}
	if _, ok := f.Files["/etc/systemd/system/broken.service"]; !ok {
		t.Errorf("a unit by hand is not among the files: %v", f.Files)
	}
}
