package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"devbox/internal/deploy"
	"devbox/test/harness"
)

// drilled rehearses the loss of the dev machine.
func drilled(t *testing.T, p *harness.Project, code int) (deploy.Drill, harness.Ran) {
	t.Helper()
	r := p.Run(t, "drill", "--json")
	var d deploy.Drill
	if err := json.Unmarshal([]byte(r.Stdout), &d); err != nil || r.Code != code {
		t.Fatalf("%v, want exit code %d: %s", err, code, r)
	}
	return d, r
}

// testDrill rehearses the loss of the machine: with all replicated, with the
// last moments not, and with the store gone.
func testDrill(t *testing.T, p *harness.Project) {
	press(t, p, "Mary")
	time.Sleep(3 * time.Second) // Litestream looks once a second
	d, r := drilled(t, p, 0)
	if d.Live == nil || d.Restored == nil || d.Live.Rows["press"] == 0 || d.Restored.Rows["press"] != d.Live.Rows["press"] || d.Lost != 0 || d.Restored.Integrity != "ok" {
		t.Errorf("all was replicated: %s", r)
	}
	t.Logf("machine %s, image %s, restore %s", d.Machine, d.Ship, d.Restore)

	p.Inside(t, "systemctl stop bowl-litestream.service")
	press(t, p, "Annie")
	list := "cd " + store + ` && find . -type f -printf '%p %s %T@\n' | sort`
	before := p.Inside(t, list)
	d, r = drilled(t, p, 0)
	if now := p.Inside(t, list); now != before || before == "" {
		t.Errorf("the rehearsal wrote to the replica:\n%s\nbefore:\n%s", now, before)
	}
	if d.Restored.Rows["press"] != d.Live.Rows["press"]-1 || d.Lost <= 0 {
		t.Errorf("one press was not replicated: %s", r)
	}

	p.Inside(t, "systemctl stop standins-s3.service")
	d, _ = drilled(t, p, 1)
	if d.Restored != nil || !strings.Contains(d.Error, "bowl-restore.service") {
		t.Errorf("without the store: %+v", d)
	}
	p.Inside(t, "systemctl start standins-s3.service bowl-litestream.service")
	if s := p.Status(t); s.Code != 0 {
		t.Errorf("status exits with %d: %s", s.Code, s.Serving())
	}
}
