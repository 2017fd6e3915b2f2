package e2e

import (
	"strings"
	"testing"

	"devbox/test/harness"
)

// testInterrupted presses Ctrl-C while up makes the machine, and while it boots
// it. The part after this one has up go on from there.
func testInterrupted(t *testing.T, p *harness.Project) {
	for _, at := range []struct{ said, step string }{
		{"machine bowl: ", "create the machine"},
		{"✓ create the machine", "boot the machine"},
	} {
		r := p.Interrupt(t, at.said, "up")
		t.Log(r)
		// auto says which driver it took and why.
		for _, text := range []string{
			"machine bowl: nspawn, a container on this machine's kernel; not lima: ", "refuses to run as root",
			"✗ " + at.step, "error: interrupted\n", "hint: run the same command again",
		} {
			if !strings.Contains(r.Stderr, text) {
				t.Errorf("Ctrl-C while it is to %s: it does not say %q", at.step, text)
			}
		}
		if r.Code != 130 || r.Stdout != "" {
			t.Errorf("Ctrl-C while it is to %s: exit %d, result %q", at.step, r.Code, r.Stdout)
		}
		if s := p.Status(t); s.Code == 0 {
			t.Errorf("status says that all is well: %s", s.Serving())
		}
	}
}
