package vm

import (
	"context"
	"runtime"

	"devbox/internal/hint"
)

// checkLimaPath keeps the sockets in an instance's folder within sun_path of
// unix(7), 108 bytes on Linux and 104 on macOS; Lima needs 28 of them.
func checkLimaPath(goos, home, name string) error {
	limit := 80
	if goos == "darwin" {
		limit = 76
	}
	if over := len(home) + len(name) - limit; over > 0 {
		return hint.Errorf("shorten the name, or set LIMA_HOME to a short folder, as in `export LIMA_HOME=/tmp/lima`",
			"machine name %q is %d characters too long for the sockets that Lima keeps under %s", name, over, home)
	}
	return nil
}

// LimaReady says whether Lima can run machines here, as far as that can be told
// without starting one: the error names what is missing and its cure.
func LimaReady(ctx context.Context, spec Spec) error {
	if _, err := NewLima(spec); err != nil {
		return err
	}
	if err := limaTools(runtime.GOOS, runtime.GOARCH); err != nil {
		return err
	}
	_, err := findLimactl(ctx, spec.CacheDir)
	return err
}

// limaTools says which of the programs that Lima calls are missing.
func limaTools(goos, goarch string) error {
	return notInstalled("Lima needs", lacking(limaNeeds(goos, goarch), installed))
}
