package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"devbox/internal/config"
	"devbox/internal/hint"
)

// OwnedError is a machine that another project of the same name lives on.
type OwnedError struct {
	Machine string
	Folder  string // of that project
}

func (e *OwnedError) Error() string {
	return fmt.Sprintf("machine %s belongs to %s", e.Machine, e.Folder)
}

func (p *Project) ownerFile() string { return filepath.Join(p.MachineDir(), "project") }

// checkOwner refuses a machine, which exists, that another project's folder is
// recorded for. A folder that is gone, or has another app now, owns nothing.
func (p *Project) checkOwner() error {
	b, err := os.ReadFile(p.ownerFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read which project the machine belongs to: %w", err)
	}
	owner := strings.TrimSuffix(string(b), "\n")
	there, err := os.Stat(filepath.Join(owner, config.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if here, herr := os.Stat(p.Config.Abs(config.FileName)); err == nil && herr == nil && os.SameFile(here, there) {
		return nil
	}
	// One that cannot be read now is still somebody's.
	if c, err := config.Load(filepath.Join(owner, config.FileName)); err == nil && c.Name != p.Config.Name {
		return nil
	}
	return hint.Wrap(&OwnedError{p.Config.Name, owner}, "give this app another name, or destroy that machine first")
}

// own records that the machine is this project's.
func (p *Project) own() error {
	line := []byte(p.Config.Dir + "\n")
	if b, err := os.ReadFile(p.ownerFile()); err == nil && string(b) == string(line) {
		return nil
	}
	if err := os.MkdirAll(p.MachineDir(), 0o700); err != nil {
		return fmt.Errorf("make the machine's folder: %w", err)
	}
	if err := os.WriteFile(p.ownerFile(), line, 0o600); err != nil {
		return fmt.Errorf("record which project the machine belongs to: %w", err)
	}
	return nil
}
