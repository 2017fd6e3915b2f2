package prod

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"devbox/test/harness"
)

// torture is how power cuts ended.
type torture struct {
	begin  time.Time
	commit string
	rows   map[string]*tortured
	order  []string
}

type tortured struct{ cuts, old, new, failed int }

func newTorture(t *testing.T) *torture {
	commit := harness.Output(t, "git", "-C", harness.Root(), "describe", "--always", "--dirty")
	return &torture{begin: time.Now(), commit: strings.TrimSpace(commit), rows: map[string]*tortured{}}
}

func (r *torture) count(c cut, ended string, failed bool) {
	kind := c.String()
	row := r.rows[kind]
	if row == nil {
		row = &tortured{}
		r.rows[kind], r.order = row, append(r.order, kind)
	}
	row.cuts++
	switch {
	case failed:
		row.failed++
	case ended == "old":
		row.old++
	case ended == "new":
		row.new++
	}
}

// write makes the page of the documentation, where one is asked for.
func (r *torture) write(t *testing.T, seed uint64) {
	t.Helper()
	file := os.Getenv("DEVBOX_TEST_TORTURE")
	if file == "" {
		return
	}
	var b strings.Builder
	var sum tortured
	for _, kind := range r.order {
		row := r.rows[kind]
		sum.cuts, sum.old, sum.new, sum.failed = sum.cuts+row.cuts, sum.old+row.old, sum.new+row.new, sum.failed+row.failed
	}
	kernel, _ := exec.Command("uname", "-r").Output()
	fmt.Fprintf(&b, `# Power cuts

The last result of `+"`make torture`"+`, which writes this page: a server in production loses its power in the middle of a deploy
or a rollback, and boots. What had not been synced is gone from its disk (test/vps). Then, before anybody logs in: the old or the
new release has to answer, wholly; image, release.env and unit files have to be of that release; nothing may be left of the
change; the history has to be true; and the next deploy has to work.

%s, at %s, in %s on %d processors, Linux %s; DEVBOX_TEST_SEED=%d.

| power cut | cuts | old answers | new answers | failed |
|---|--:|--:|--:|--:|
`, r.begin.Format("2006-01-02"), r.commit, time.Since(r.begin).Round(time.Second), runtime.NumCPU(), strings.TrimSpace(string(kernel)), seed)
	for _, kind := range r.order {
		row := r.rows[kind]
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d |\n", kind, row.cuts, row.old, row.new, row.failed)
	}
	fmt.Fprintf(&b, "| **all** | **%d** | **%d** | **%d** | **%d** |\n", sum.cuts, sum.old, sum.new, sum.failed)
	if err := os.WriteFile(filepath.Join(harness.Root(), file), []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
