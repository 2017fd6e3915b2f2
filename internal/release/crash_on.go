//go:build crashpoints

package release

import (
	"os"
	"strings"
	"syscall"
)

// Where a test says at which moment to stop, and where it is told that this was
// reached. Both are gone after a boot.
const (
	stopAt  = "/run/devbox-host.stop-at"
	stopped = "/run/devbox-host.stopped"
)

// crashpoint is a moment at which a process may be killed, or the power cut. Of
// the one that the environment names, the process kills itself. At the one that
// stopAt names, it stops, says so and waits for the power cut. Only a build for
// tests has this.
func crashpoint(at string) {
	if os.Getenv("DEVBOX_HOST_CRASH_AT") == at {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	if wanted, err := os.ReadFile(stopAt); err == nil && strings.TrimSpace(string(wanted)) == at {
		_ = os.Rename(stopAt, stopped)
		select {}
	}
}
