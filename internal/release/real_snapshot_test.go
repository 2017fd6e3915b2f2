package release

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

func snapshotting() protocol.Settings {
	s := checking("check")
	s.State.Snapshot = protocol.BeforeActivate
	return s
}

// visitors store one line after the other until the returned function is called,
// which tells how many there are, how many were refused, and how long the longest
// took, in ms.
func (m *machine) visitors(t *testing.T, port int) func() (stored, refused, longest int) {
	t.Helper()
	const dir = "/run/rel-visitors"
	m.sh(t, "rm -rf "+dir+" && mkdir "+dir)
	cmd := m.command(fmt.Sprintf(`cd %s; n=0; bad=0; longest=0
while [ ! -e stop ]; do
	b=$(date +%%s%%N)
	if curl -sSf --max-time 20 http://127.0.0.1:%d/store/visit$n >/dev/null 2>>errors; then n=$((n+1)); else bad=$((bad+1)); fi
	took=$(( ($(date +%%s%%N) - b) / 1000000 )); [ $took -gt $longest ] && longest=$took
	touch began
done
echo $n $bad $longest > result`, dir, port))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.sh(t, "until [ -e "+dir+"/began ]; do sleep 0.01; done")
	return func() (stored, refused, longest int) {
		m.sh(t, "touch "+dir+"/stop")
		_ = cmd.Wait()
		if _, err := fmt.Sscan(m.sh(t, "cat "+dir+"/result"), &stored, &refused, &longest); err != nil {
			t.Fatal(err)
		}
		if refused > 0 {
			t.Log(m.sh(t, "sort "+dir+"/errors | uniq -c | head"))
		}
		return stored, refused, longest
	}
}

// waits is the shell's for a service that is frozen, or whose process is stopped
// where control groups cannot freeze.
func waits(unit string) string {
	return fmt.Sprintf(`[ "$(systemctl show -P FreezerState %[1]s)" = frozen -o "$(ps -o s= -p $(systemctl show -P MainPID %[1]s))" = T ]`, unit)
}

func (m *machine) frozen(t *testing.T, unit string) bool {
	t.Helper()
	return m.sh(t, waits(unit)+" && echo frozen || true") != ""
}

