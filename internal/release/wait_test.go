package release

import (
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

// What a service has to wait for is not its own time, but does not take for ever
// either; where it fails, that is the cause.
func TestWaitForWhatIsRequired(t *testing.T) {
	f, h, _ := first(t)
	a, err := h.open("bowl")
	if err != nil {
		t.Fatal(err)
	}
	f.units["bowl.service"] = UnitState{Active: "inactive", Requires: []string{"bowl-restore.service"}}
	for _, c := range []struct {
		name    string
		restore UnitState
		takes   time.Duration
		want    string // "": it goes on
	}{
		{"under way", UnitState{Active: "activating", Sub: "start", Type: "oneshot"}, time.Minute, ""},
		{"for ever", UnitState{Active: "activating", Sub: "start", Type: "oneshot"}, protocol.PrepareTime, "bowl.service was not ready within 1s: bowl-restore.service is not ready yet"},
		{"a service that does not come up", UnitState{Active: "activating", Sub: "start", Type: "notify"}, time.Minute, "bowl-restore.service is not ready yet"},
		{"failed", UnitState{Active: "failed", Type: "oneshot", ExitCode: cldExited, ExitStatus: 1}, time.Minute, "bowl-restore.service exited with status 1"},
		{"done", UnitState{Active: "inactive", Type: "oneshot", Result: "success"}, time.Minute, "bowl.service was not ready within 1s"},
	} {
		f.units["bowl-restore.service"] = c.restore
		now := time.Now()
		w := waiter{app: a, limit: time.Second, began: now.Add(-c.takes), last: now.Add(-2 * time.Second), ending: map[string]time.Time{}, killed: map[string]bool{}}
		// The replication, which requires nothing, is waited for first.
		jobs := []job{{"bowl-litestream.service", make(chan string)}, {"bowl.service", make(chan string)}}
		left, err := w.round(t.Context(), jobs)
		if c.want == "" && (err != nil || len(left) != 2 || time.Since(w.last) > time.Second || !w.prepared) ||
			c.name != "done" && c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) || c.name == "done" && err == nil {
			t.Errorf("%s: %v, %d jobs left", c.name, err, len(left))
		}
	}
}
