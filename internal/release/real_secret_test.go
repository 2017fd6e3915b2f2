package release

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"devbox/internal/protocol"
)

// given runs a script whose stdin is text, and returns what it prints.
func (m *machine) given(text, script string) (string, error) {
	cmd := m.command(script)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Searches for what the file $FOR holds.
const (
	inFiles     = "grep -rlaF -f $FOR /etc /var /run /tmp /root /home --exclude-dir=credentials --devices=skip"
	inSystemctl = "(systemctl show '*'; systemctl cat 'rel-*') | grep -aF -f $FOR"
	inJournal   = "journalctl -a -o export | grep -aF -f $FOR"
	inProcesses = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' ' | grep -aF -f $FOR"
)

// search is what a search finds. What is looked for goes by stdin and through
// memory: it would else be found in the search itself.
func (m *machine) search(t *testing.T, text, script string) string {
	t.Helper()
	out, err := m.given(text, "FOR=/dev/shm/for; cat > $FOR; "+script+"; code=$?; rm $FOR; [ $code -le 1 ]")
	if err != nil {
		t.Errorf("%s: %v: %.300s", script, err, out)
	}
	return out
}

// A secret reaches the service that names it and nothing else: it is looked for
// in all that the machine keeps and shows.
func TestRealSecretIsTheServicesAlone(t *testing.T) {
	m := realMachine(t)
	const app, port, unit = "rel-secret", 18121, "rel-secret.service"
	m.fresh(t, app)
	t.Cleanup(func() { m.sh(t, "rm -f /etc/credstore.encrypted/"+app+".*") })
	value := rand.Text()
	set := func(value string) string {
		t.Helper()
		out, err := m.given(value, m.host+" secret set "+app+" key")
		if err != nil {
			t.Fatalf("set: %v: %s", err, out)
		}
		return out
	}

	// What systemd-creds, and who starts it, are given beside their stdin.
	m.sh(t, `mkdir -p /var/tmp/spy && cd /var/tmp/spy && cat > systemd-creds <<'END' && chmod 755 systemd-creds
#!/bin/sh
cat /proc/$$/cmdline /proc/$$/environ /proc/$PPID/cmdline /proc/$PPID/environ | tr '\0' '\n' >> /var/tmp/spy/seen
exec /usr/bin/systemd-creds "$@"
END`)
	t.Cleanup(func() { m.sh(t, "rm -r /var/tmp/spy") })
	out, err := m.given(value, "PATH=/var/tmp/spy:$PATH "+m.host+" secret set "+app+" key")
	if err != nil || out != "key of "+app+" is set: 26 bytes" {
		t.Fatalf("set: %v: %s", err, out)
	}
	if seen := m.sh(t, "cat /var/tmp/spy/seen"); !strings.Contains(seen, "--name="+app+".key") || !strings.Contains(seen, "secret\nset") || strings.Contains(seen, value) {
		t.Errorf("arguments and environments: %s", seen)
	}

	service := strings.Replace(fmt.Sprintf(appService, app), "[Install]", "DynamicUser=yes\nLoadCredentialEncrypted="+app+".key\n[Install]", 1)
	c := m.serve(t, "")
	c.hello(app)
	c.deploy(app, build(t, standard(app, port).with("usr/lib/systemd/system/"+unit, service)), protocol.Settings{}, protocol.Committed)
	holds := func() string {
		return m.sh(t, fmt.Sprintf("curl -sS --max-time 5 http://127.0.0.1:%d/credential/%s.key", port, app))
	}
	hash := func(value string) string { return fmt.Sprintf("%x <nil>", sha256.Sum256([]byte(value))) }
	if got := holds(); got != hash(value) {
		t.Fatalf("the service read %q", got)
	}

	if out, err := m.given("", "setpriv --reuid=nobody --clear-groups cat /run/credentials/"+unit+"/* /etc/credstore.encrypted/*"); err == nil {
		t.Errorf("another user read it: %s", out)
	}
	for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value))} {
		for _, where := range []string{inFiles, inSystemctl, inJournal, inProcesses} {
			if out := m.search(t, form, where); out != "" {
				t.Errorf("it is found by %s: %.300q", where, out)
			}
		}
	}
	// The same searches find what is there.
	for where, text := range map[string]string{
		"grep -rlaF -f $FOR /run/credentials": value, inFiles: "LoadCredentialEncrypted=" + app + ".key", inSystemctl: "LoadCredentialEncrypted=" + app + ".key",
		inJournal: "secret key of " + app + " was set by ", inProcesses: "/usr/bin/relapp",
	} {
		if m.search(t, text, where) == "" {
			t.Errorf("%s does not find %q", where, text)
		}
	}

	// A new value is the service's from its next start on.
	next := rand.Text()
	if out := set(next); !strings.HasSuffix(out, "; until it restarts, what runs has the value before: "+unit) {
		t.Errorf("set says %q", out)
	}
	if got := holds(); got != hash(value) {
		t.Errorf("the running service has %q", got)
	}
	m.sh(t, "systemctl restart "+unit)
	if got := holds(); got != hash(next) {
		t.Errorf("after a restart the service has %q", got)
	}
	if out := m.sh(t, m.host+" secret list "+app); !strings.HasPrefix(out, "key  20") || !strings.HasSuffix(out, "  "+unit) {
		t.Errorf("list says %q", out)
	}

	if out, err := m.given("", m.host+" secret rm "+app+" key"); err == nil || !strings.Contains(out, "key is in use: "+unit+" loads it") {
		t.Errorf("rm of one in use: %v, %s", err, out)
	}
	m.sh(t, m.host+" secret rm --force "+app+" key; [ ! -e /etc/credstore.encrypted/"+app+".key ]")
	if out := m.sh(t, m.host+" secret list "+app); out != "key  not set  "+unit {
		t.Errorf("list says %q", out)
	}
}

