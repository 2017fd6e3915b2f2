package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sandbox is this computer with an /etc, a /home, a network and all else that a
// trial touches of its own, in namespaces that end with the test. In it systemd
// does nothing, and nothing is or can be installed. The user ann has a password
// and a key.
func sandbox(t *testing.T) shell {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, program := range []string{"unshare", "nsenter", "runuser", "chpasswd", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	holder := exec.CommandContext(context.WithoutCancel(t.Context()), "unshare", "--mount", "--net", "--propagation", "private", "sh", "-euc", `
		cp -a /etc "$1/etc"
		mount --bind "$1/etc" /etc
		for d in /var/lib /run /home /usr/local/sbin; do mount -t tmpfs -o mode=755 tmpfs $d; done
		printf '#!/bin/sh\n' >/usr/local/sbin/systemctl
		printf '#!/bin/sh\nexit 1\n' | tee /usr/local/sbin/dpkg-query >/usr/local/sbin/apt-get
		chmod 755 /usr/local/sbin/*
		echo 'ann:x:4242:4242::/home/ann:/bin/sh' >>/etc/passwd
		echo 'ann:x:4242:' >>/etc/group
		echo 'ann:$y$hash.of/ann:20000:0:99999:7:::' >>/etc/shadow
		install -d -o ann -g ann -m 700 /home/ann/.ssh
		echo key | install -o ann -g ann -m 600 /dev/stdin /home/ann/.ssh/authorized_keys
		: >"$1/ready"
		exec cat >/dev/null
	`, "sh", dir)
	end, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	holder.Stderr = &said
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = holder.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		end.Close()
		<-ended
	})
	for ready := false; !ready; {
		select {
		case <-ended:
			t.Skipf("no namespaces here: %s", said.String())
		case <-time.After(10 * time.Millisecond):
			_, err := os.Stat(filepath.Join(dir, "ready"))
			ready = err == nil
		}
	}
	program := filepath.Join(dir, "inside")
	text := fmt.Sprintf("#!/bin/sh\nexec nsenter --target %d --mount --net sh -c \"$*\"\n", holder.Process.Pid)
	if err := os.WriteFile(program, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return shell{program}
}

// arm begins a trial of ann's.
func (s shell) arm(t *testing.T, id string) {
	t.Helper()
	s.must(t, trialScript, "arm", trialScript, "60", id, "ann")
}

const recorded = `cd /var/lib/devbox/provision.trial && echo '{}' >provision.json && : >provision.files`