// The data is copied before an activation, while visitors write: it is what was
// stored at one moment, whole, and none of them is refused.
func TestRealSnapshot(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-snap", 18131
	m.fresh(t, app)
	base := standard(app, port)
	c := m.serve(t, "")
	c.hello(app)
	c.deploy(app, build(t, base), snapshotting(), protocol.Committed)
	m.get(t, port)
	live := m.sh(t, "readlink -f /var/lib/"+app)
	m.sh(t, "ln -s lines "+live+"/link && chown -h --reference="+live+" "+live+"/link && touch -h -d @1000000000 "+live+"/link")
	snapshots := "/var/lib/devbox/" + app + "/snapshots"
	if is := m.sh(t, "ls "+snapshots+" 2>/dev/null || true"); is != "" {
		t.Errorf("before the first release: %s", is)
	}

	leave := m.visitors(t, port)
	t.Logf("systemd can freeze: %s", m.sh(t, "systemctl show -P CanFreeze "+app+".service"))
	r := c.deploy(app, build(t, base.with("usr/share/relapp/page", "two")), snapshotting(), protocol.Committed)
	t.Logf("phases:%s", phases(r.Phases))
	stored, refused, longest := leave()
	t.Logf("%d visitors stored something, %d were refused, the longest took %d ms", stored, refused, longest)
	if refused > 0 || m.frozen(t, app+".service") || m.frozen(t, app+"-side.service") {
		t.Errorf("%d refused; frozen %v", refused, m.frozen(t, app+".service"))
	}
	kept := snapshots + "/r2" + strings.TrimPrefix(live, "/var/lib")
	before, after := m.sh(t, "cat "+kept+"/lines"), m.sh(t, "cat "+live+"/lines")
	if before == "" || len(before) >= len(after) || !strings.HasPrefix(after, before+"\n") {
		t.Errorf("the snapshot has %d bytes of %d, which are not the first", len(before), len(after))
	}
	attributes := func(dir string) string {
		return m.sh(t, "cd "+dir+" && stat -c '%n %u %g %a %F' . * && readlink link && stat -c %Y link")
	}
	if is, want := attributes(kept), attributes(live); is != want {
		t.Errorf("in the snapshot\n%s\nwant\n%s", is, want)
	}
	if mode := m.sh(t, "stat -c '%a %u' "+snapshots); mode != "700 0" {
		t.Errorf("snapshots are %s", mode)
	}

	// That what waited goes on is part of the copy. Where systemd does not see to
	// that, as when just that is killed, devbox-host does.
	dropIn := "/run/systemd/system/devbox-copy-" + app + ".service.d"
	m.sh(t, "mkdir -p "+dropIn+" && printf '[Service]\\nExecStopPost=\\nExecStopPost=/usr/bin/false\\n' > "+dropIn+"/fail.conf && systemctl daemon-reload")
	next := build(t, base.with("usr/share/relapp/page", "three"))
	if a := c.receive(app, next, nil); a.Error != "" {
		t.Fatalf("%+v", a)
	}
	if a := c.activate(app, next, snapshotting()); !strings.Contains(a.Error, "not what was to follow it (exit-code)") || a.Hint == "" {
		t.Errorf("it ended, but not well: %+v", a)
	}
	m.sh(t, "rm -r "+dropIn+" && systemctl daemon-reload")
	if is := m.sh(t, "ls "+snapshots); is != "r2" || !strings.HasPrefix(m.get(t, port), "two ") {
		t.Errorf("snapshots %q", is)
	}

	c.close() // its process is in a scope of that name, too

	// Killed in the middle, nothing waits for ever and nothing half-made counts. There
	// is time to kill: such a copy takes five seconds more.
	m.sh(t, "mkdir -p "+dropIn+` /run/slow && printf '#!/bin/sh\nsleep 5\nexec /usr/bin/cp "$@"\n' > /run/slow/cp && chmod 755 /run/slow/cp`)
	m.sh(t, "printf '[Service]\nEnvironment=PATH=/run/slow:/usr/sbin:/usr/bin\n' > "+dropIn+"/slow.conf && systemctl daemon-reload")
	m.sh(t, "head -c 400M /dev/urandom > "+live+"/big && chown --reference="+live+" "+live+"/big")
	for name, kill := range map[string]string{"devbox-host": "systemctl kill -s KILL 'devbox-" + app + "-*.scope'", "the copy": "systemctl kill -s KILL devbox-copy-" + app + ".service"} {
		victim := m.serve(t, "")
		victim.hello(app)
		if a := victim.receive(app, next, nil); a.Error != "" {
			t.Fatalf("%+v", a)
		}
		watch := m.command(fmt.Sprintf("for i in $(seq 1000); do if %s; then %s; echo killed; exit; fi; done", waits(app+".service"), kill))
		told := make(chan string, 1)
		go func() {
			out, err := watch.CombinedOutput()
			told <- fmt.Sprint(string(out), err)
		}()
		a := victim.activate(app, next, snapshotting())
		if is := <-told; !strings.Contains(is, "killed") {
			t.Fatalf("%s was not killed: %s, %+v", name, is, a)
		}
		if name == "the copy" && (!strings.Contains(a.Error, "copy the data") || a.Hint == "") {
			t.Errorf("%+v", a.Event)
		}
		began := time.Now()
		for m.frozen(t, app+".service") && time.Since(began) < 20*time.Second {
			time.Sleep(50 * time.Millisecond)
		}
		t.Logf("%s killed: thawed %s later", name, time.Since(began))
		if got := m.get(t, port); !strings.HasPrefix(got, "two ") {
			t.Errorf("%s killed: answers %q", name, got)
		}
		if is := m.sh(t, "until ! systemctl is-active -q 'devbox-copy-*'; do sleep 0.1; done; ls "+snapshots); is != "r2" {
			t.Errorf("%s killed: snapshots %q", name, is)
		}
		victim.close()
	}
	m.sh(t, "rm -r "+dropIn+" /run/slow && systemctl daemon-reload")

	if is := m.sh(t, m.host+" status --json "+app); strings.Contains(is, `"problem"`) {
		t.Errorf("status: %s", is)
	}
	c = m.serve(t, "")
	c.hello(app)
	c.deploy(app, next, snapshotting(), protocol.Committed)
	if got := m.get(t, port); !strings.HasPrefix(got, "three ") {
		t.Errorf("answers %q", got)
	}
	t.Logf("with 400 MB: %s", m.sh(t, "journalctl -u devbox-copy-"+app+" -o short-precise --no-pager | tail -4"))
}
