package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// What nobody holds goes with the next home, and what somebody holds does not.
func TestSweep(t *testing.T) {
	held := makeHome(t)
	killed, err := os.MkdirTemp(filepath.Split(homes))
	if err != nil {
		t.Fatal(err)
	}
	left := exec.Command("sleep", "600")
	left.Env = []string{"HOME=" + killed}
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = left.Process.Kill(), left.Wait() }()
	if os.Geteuid() == 0 {
		layDisk(t, killed)
		t.Cleanup(func() { _ = exec.Command("umount", filepath.Join(killed, state)).Run() }) // if it is there
	}
	makeHome(t)
	if on := processes(killed); len(on) > 0 {
		t.Errorf("processes go on: %v", on)
	}
	if _, err := os.Stat(killed); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := os.Stat(held); err != nil {
		t.Error(err)
	}
}
