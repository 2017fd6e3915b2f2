package deploy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/image"
)

// NoProject stands for a folder without a devbox.yaml, with every default.
func NoProject(paths Paths) *Project {
	return &Project{Config: &config.Config{Name: "devbox", Machine: config.Machine{Driver: "auto"}}, Paths: paths}
}

// CheckFiles checks the user's files that devbox.yaml names, without a host.
func (p *Project) CheckFiles() error {
	if _, err := p.cloudConfig(); err != nil {
		return err
	}
	// What the host would refuse, once a machine is made and an image built.
	apps, err := p.beside()
	if err != nil {
		return err
	}
	for _, q := range append(apps, p) {
		if err := errors.Join(q.checkSecrets(), q.settings(false).Validate(q.Config.Name)); err != nil {
			return err
		}
	}
	return nil
}

// CheckHostPrograms finds out whether the programs to install on hosts are
// beside devbox.
func (p *Project) CheckHostPrograms() error {
	var all []error
	for _, arch := range []string{"amd64", "arm64"} {
		f, err := hostBinary(p.Paths.Executable, arch)
		if err == nil {
			err = f.Close()
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// fewWatches is the number of inotify watches below which trees of ordinary
// size have not been enough. Kernels before 5.11 allowed 8192.
const fewWatches = 65536

// CheckWatches finds out whether this kernel lets devbox watch many folders.
func CheckWatches() error {
	b, err := os.ReadFile("/proc/sys/fs/inotify/max_user_watches")
	if err != nil {
		return nil // not Linux
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n >= fewWatches {
		return nil
	}
	return hint.Errorf("run as root: sysctl fs.inotify.max_user_watches=524288",
		"this kernel allows only %d watched folders", n)
}

// Check builds and stages the image for a host of Go architecture arch and
// returns all that is to say about it. verified tells whether systemd's own
// verification was among it.
func (p *Project) Check(ctx context.Context, arch string) (found []image.Problem, verified bool, err error) {
	defer func() { err = p.Paths.fullCache(err) }()
	unlock, err := lock(ctx, filepath.Join(p.imageDir(), "lock"))
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	built, err := p.runBuild(ctx, arch)
	if err != nil {
		return nil, false, err
	}
	tree, err := p.stage(built)
	if err != nil {
		return nil, false, err
	}
	found = tree.Check(ctx, p.checkOptions(arch))
	more, err := image.Verify(ctx, tree)
	if errors.Is(err, image.ErrNoVerify) {
		return found, false, nil
	}
	return append(found, more...), err == nil, err
}
