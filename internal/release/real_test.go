package release

import (
	"strings"
	"testing"

	"devbox/internal/protocol"
)

func TestRealFirstThenTemplateThenUnit(t *testing.T) {
	m := realMachine(t)
	const app, port = "rel-a", 18081
	m.fresh(t, app)
	c := m.serve(t, "")
	if w := c.hello(app); w.Current != "" || len(w.Images) != 0 {
		t.Fatalf("fresh app: %+v", w)
	}
	base := standard(app, port)
	one := build(t, base)
	r := c.deploy(app, one, protocol.Settings{}, protocol.Committed)
	t.Log(phases(r.Phases))
	if got := m.get(t, port); !strings.HasPrefix(got, "one "+one.digest[:12]+" r1") {
		t.Fatalf("after the first release: %q", got)
	}
	side := m.pid(t, app+"-side.service")

	two := build(t, base.with("usr/share/relapp/page", "two"))
	if a := c.receive(app, two, &one); a.Error != "" || a.Lost {
		t.Fatalf("receive a delta: %+v", a)
	}
	a := c.activate(app, two, protocol.Settings{})
	if a.Result == nil || a.Result.Outcome != protocol.Committed || a.Result.Plan.Reload {
		t.Fatalf("a changed page: %+v", a)
	}
	t.Log(phases(a.Result.Phases))
	if got := m.get(t, port); !strings.HasPrefix(got, "two "+two.digest[:12]+" r2") {
		t.Fatalf("after the second release: %q", got)
	}
	if now := m.pid(t, app+"-side.service"); now != side {
		t.Errorf("the side service was restarted: %s, was %s", now, side)
	}
	if a := c.activate(app, two, protocol.Settings{}); a.Result == nil || a.Result.Outcome != protocol.Unchanged {
		t.Fatalf("the same again: %+v", a)
	}
}
