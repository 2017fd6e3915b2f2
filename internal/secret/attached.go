package secret

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"devbox/internal/image"
)

// attached reads units as systemd has them: what portabled installed, and the
// host's own drop-ins.
func attached(root string, names []string) ([]image.Unit, error) {
	var all []image.Unit
	for _, name := range names {
		body, err := os.ReadFile(filepath.Join(root, "etc/systemd/system.attached", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // taken away just now
		}
		if err != nil {
			return nil, err
		}
		dropIns, err := filepath.Glob(filepath.Join(root, "etc/systemd/system", name+".d", "*.conf"))
		if err != nil {
			return nil, err
		}
		slices.Sort(dropIns)
		for _, file := range dropIns {
			more, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			body = append(append(body, '\n'), more...)
		}
		u, err := image.ParseUnit(name, body)
		if err != nil {
			return nil, fmt.Errorf("read unit %s: %w", name, err)
		}
		all = append(all, u)
	}
	return all, nil
}
