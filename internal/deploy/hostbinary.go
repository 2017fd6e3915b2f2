package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"devbox/internal/hint"
)

// hostBinary opens the devbox-host program for a host of Go architecture arch.
// It is installed beside devbox, or in ../libexec/devbox as packages do it.
func hostBinary(executable, arch string) (*os.File, error) {
	name := "devbox-host-linux-" + arch
	dir := filepath.Dir(executable)
	for _, p := range []string{filepath.Join(dir, name), filepath.Join(dir, "..", "libexec", "devbox", name)} {
		f, err := os.Open(p)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the host program: %w", err)
		}
	}
	return nil, hint.Errorf("run `make build` in devbox's folder: it puts the host programs beside bin/devbox",
		"%s is not beside %s", name, executable)
}
