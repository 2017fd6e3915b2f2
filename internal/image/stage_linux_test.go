package image

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStageNamesUnreadableFile(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/etc/secret", "x", 0o000)
	if err := os.Chmod(filepath.Dir(src), 0o755); err != nil {
		t.Fatal(err)
	}
	notAsRoot(t)
	if _, err := Stage(Options{Name: "a", Dirs: []string{src}}); err == nil || !strings.Contains(err.Error(), src+"/etc/secret: permission denied") {
		t.Errorf("got %v", err)
	}
}

// notAsRoot has the rest of the test open files as nobody, if it is root's,
// who can read everything (setfsuid(2)). The test must stay in its goroutine.
func notAsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	runtime.LockOSThread()
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setfsuid(0); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
}
