package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devbox/internal/policy"
	"devbox/internal/protocol"
)

// policy puts files into /etc/devbox until the test ends.
func (m *machine) policy(t *testing.T, text string) {
	t.Helper()
	m.sh(t, "mkdir -p /etc/devbox")
	m.put(t, "/"+policy.File, []byte(text))
	t.Cleanup(func() { m.sh(t, "rm -rf /etc/devbox") })
}

// The policy as sudo and the command line meet it.
func TestRealPolicy(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-policy", 18106
	m.fresh(t, app)
	c := m.serve(t, "SUDO_USER=anna")
	c.hello(app)
	one := build(t, standard(app, port))
	c.deploy(app, one, protocol.Settings{}, protocol.Committed)
	m.policy(t, "[App "+app+"]\nUser=anna bert\n")
	if a := c.activate(app, one, protocol.Settings{}); a.Result == nil || a.Result.Outcome != protocol.Unchanged {
		t.Errorf("one who may: %+v", a.Event)
	}
	hello := protocol.Request{Hello: &protocol.Hello{Protocol: protocol.Version, App: app}}
	if a := m.serve(t, "SUDO_USER=carl").ask(hello, nil); a.Code != protocol.CodePolicy || !strings.Contains(a.Hint, "/etc/devbox/policy.conf") {
		t.Errorf("one who may not: %+v", a.Event)
	}
	for _, command := range []string{"status " + app, "recover " + app, "forget " + app, "logs " + app, "logs " + app + " " + app + ".service"} {
		out := m.sh(t, "SUDO_USER=carl "+m.host+" "+command+" 2>&1 && echo it worked || true")
		if !strings.Contains(out, "the user carl may not touch") || !strings.Contains(out, "hint: ") || strings.Contains(out, "it worked") {
			t.Errorf("%s: %s", command, out)
		}
	}
	if out := m.sh(t, "SUDO_USER=carl "+m.host+" status"); strings.Contains(out, app) {
		t.Errorf("status of all: %s", out)
	}
	// From one moment to the next, also for a session that is open.
	m.policy(t, "[App "+app+"]\nUser=bert\n")
	if a := c.ask(protocol.Request{Status: &protocol.StatusOf{App: app}}, nil); a.Code != protocol.CodePolicy {
		t.Errorf("one who may no longer: %+v", a.Event)
	}
	m.sh(t, "chmod 666 /etc/devbox/policy.conf")
	if a := m.serve(t, "SUDO_USER=bert").ask(hello, nil); a.Code != protocol.CodePolicy || !strings.Contains(a.Error, "can be written by others") {
		t.Errorf("a policy that anybody may write: %+v", a.Event)
	}
	// At boot nobody asks, and sudo is not there.
	if out := m.sh(t, "env -u SUDO_USER "+m.host+" recover "+app); out != "" {
		t.Errorf("recover: %s", out)
	}
	if got := m.get(t, port); !strings.HasPrefix(got, "one ") {
		t.Errorf("answers %q", got)
	}
}

