package release

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

func (c *client) data(app string) protocol.Data {
	c.t.Helper()
	a := c.ask(protocol.Request{Data: &protocol.DataOf{App: app}}, nil)
	if a.Data == nil {
		c.t.Fatalf("no data: %+v\n%s", a.Event, c.errs.String())
	}
	return *a.Data
}

func checking(words ...string) protocol.Settings {
	return protocol.Settings{State: protocol.State{Check: append([]string{"/usr/bin/relapp"}, words...)}}
}

// A check runs beside the app, as the app, and can reach nothing else.
func TestRealData(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-data", 18130
	m.fresh(t, app)
	c := m.serve(t, "")
	c.hello(app)
	one := build(t, standard(app, port).with("usr/share/relapp/schema", "3"))
	c.deploy(app, one, checking("check"), protocol.Committed)
	for i := range 4 {
		m.get(t, port) // the page alone
		m.sh(t, fmt.Sprintf("curl -sS http://127.0.0.1:%d/store/line%d", port, i))
	}
	pid := m.pid(t, app+".service")
	owner := m.sh(t, "stat -Lc '%u %a' /var/lib/"+app+"/lines /var/lib/"+app)
	if d := c.data(app); d.Integrity != "ok" || d.Schema == nil || *d.Schema != 3 || d.Rows["lines"] != 4 || d.Problem != "" {
		t.Errorf("%+v", d)
	}
	if text := m.sh(t, m.host+" data "+app); !strings.Contains(text, `"schema":3`) {
		t.Errorf("by hand: %s", text)
	}
	if is := m.pid(t, app+".service"); is != pid {
		t.Errorf("the app was restarted: %s, before %s", is, pid)
	}
	if is := m.sh(t, "stat -Lc '%u %a' /var/lib/"+app+"/lines /var/lib/"+app); is != owner {
		t.Errorf("what is stored is %q now, was %q", is, owner)
	}

	who := checking("who", fmt.Sprintf("127.0.0.1:%d", port), "$HOME %n ${X}")
	who.Env = map[string]map[string]string{app + ".service": {"GREETING": "hello you"}}
	c.deploy(app, one, who, protocol.Committed)
	// No root, no network, no file of the host, nothing to be written, and its arguments as they are.
	if d := c.data(app); d.Integrity != "true true true true hello you r2 $HOME %n ${X}" {
		t.Errorf("%+v", d)
	}

	c.deploy(app, one, checking("broken"), protocol.Committed)
	if d := c.data(app); d.Problem != "the check /usr/bin/relapp exited with status 7; integrity: row 3 is torn" || !slices.Contains(d.Log, "relapp: row 3 cannot be read") {
		t.Errorf("%+v", d)
	}
	c.deploy(app, one, checking("flood"), protocol.Committed)
	if d := c.data(app); !strings.Contains(d.Problem, "more than 64 KiB") {
		t.Errorf("%+v", d)
	}
	c.deploy(app, one, checking("hang"), protocol.Committed)
	began := time.Now()
	if d := c.data(app); !strings.Contains(d.Problem, "did not end") || time.Since(began) > probeTime+5*time.Second {
		t.Errorf("after %s: %+v", time.Since(began), d)
	}
	if left := m.sh(t, "systemctl list-units --all --plain --no-legend 'devbox-data-*' || true; losetup -nl -O NAME,BACK-FILE | grep -c "+app+" || true"); strings.Contains(left, "devbox-data") {
		t.Errorf("left: %s", left)
	}

	// It works as well where the app is down.
	c.deploy(app, one, checking("check"), protocol.Committed)
	m.sh(t, "systemctl stop "+app+".socket "+app+".service")
	began = time.Now()
	d := c.data(app)
	t.Logf("a check takes %s", time.Since(began))
	if d.Rows["lines"] != 4 {
		t.Errorf("%+v", d)
	}
	data, _ := json.Marshal(d)
	t.Logf("%s", data)
}
