//go:build crashpoints

package release

import (
	"os"
	"syscall"
)

// crashpoint kills the process, as a power cut would, if the environment names
// this moment. Only a build for tests has it.
func crashpoint(at string) {
	if os.Getenv("DEVBOX_HOST_CRASH_AT") == at {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
