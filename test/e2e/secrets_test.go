package e2e

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"devbox/internal/secret"
	"devbox/test/harness"
)

// testSecrets gives the app a secret over the connection that a server would
// be reached by, has it read by a release that wants it, and boots the machine
// anew. Neither value is anywhere on this computer afterwards.
func testSecrets(t *testing.T, p *harness.Project) {
	const unit = "deployment/portable/usr/lib/systemd/system/bowl.service"
	values := []string{"battery staple 7f1c", "purple monkey 93ae"}
	held := func() string { return p.Inside(t, "cat /run/credentials/bowl.service/bowl.session-key") }
	// Those of machine.secrets in devbox.yaml are there, too.
	list := func() (all []secret.Entry) {
		t.Helper()
		for line := range strings.Lines(p.Must(t, "secret", "list", "--json").Stdout) {
			var e secret.Entry
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			if e.Name != "acme-ca" && e.Name != "s3" {
				all = append(all, e)
			}
		}
		return all
	}
	if all := list(); len(all) != 0 {
		t.Fatalf("there are secrets: %+v", all)
	}
	r := p.Feed(t, []byte(values[0]+"\n"), "secret", "set", "session-key")
	t.Log(r)
	if r.Code != 0 || r.Stdout != "" || !strings.Contains(r.Stderr, "session-key is set on the dev machine: 19 B\nnothing that runs there loads it; a service does by LoadCredentialEncrypted=bowl.session-key\n") {
		t.Fatal(r)
	}

	was := p.Undo(t, unit)
	p.Edit(t, unit, "[Service]\n", "[Service]\nLoadCredentialEncrypted=bowl.session-key\n")
	p.Must(t, "up")
	if got := held(); got != values[0] {
		t.Errorf("the service has %q", got)
	}
	if r := p.Must(t, "secret", "list"); !strings.Contains(r.Stdout, "bowl.service\n") {
		t.Error(r)
	} else {
		t.Log(r)
	}
	r = p.Feed(t, []byte(values[1]), "secret", "set", "session-key")
	t.Log(r)
	if r.Code != 0 || !strings.Contains(r.Stderr, "bowl.service goes on without it until restarted: `devbox ssh sudo systemctl restart bowl.service`\n") {
		t.Error(r)
	}
	if all := list(); len(all) != 1 || !slices.Equal(all[0].Stale, []string{"bowl.service"}) {
		t.Errorf("before it restarts: %+v", all)
	}
	if got := held(); got != values[0] {
		t.Errorf("before it restarts the service has %q", got)
	}
	p.Must(t, "down")
	p.Must(t, "up")
	if got := held(); got != values[1] {
		t.Errorf("after a boot the service has %q", got)
	}

	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"secret", "rm", "session-kee"}, 2, "error: bowl has no secret session-kee on this host\nhint: there are: acme-ca, s3, session-key\n"},
		{[]string{"secret", "rm", "session-key"}, 2, "error: session-key is in use: bowl.service loads it\nhint: "},
		{[]string{"secret", "set", "session-key"}, 2, "error: the value is empty; nothing was changed\n"},
	} {
		if r := p.Run(t, c.args...); r.Code != c.code || !strings.Contains(r.Stderr, c.want) {
			t.Error(r)
		}
	}
	was()
	p.Must(t, "up")
	p.Must(t, "secret", "rm", "session-key")
	if all := list(); len(all) != 0 {
		t.Errorf("after rm: %+v", all)
	}
	if got := p.Inside(t, "ls -A /etc/credstore.encrypted | grep session; journalctl -t devbox-host -o cat | grep -c 'secret session-key of bowl was .* by deploy'"); got != "3" {
		t.Errorf("left on the machine, or not in its journal: %q", got)
	}
	nowhere(t, p, values)
}

// nowhere looks for values in all that devbox may have written on this
// computer: the home folder but for the machine and the disk that it lies on.
func nowhere(t *testing.T, p *harness.Project, values []string) {
	t.Helper()
	err := filepath.WalkDir(p.Home, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == p.MachineDir():
			return fs.SkipDir
		case !d.Type().IsRegular() || path == filepath.Join(p.Home, "disk"):
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, value := range values {
			if bytes.Contains(b, []byte(value)) {
				t.Errorf("%s has %q", path, value)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
