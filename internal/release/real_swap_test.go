package release

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

// rollback asks for the release before, with its data.
func (c *client) rollback(app, release string) answer {
	c.t.Helper()
	return c.ask(protocol.Request{Activate: &protocol.Activate{App: app, Release: release, WithData: true, By: "test"}}, nil)
}

// Killed at any step of a rollback with data, the host ends up with wholly the old
// or wholly the new, release and data alike, in use by what runs.
func TestRealKilledWhileDataComesBack(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-swap", 18132
	m.fresh(t, app)
	settings := snapshotting()
	settings.Trial = 100 * time.Millisecond
	settings.Health.Deadline = time.Minute
	base := standard(app, port)
	// The second service keeps something in a folder of its own.
	base = base.with("usr/lib/systemd/system/"+app+"-side.service", strings.Replace(sideService, "[Service]", "[Service]\nStateDirectory="+app+"-side", 1))
	side := "/var/lib/" + app + "-side/note"
	t.Cleanup(func() { m.sh(t, "rm -rf /var/lib/private/"+app+"-side /var/lib/"+app+"-side") })
	c := m.serve(t, "")
	c.hello(app)
	store := func(line string) {
		m.sh(t, fmt.Sprintf("curl -sSf --max-time 10 http://127.0.0.1:%d/store/%s", port, line))
	}
	c.deploy(app, build(t, base), settings, protocol.Committed)
	store("old")
	m.sh(t, "echo old > "+side)
	c.deploy(app, build(t, base.with("usr/share/relapp/page", "two")), settings, protocol.Committed)
	store("new")
	m.sh(t, "echo new > "+side)
	c.close()
	// What is stored, of which page, and what the side has.
	stored := func() string {
		page, _, _ := strings.Cut(m.get(t, port), " ")
		return page + ": " + strings.ReplaceAll(m.sh(t, "cat /var/lib/"+app+"/lines"), "\n", "+") + ", " + m.sh(t, "cat "+side)
	}
	const was, back = "two: old+new, new", "one: old, old"
	snapshots := "/var/lib/devbox/" + app + "/snapshots"
	if got := stored(); got != was {
		t.Fatalf("%q is stored, want %q", got, was)
	}
	for _, tt := range []struct {
		at        string
		committed bool
		again     string // where it is killed once more while it goes back
		boot      bool   // it goes back at a boot
	}{
		{at: "fetched"}, {at: "journal"}, {at: "switched"}, {at: "swapping"}, {at: "swapped", again: "swapping"}, {at: "restarted"},
		{at: "healthy"}, {at: "gave-up"}, {at: "committed", committed: true}, {at: "put-aside", committed: true},
		{at: "swapping", boot: true}, {at: "swapped", again: "swapping", boot: true}, {at: "healthy", boot: true}, {at: "committed", committed: true, boot: true},
	} {
		at, committed, name := tt.at, tt.committed, tt.at
		if tt.boot {
			name += " and a boot"
		}
		t.Run(name, func(t *testing.T) {
			before := m.sh(t, "ls "+snapshots)
			if at == "gave-up" { // it takes a release that fails
				m.sh(t, "mkdir -p /run/systemd/system/"+app+"-side.service.d && printf '[Service]\\nExecStartPre=/usr/bin/false\\n' > /run/systemd/system/"+app+"-side.service.d/fail.conf && systemctl daemon-reload")
			}
			crash := m.serve(t, "DEVBOX_HOST_CRASH_AT="+at)
			crash.hello(app)
			if a := crash.rollback(app, "r1"); !a.Lost && (a.Result == nil || a.Result.Outcome != protocol.Committed || !committed) {
				t.Fatalf("it was not killed: %+v", a)
			}
			crash.close()
			if at == "gave-up" {
				m.sh(t, "rm -r /run/systemd/system/"+app+"-side.service.d && systemctl daemon-reload")
			}
			switch {
			case tt.boot:
				t.Log(m.boot(t, app, tt.again))
			case tt.again != "":
				m.sh(t, "DEVBOX_HOST_CRASH_AT="+tt.again+" "+m.host+" recover "+app+" || true")
			}
			w := m.serve(t, "").hello(app)
			t.Logf("recovered: %s", w.Recovered)
			want := was
			if committed {
				want = back
			}
			if got := stored(); got != want {
				t.Errorf("%q is stored, want %q", got, want)
			}
			// What runs uses what is in place.
			store("more")
			if got := stored(); got != strings.Replace(want, ", ", "+more, ", 1) {
				t.Errorf("after one line more %q is stored", got)
			}
			m.sh(t, "cd /var/lib/"+app+" && grep -v more lines > /run/rel-lines; cat /run/rel-lines > lines")
			if problem := m.sh(t, m.host+" status --json "+app); strings.Contains(problem, `"problem"`) {
				t.Errorf("status: %s", problem)
			}
			if again := m.sh(t, m.host+" recover "+app); again != "" {
				t.Errorf("recovering again does more: %s", again)
			}
			after := m.sh(t, "ls -A "+snapshots)
			if at == "fetched" { // the next activation clears that away
				after = m.sh(t, "ls "+snapshots)
			}
			clear := func() { m.sh(t, "cd "+snapshots+" && find . -mindepth 1 -maxdepth 1 ! -name r2 -exec rm -r {} +") }
			if at == "fetched" { // nothing was begun
				if after != before {
					t.Errorf("snapshots are %q, were %q", after, before)
				}
				return
			}
			aside := m.sh(t, "ls -A "+snapshots+" | grep -vx r2")
			if !committed {
				if got := m.sh(t, "cat "+snapshots+"/"+aside+"/private/"+app+"/lines"); got != "old" {
					t.Errorf("put aside as %q is %q", aside, got)
				}
				clear()
				return
			}
			if got := m.sh(t, "cat "+snapshots+"/"+aside+"/private/"+app+"/lines | tr '\\n' +"); got != "old+new+" {
				t.Errorf("put aside as %q is %q", aside, got)
			}
			// And back by the same way, for the next one.
			c := m.serve(t, "")
			c.hello(app)
			if a := c.rollback(app, protocol.Previous); a.Result == nil || a.Result.Outcome != protocol.Committed {
				t.Fatalf("%+v", a)
			}
			if got := stored(); got != was {
				t.Errorf("after the way back %q is stored", got)
			}
			clear()
		})
	}
}
