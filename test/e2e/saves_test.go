package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
	"devbox/test/harness"
)

// saves is how many are made one after the other.
const saves = 50

// testSaves saves again and again while visitors hammer the page. Most are
// edits of a template; every tenth is one of a unit, which takes the other way
// to switch, and every tenth one of the code.
func testSaves(t *testing.T, p *harness.Project) {
	w := p.Watch(t)
	// Not the first cycle's: it may have changed nothing that the app reads.
	delivered := []string{strings.TrimSpace(p.Get(t, "/version"))}
	visitors := p.Visitors(t)
	begin := time.Now()
	for n := range saves {
		file, old, new := page, "<footer>", fmt.Sprintf("<!-- %d -->\n<footer>", n)
		switch n % 10 {
		case 4:
			file, old, new = units+"bowl.service", "[Service]", fmt.Sprintf("# %d\n[Service]", n)
		case 9:
			file, old, new = code, `log.Info("serving`, fmt.Sprintf(`log.Info("save %d")
	log.Info("serving`, n)
		}
		p.Edit(t, file, old, new)
		c := w.Next(t, file)
		if c.Outcome != protocol.Committed {
			t.Fatalf("save %d of %s: %s %s", n, file, c.Outcome, c.Error)
		}
		delivered = append(delivered, c.Version)
	}
	t.Logf("%d saves in %s", saves, time.Since(begin).Round(time.Millisecond))
	visitors.Leave(t, delivered)
	p.Answers(t, delivered[saves])
	if code := w.Stop(t); code != 0 {
		t.Errorf("watch exits with %d on Ctrl-C\n%s", code, w.Said())
	}
}
