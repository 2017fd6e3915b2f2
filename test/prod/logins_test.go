package prod

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devbox/test/harness"
)

// testLogins is about who gets in, and to what.
func testLogins(t *testing.T, s *site) {
	known := filepath.Join(s.Home, ".ssh", "known_hosts")
	key := filepath.Join(s.Home, ".ssh", "id_ed25519")
	was, err := os.ReadFile(known)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	stranger := filepath.Join(t.TempDir(), "key")
	harness.Output(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger)
	public, err := os.ReadFile(stranger + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(stranger)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		what  string
		begin func()
		says  []string
	}{
		{"an unknown host key", func() { write(known, "") }, []string{"host key", "SHA256:", "hint:"}},
		{"a changed host key", func() { write(known, "# mine\n"+s.address+" "+string(public)) }, []string{"host key", known + " line 2", "hint:"}},
		{"a wrong key", func() { write(key, string(private)) }, []string{"as deploy: refused", "cloud-init/server.yaml", "hint:"}},
		{"a port where nothing listens", func() { s.Edit(t, "devbox.yaml", "    host: ", "    port: 9\n    host: ") }, []string{s.address + ":9", "refused"}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			defer s.Undo(t, "devbox.yaml")()
			defer func() { write(known, string(was)); write(key, string(mine)) }()
			tt.begin()
			r := s.Run(t, "status", "prod")
			r2 := s.deploy(t)
			for _, part := range tt.says {
				if !strings.Contains(r.Stdout+r.Stderr, part) || !strings.Contains(r2.Stdout+r2.Stderr, part) {
					t.Errorf("no %q in\n%s\n%s", part, r, r2)
				}
			}
			if r.Code == 0 || r2.Code == 0 || r.Took > 15*time.Second {
				t.Errorf("%s\n%s", r, r2)
			}
			t.Logf("exit %d after %s: %s", r2.Code, r2.Took.Round(time.Millisecond), errorLine(r2.Stderr))
		})
	}
	t.Run("what the deploy user may do", func(t *testing.T) {
		for _, command := range []string{
			"sudo -n id", "sudo -n sh -c id", "sudo id </dev/null", "sudo cat /etc/shadow </dev/null", "sudo -n /usr/local/sbin/../bin/env id", "cat /var/lib/private/bowl/bowl.db", "cat /etc/shadow",
			"sudo -n /usr/local/sbin/devbox-host forget ../../etc", "sudo -n /usr/local/sbin/devbox-host logs bowl sshd.service",
			"sudo -n /usr/local/sbin/devbox-host logs bowl --cursor='x --file=/etc/shadow'", "sudo -n LD_PRELOAD=/tmp/x.so /usr/local/sbin/devbox-host version",
		} {
			out, err := s.asDeploy(command)
			if err == nil {
				t.Errorf("deploy may %s: %s", command, out)
			}
		}
		if out, err := s.asDeploy("sudo -n /usr/local/sbin/devbox-host version"); err != nil {
			t.Errorf("deploy may not run devbox-host: %v %s", err, out)
		}
		// sudo -n refuses without a word in the journal.
		for program, refusal := range map[string]string{"sudo": "command not allowed", "devbox-host": "refused\\|no app's name\\|no unit of"} {
			if n := s.sh(t, "journalctl -q --no-pager -o cat -t "+program+" | grep -c \""+refusal+"\" || true"); n == "0" || n == "1" {
				t.Errorf("of what %s refused the journal has %s entries", program, n)
			}
		}
	})
	// The last one: sshd(8) turns this address away for a while.
	t.Run("penalties", func(t *testing.T) {
		for range 6 {
			_ = exec.Command("ssh", "-F", "none", "-i", stranger, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
				"-o", "UserKnownHostsFile="+known, "deploy@"+s.address, "true").Run()
		}
		begin := time.Now()
		r := s.Run(t, "status", "prod")
		t.Logf("while sshd turns this address away: %s", r)
		if r.Code != 0 && !strings.Contains(r.Stderr, "PerSourcePenalties") {
			t.Errorf("it does not say why: %s", r)
		}
		for s.Run(t, "status", "prod").Code != 0 {
			if time.Since(begin) > 2*time.Minute {
				t.Fatal("sshd does not let this address in any more")
			}
			time.Sleep(3 * time.Second)
		}
		t.Logf("let in again after %s", time.Since(begin).Round(time.Second))
	})
}

// asDeploy logs in as the deploy user, by hand.
func (s *site) asDeploy(command string) (string, error) {
	cmd := exec.Command("ssh", "-F", "none", "-i", filepath.Join(s.Home, ".ssh", "id_ed25519"), "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile="+filepath.Join(s.Home, ".ssh", "known_hosts"), "deploy@"+s.address, command)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