// A release whose unit names a secret that is not set, or another app's, is
// refused before anything is touched, and the cause said.
func TestRealSecretMissingAtADeploy(t *testing.T) {
	m := realMachine(t)
	const app, port, unit = "rel-nosecret", 18122, "rel-nosecret.service"
	m.fresh(t, app)
	t.Cleanup(func() {
		m.sh(t, "rm -f /etc/credstore.encrypted/"+app+".* /etc/credstore.encrypted/rel-other.*; rm -rf /var/lib/devbox/rel-other")
	})
	c := m.serve(t, "")
	c.hello(app)
	old := build(t, standard(app, port))
	c.deploy(app, old, protocol.Settings{}, protocol.Committed)
	pid := m.pid(t, unit)
	naming := func(line string) built {
		return build(t, standard(app, port).with("usr/lib/systemd/system/"+unit, strings.Replace(fmt.Sprintf(appService, app), "[Install]", line+"\n[Install]", 1)))
	}
	wants := naming("LoadCredentialEncrypted=" + app + ".key")
	if a := c.receive(app, wants, nil); a.Error != "" {
		t.Fatal(a.Error)
	}
	a := c.activate(app, wants, protocol.Settings{})
	if a.Result != nil || a.Error != unit+" wants the secret key, which is not set on this host" || a.Hint != "run `devbox secret set [TARGET] key`" {
		t.Errorf("without the secret: %+v", a.Event)
	}
	m.sh(t, "mkdir -p /var/lib/devbox/rel-other")
	if out, err := m.given("x", m.host+" secret set rel-other key"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	stolen := naming("LoadCredentialEncrypted=rel-other.key")
	if a := c.receive(app, stolen, nil); a.Error != "" {
		t.Fatal(a.Error)
	}
	if a := c.activate(app, stolen, protocol.Settings{}); a.Error != unit+" takes rel-other.key, which is a secret of the app rel-other" {
		t.Errorf("with another app's secret: %+v", a.Event)
	}
	if got := m.get(t, port); !strings.HasPrefix(got, "one "+old.digest[:12]+" r1") || m.pid(t, unit) != pid {
		t.Errorf("what ran was touched: %q", got)
	}
	if out, err := m.given("x", m.host+" secret set "+app+" key"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if a := c.activate(app, wants, protocol.Settings{}); a.Result == nil || a.Result.Outcome != protocol.Committed {
		t.Errorf("with the secret: %+v", a.Event)
	}
}

// What image.Check says of lines that name a secret is what systemd does.
func TestRealLinesThatNameASecret(t *testing.T) {
	m := realMachine(t)
	const app = "rel-lines"
	t.Cleanup(func() {
		m.sh(t, "rm -f /etc/credstore.encrypted/"+app+".* /run/rel-lines.out /run/systemd/system/rel-lines.service; systemctl daemon-reload")
	})
	if out, err := m.given("open sesame", m.host+" secret set "+app+" key"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, c := range []struct {
		name, line string
		want       string // what the service finds; "status N": it does not start
	}{
		{"by name", "LoadCredentialEncrypted=rel-lines.key", "rel-lines.key:open sesame"},
		{"by name and path", "LoadCredentialEncrypted=rel-lines.key:/etc/credstore.encrypted/rel-lines.key", "rel-lines.key:open sesame"},
		{"by a pattern", "ImportCredential=rel-lines.*", "rel-lines.key:open sesame"},
		{"missing", "LoadCredentialEncrypted=rel-lines.nope", ""},
		{"missing, with its path", "LoadCredentialEncrypted=rel-lines.nope:/etc/credstore.encrypted/rel-lines.nope", "status 243"},
		{"by another name", "LoadCredentialEncrypted=key:/etc/credstore.encrypted/rel-lines.key", "status 243"},
		{"imported by another name", "ImportCredential=rel-lines.key:key", "status 243"},
		{"in a device sandbox", "LoadCredentialEncrypted=rel-lines.key\nPrivateDevices=yes", "rel-lines.key:open sesame"},
	} {
		unit := "[Service]\nType=oneshot\nDynamicUser=yes\n" + c.line + "\nStandardOutput=truncate:/run/rel-lines.out\n" +
			"ExecStart=/bin/sh -c 'cd %d && grep -sH \"\" * || true'\n"
		m.put(t, "/run/systemd/system/rel-lines.service", []byte(unit))
		got := m.sh(t, "systemctl daemon-reload; if systemctl start rel-lines 2>/dev/null; then cat /run/rel-lines.out; else echo status $(systemctl show -P ExecMainStatus rel-lines); fi")
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	got := m.sh(t, "systemd-run -q --wait --pipe -p LoadCredential=rel-lines.key sh -c 'cat $CREDENTIALS_DIRECTORY/rel-lines.key'")
	if got != m.sh(t, "cat /etc/credstore.encrypted/rel-lines.key") {
		t.Errorf("LoadCredential= gives %q", got)
	}
}
