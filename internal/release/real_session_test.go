package release

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

// The session that asked for an activation is killed with everything in it, as
// `loginctl terminate-session` and a restart of sshd do: the activation comes to
// its end, and the journal of the host tells of it.
func TestRealSessionIsKilled(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-session", 18097
	m.fresh(t, app)
	entries := "journalctl --sync; journalctl -q -o cat -t devbox-host --since=@" + m.sh(t, "date +%s")
	base := standard(app, port)
	c := m.serve(t, "")
	c.hello(app)
	c.deploy(app, build(t, base), protocol.Settings{}, protocol.Committed)
	c.close()

	next := build(t, base.with("usr/share/relapp/page", "two"))
	c = m.serve(t, `SUDO_USER=anna systemd-run --quiet --scope --unit=rel-login sh -c '"$@"; true' sh`) // as sudo, its parent stays
	c.hello(app)
	if got := m.sh(t, "systemctl list-units --plain --no-legend 'devbox-"+app+"-*.scope'"); got != "" {
		t.Errorf("before there is anything to do it runs in %s", got)
	}
	if a := c.receive(app, next, nil); a.Error != "" {
		t.Fatalf("%+v", a)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.ask(protocol.Request{Activate: &protocol.Activate{App: app, Digest: next.digest, By: "anna@laptop",
			Settings: protocol.Settings{Health: protocol.Health{Command: "sleep 4", Deadline: time.Minute}}}}, nil)
	}()
	m.sh(t, "for i in $(seq 100); do curl -sS --max-time 5 http://127.0.0.1:18097/ | grep -q ^two && exit; sleep 0.05; done; exit 1")
	scopes := m.sh(t, "systemctl list-units --plain --no-legend 'devbox-"+app+"-*.scope'")
	if !strings.Contains(scopes, "at work on "+app) {
		t.Errorf("it runs in no scope of its own: %q", scopes)
	}
	m.sh(t, "systemctl kill --signal=KILL rel-login.scope")
	_ = c.cmd.Process.Kill() // and the connection, on this side
	<-ended
	m.sh(t, "for i in $(seq 100); do [ -e /var/lib/devbox/"+app+"/journal.json ] || exit 0; sleep 0.1; done; exit 1")
	var r protocol.Release
	if err := json.Unmarshal([]byte(m.sh(t, "cat /var/lib/devbox/"+app+"/releases/r2.json")), &r); err != nil || r.Outcome != protocol.Committed {
		t.Errorf("%+v, %v", r, err)
	}
	if left := m.sh(t, "sleep 0.5; systemctl list-units --all --plain --no-legend 'devbox-"+app+"-*.scope'"); left != "" {
		t.Errorf("left: %s", left)
	}
	for outcome, want := range map[string]string{"r1": app + ": r1 committed, by test", "r2": app + ": r2 committed, by anna@laptop"} {
		if got := m.sh(t, entries+" DEVBOX_APP="+app+" DEVBOX_OUTCOME=committed DEVBOX_RELEASE="+outcome); got != want {
			t.Errorf("the journal says %q, want %q", got, want)
		}
	}
	if got := m.sh(t, entries+" DEVBOX_SUDO_USER=anna DEVBOX_BY=anna@laptop | wc -l"); got != "1" {
		t.Errorf("%s entries say who it was", got)
	}
	// What is refused is there, too.
	c = m.serve(t, "")
	c.hello(app)
	c.ask(protocol.Request{Status: &protocol.StatusOf{App: "rel-other"}}, nil)
	c.close()
	if got := m.sh(t, entries+" DEVBOX_OUTCOME=refused -p warning"); !strings.Contains(got, `refused: this session is about "rel-session", the request about "rel-other"`) {
		t.Errorf("the journal says %q", got)
	}
}

// Told to end, as at shutdown, an idle session does not wait for its client.
// What a check leaves whose devbox-host was killed goes with the next session, and
// what one that lives has yet to read stays.
func TestRealWhatAKilledCheckLeaves(t *testing.T) {
	m := realMachine(t)
	fail := func(name, pid string) string {
		unit := fmt.Sprintf("devbox-%s-%s-1.service", name, pid)
		m.sh(t, "systemd-run --quiet --unit="+unit+" -p Type=oneshot false || true")
		return unit
	}
	dead, alive, others := fail("data-rel-left", m.sh(t, "sh -c 'echo $$'")), fail("data-rel-left", "1"), "rel-left-2-1.service"
	m.sh(t, "systemd-run --quiet --unit="+others+" -p Type=oneshot false || true")
	defer m.sh(t, "systemctl reset-failed "+alive+" "+others)
	c := m.serve(t, "")
	c.hello("rel-left")
	c.close()
	failed := m.sh(t, "systemctl list-units --failed --plain --no-legend 'devbox-data-*' 'rel-left-*'")
	if strings.Contains(failed, dead) || !strings.Contains(failed, alive) || !strings.Contains(failed, others) {
		t.Errorf("failed are\n%s\nwant %s and %s alone", failed, alive, others)
	}
}

func TestRealIdleSessionEnds(t *testing.T) {
	m := realMachine(t)
	c := m.serve(t, "systemd-run --quiet --scope --unit=rel-idle")
	c.hello("rel-idle")
	m.sh(t, "systemctl stop rel-idle.scope; [ \"$(systemctl show -P Result rel-idle.scope)\" = success ]")
	m.sh(t, m.host+" forget rel-idle")
}