// The machine's own ssh-keygen says who signed what runs.
func TestRealSignature(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-signed", 18107
	m.fresh(t, app)
	keys := t.TempDir()
	public := map[string]string{}
	for _, who := range []string{"anna", "mallory"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(keys, who)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		data, err := os.ReadFile(filepath.Join(keys, who+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		public[who] = string(data)
	}
	m.policy(t, "[Policy]\nAllowedSigners=/etc/devbox/allowed_signers\n")
	m.put(t, "/etc/devbox/allowed_signers", []byte("anna@example.com namespaces=\"devbox\" "+public["anna"]))
	c := m.serve(t, "")
	c.hello(app)
	base := standard(app, port)
	settings := protocol.Settings{Health: protocol.Health{Deadline: time.Minute}}
	activate := func(b built, who string) answer {
		t.Helper()
		if a := c.receive(app, b, nil); a.Error != "" {
			t.Fatalf("%+v", a)
		}
		req := protocol.Activate{App: app, Digest: b.digest, Settings: settings}
		if who != "" {
			req.Signature = signWith(t, filepath.Join(keys, who), app, b.digest, settings)
		}
		return c.ask(protocol.Request{Activate: &req}, nil)
	}
	one, two := build(t, base), build(t, base.with("usr/share/relapp/page", "two"))
	for who, part := range map[string]string{"": "runs only what is signed", "mallory": "no allowed signer"} {
		if a := activate(one, who); a.Code != protocol.CodePolicy || !strings.Contains(a.Error, part) || a.Hint == "" {
			t.Errorf("signed by %q: %+v", who, a.Event)
		}
	}
	for _, b := range []built{one, two} {
		if a := activate(b, "anna"); a.Result == nil || a.Result.Outcome != protocol.Committed {
			t.Fatalf("signed: %+v", a.Event)
		}
	}
	if a := c.back(app, protocol.Previous); a.Result == nil || a.Result.Outcome != protocol.Committed {
		t.Errorf("back to a signed one: %+v", a.Event)
	}
	if r := c.releases(app)[0]; r.SignedBy != "anna@example.com" || r.Of != "r1" {
		t.Errorf("%+v", r)
	}
	// Whoever is no longer allowed is so for what was signed before, too.
	m.put(t, "/etc/devbox/allowed_signers", []byte("mallory@example.com "+public["mallory"]))
	if a := c.back(app, "r2"); a.Code != protocol.CodePolicy {
		t.Errorf("back to one of a signer who is no longer allowed: %+v", a.Event)
	}
	if got := m.get(t, port); !strings.HasPrefix(got, "one ") {
		t.Errorf("answers %q", got)
	}
}

// Whatever an image has beside the app's own units stays in it.
func TestRealHostileImage(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-hostile", 18108
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	units := "usr/lib/systemd/system/"
	evil := "[Service]\nExecStart=/usr/bin/relapp\n"
	base := standard(app, port)
	c.deploy(app, build(t, base), protocol.Settings{}, protocol.Committed)
	before := m.sh(t, "ls -R /etc/systemd/system.attached; systemctl cat ssh.service")
	more := base.with("usr/share/relapp/page", "two",
		"usr/lib/os-release", "ID=evil\nPORTABLE_PREFIXES=\""+app+" rel-other ssh\"\n",
		units+"ssh.service", evil, units+"rel-other.service", evil, "etc/systemd/system.control/ssh.socket", "[Socket]\nListenStream=22\n",
		units+app+".service.d/99-evil.conf", "[Service]\nRootImage=\nUser=root\n",
		units+"service.d/99-evil.conf", "[Service]\nRootImage=\n",
		"etc/systemd/system/multi-user.target.wants/ssh.service", evil)
	c.deploy(app, build(t, more), protocol.Settings{}, protocol.Committed)
	if after := m.sh(t, "ls -R /etc/systemd/system.attached; systemctl cat ssh.service"); after != before {
		t.Errorf("it attached more than the app's units:\n%s\nbefore:\n%s", after, before)
	}
	for name, p := range map[string]parts{
		"a unit that leads out of the image": {app: app, files: base.files, links: map[string]string{units + app + "-shadow.service": "/etc/shadow"}},
		"a unit of the host":                 {app: app, files: base.with(units+app+"-side@.service", evil).files},
		"drop-ins for other units":           base.with(units+app+"-.service", evil),
		"a unit that is none":                base.with(units+app+"-x.service", "\x00\xff"),
	} {
		if name == "a unit of the host" {
			m.sh(t, "mkdir -p /run/systemd/system && echo > /run/systemd/system/"+app+"-side@.service")
			defer m.sh(t, "rm /run/systemd/system/"+app+"-side@.service")
		}
		b := build(t, p)
		if a := c.receive(app, b, nil); a.Error != "" {
			t.Fatalf("%s: %+v", name, a)
		}
		if a := c.activate(app, b, protocol.Settings{}); a.Error == "" || a.Lost {
			t.Errorf("%s: %+v", name, a.Event)
		} else {
			t.Logf("%s: %s", name, a.Error)
		}
	}
	if after := m.sh(t, "ls -R /etc/systemd/system.attached; systemctl cat ssh.service"); after != before {
		t.Errorf("what was refused left something:\n%s\nbefore:\n%s", after, before)
	}
	if got := m.get(t, port); !strings.HasPrefix(got, "two ") {
		t.Errorf("answers %q", got)
	}
}
