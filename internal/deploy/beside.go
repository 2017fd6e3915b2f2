package deploy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/secret"
	"devbox/internal/ui"
)

// beside are the other apps of the dev machine, as machine.beside has them.
func (p *Project) beside() ([]*Project, error) {
	apps := map[string]string{p.Config.Name: p.Config.Dir}
	var all []*Project
	for _, dir := range p.Config.Machine.Beside {
		c, err := config.Load(p.Config.Abs(dir + "/" + config.FileName))
		if err != nil {
			return nil, err
		}
		if other, taken := apps[c.Name]; taken {
			return nil, hint.Errorf("give one of them another name", "%s and %s are both called %s", other, c.Dir, c.Name)
		}
		apps[c.Name] = c.Dir
		// One host has one user for all its apps.
		c.DeployUser = p.Config.DeployUser
		all = append(all, &Project{Config: c, Paths: p.Paths, Version: p.Version, on: p})
	}
	return all, nil
}

// releaseBeside makes the other apps of the machine, as their sources are, the
// running releases.
func (p *Project) releaseBeside(ctx context.Context, u *ui.UI) error {
	apps, err := p.beside()
	if err != nil {
		return err
	}
	for _, q := range apps {
		if err := q.releaseOn(ctx, u); err != nil {
			return fmt.Errorf("%s, beside %s: %w", q.Config.Name, p.Config.Name, err)
		}
	}
	return nil
}

func (p *Project) releaseOn(ctx context.Context, u *ui.UI) error {
	h, err := p.Connect(ctx)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.setGiven(ctx); err != nil {
		return err
	}
	u.Say("beside: %s, %s", p.Config.Name, p.Config.Dir)
	_, err = p.Release(ctx, u, h)
	return err
}

// setGiven sets the secrets of machine.secrets that are not set on the machine.
func (h *Host) setGiven(ctx context.Context) error {
	given := h.project.Config.Machine.Secrets
	if len(given) == 0 {
		return nil
	}
	there, err := h.Secrets(ctx)
	if err != nil {
		return fmt.Errorf("ask which secrets the machine has: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		set := slices.ContainsFunc(there, func(e secret.Entry) bool { return e.Name == name && !e.Missing() })
		if set {
			continue
		}
		if _, err := h.SetSecret(ctx, name, []byte(given[name])); err != nil {
			return fmt.Errorf("set the secret %s of machine.secrets: %w", name, err)
		}
	}
	return nil
}

// checkSecrets finds what a host would refuse of machine.secrets.
func (p *Project) checkSecrets() error {
	given := p.Config.Machine.Secrets
	for _, name := range slices.Sorted(maps.Keys(given)) {
		err := secret.ValidName(name)
		if err == nil {
			err = secret.ValidValue([]byte(given[name]))
		}
		if err != nil {
			return fmt.Errorf("%s: machine.secrets: %s: %w", config.FileName, strings.TrimSpace(name), err)
		}
	}
	return nil
}
