package release

import (
	"os"
	"path/filepath"
	"testing"
)

// A unit file that cannot be removed keeps its sandbox: without that it could be
// started on the host's own root.
func TestAUnitThatStaysKeepsItsSandbox(t *testing.T) {
	_, h, _ := first(t)
	a, err := h.open("bowl")
	must(t, err)
	must(t, os.Remove(a.unit("bowl.service")))
	must(t, os.MkdirAll(filepath.Join(a.unit("bowl.service"), "stays"), 0o755)) // os.Remove fails
	if err := a.removeUnit("bowl.service"); err == nil {
		t.Fatal("it was removed")
	}
	if _, err := os.Stat(filepath.Join(a.unitD("bowl.service"), markerName)); err != nil {
		t.Errorf("its sandbox is gone: %v", err)
	}
}