// Nobody ends a trial that another has begun since, or begins one while it lasts.
func TestTrialIsOfOne(t *testing.T) {
	m := sandbox(t)
	m.arm(t, "one")
	m.must(t, recorded)
	if kept, err := Keep(t.Context(), m, "other"); kept || err != nil {
		t.Errorf("kept by another: %v, %v", kept, err)
	}
	if lines, err := Undo(t.Context(), m, "other"); len(lines) > 0 || err != nil {
		t.Errorf("undone by another: %q, %v", lines, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	waits := errors.New("it waits")
	_, err := Apply(ctx, m, []byte("#cloud-config\nruncmd: [x]\n"), Options{
		Trial:  &Trial{ID: "other", For: time.Minute, Users: []string{"ann"}},
		OnStep: func(s Step) { cancel(fmt.Errorf("%w: %s", waits, s.Name)) },
	})
	if !errors.Is(err, waits) || !strings.Contains(err.Error(), Waiting) {
		t.Errorf("another begins: %v", err)
	}
	if kept, err := Keep(t.Context(), m, "one"); !kept || err != nil {
		t.Errorf("not kept by its own: %v, %v", kept, err)
	}
	if got := m.must(t, "ls /var/lib/devbox /etc/systemd/system/devbox-undo.* 2>/dev/null || true"); got != "/var/lib/devbox:\nprovision.files\nprovision.json" {
		t.Errorf("left: %s", got)
	}

	// By hand it needs no ID.
	m.arm(t, "one")
	m.must(t, "echo >/etc/ssh/new; sh /var/lib/devbox/provision.sh undo; test ! -e /etc/ssh/new && test ! -e /var/lib/devbox/provision.trial")
}

// Whoever applies is waited for, and that is told.
func TestApplyWaits(t *testing.T) {
	m := sandbox(t)
	m.must(t, "flock -o /run/devbox-provision.lock sleep 2 >/dev/null 2>&1 </dev/null &")
	begin, noted := time.Now(), ""
	_, err := Apply(t.Context(), m, []byte("#cloud-config\nruncmd: [x]\n"), Options{OnStep: func(s Step) { noted = s.Name }})
	if err == nil || !strings.Contains(err.Error(), "cloud-init is not installed") || noted != Waiting || time.Since(begin) < time.Second {
		t.Errorf("after %v at %q: %v", time.Since(begin), noted, err)
	}
}

// cloud-init locks the password of a user that it finds, as passwd -l does.
func TestUndoBringsBackPasswords(t *testing.T) {
	m := sandbox(t)
	const password = "getent shadow ann | cut -d: -f2"
	before := m.must(t, password)
	m.arm(t, "one")
	if got := m.must(t, "stat -c %a /var/lib/devbox/provision.trial/passwords"); got != "600" {
		t.Errorf("the copy has mode %s", got)
	}
	m.must(t, "passwd -ql ann")
	if m.must(t, password) == before {
		t.Fatal("it is not locked")
	}
	lines, err := Undo(t.Context(), m, "one")
	if err != nil || strings.Join(lines, "\n") != "restored the password of ann" || m.must(t, password) != before {
		t.Errorf("%q, %v: %s", lines, err, m.must(t, password))
	}
}

// Keys for which there is no space are not given up, and nothing is kept then.
func TestUndoWithoutSpace(t *testing.T) {
	m := sandbox(t)
	m.must(t, `cp -a /home/ann /run/ && mount -t tmpfs -o mode=755,size=64k tmpfs /home && cp -a /run/ann /home/`)
	m.arm(t, "one")
	m.must(t, recorded+`; echo other >/home/ann/.ssh/authorized_keys; echo >/etc/ssh/new; ! head -c 1M /dev/zero 2>/dev/null >/home/fill`)
	lines, err := Undo(t.Context(), m, "one")
	if !errors.Is(err, ErrPartly) || !strings.Contains(err.Error(), "\n  could not restore /home/ann/.ssh/authorized_keys") || len(lines) > 0 {
		t.Fatalf("%q, %v", lines, err)
	}
	if kept, err := Keep(t.Context(), m, "one"); kept || err != nil {
		t.Errorf("half of it is kept: %v, %v", kept, err)
	}
	m.must(t, "rm /home/fill")
	lines, err = Undo(t.Context(), m, "one")
	want := "removed /etc/ssh/new, which was not there before\nrestored /home/ann/.ssh/authorized_keys"
	if err != nil || strings.Join(lines, "\n") != want {
		t.Errorf("%q, %v", lines, err)
	}
	if got := m.must(t, "ls -A /home/ann/.ssh; cat /home/ann/.ssh/authorized_keys; ls /var/lib/devbox"); got != "authorized_keys\nkey\nprovision.undone" {
		t.Errorf("there is %q", got)
	}
}

// nft cannot load what it prints of some rules of iptables: these keep no other
// table from coming back.
func TestUndoFirewall(t *testing.T) {
	m := sandbox(t)
	const before = `table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport 22 accept
	}
}
table ip nat {
	chain output {
	}
}`
	m.must(t, `nft -f - <<END
`+before+`
table ip filter {
	chain INPUT {
	}
}
END`)
	m.arm(t, "one")
	m.must(t, `sed -i '/chain INPUT/a\		xt match "recent" counter' /var/lib/devbox/provision.trial/nft
		nft flush ruleset
		nft add table inet new
		nft -f - <<END
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
	}
}
table ip nat {
	chain output {
	}
}
table ip filter {
	chain INPUT {
		accept
	}
}
END`)
	lines, err := Undo(t.Context(), m, "one")
	want := `removed the firewall's table inet new, which was not there before
restored the firewall's table inet filter
removed the firewall's table ip filter, which nft cannot load as it was`
	if err != nil || strings.Join(lines, "\n") != want {
		t.Errorf("%q, %v", lines, err)
	}
	if got := m.must(t, "nft -s list ruleset"); len(got) != len(before) || !strings.Contains(got, "policy accept") {
		t.Errorf("the rules are\n%s\nwant\n%s", got, before)
	}
}
