package deploy

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"devbox/internal/hint"
	"devbox/internal/remote"
	"devbox/internal/vm"
)

// Spec is the dev machine that devbox.yaml describes.
func (p *Project) Spec() vm.Spec {
	m := p.Config.Machine
	s := vm.Spec{
		Name: cmp.Or(p.machineName, p.Config.Name), CPUs: m.CPUs, MemoryBytes: int64(m.Memory), DiskBytes: int64(m.Disk),
		StateDir: p.MachineDir(), CacheDir: p.Paths.Cache,
	}
	for arch, b := range m.Base {
		if s.Base == nil {
			s.Base = map[string]vm.BaseImage{}
		}
		s.Base[arch] = vm.BaseImage{URL: p.baseURL(b.URL), Digest: b.Digest}
	}
	return s
}

// baseURL makes a path in the repository absolute; an address stays as it is.
func (p *Project) baseURL(url string) string {
	if strings.Contains(url, "://") {
		return url
	}
	return p.Config.Abs(url)
}

// Machine returns the project's dev machine and why it is of that driver, which
// is decided once. Nothing is made or started.
func (p *Project) Machine(ctx context.Context) (vm.Machine, string, error) {
	if p.on != nil {
		return p.on.Machine(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.machine == nil {
		m, why, err := vm.Open(ctx, p.Config.Machine.Driver, p.Spec())
		if err != nil {
			return nil, "", err
		}
		p.machine, p.why = m, why
	}
	return p.machine, p.why, nil
}

// AdminEndpoint is how to log in to the running dev machine as its
// administrator.
func (p *Project) AdminEndpoint(ctx context.Context) (vm.Endpoint, error) {
	m, _, err := p.Machine(ctx)
	if err != nil {
		return vm.Endpoint{}, err
	}
	e, err := m.Endpoint(ctx)
	if errors.Is(err, vm.ErrNotRunning) || errors.Is(err, vm.ErrMissing) {
		return e, hint.Wrap(err, "run `devbox up`")
	}
	return e, err
}

// slow tells whether the machine's processor is emulated.
func (p *Project) slow(ctx context.Context) (bool, error) {
	m, _, err := p.Machine(ctx)
	if err != nil {
		return false, err
	}
	st, err := m.Status(ctx)
	return st.Slow, err
}

// MachineArch asks the running dev machine for its architecture, as GOARCH
// names it.
func (p *Project) MachineArch(ctx context.Context) (string, error) {
	h, err := p.Connect(ctx)
	if err != nil {
		return "", hint.Wrap(err, "start the machine with `devbox up`, or say which with --arch")
	}
	defer h.Close()
	return h.Welcome.Arch, nil
}

// endpoint is e for package remote. The host's key is pinned: the driver took
// it over a path that it trusts.
func endpoint(e vm.Endpoint, user string) remote.Endpoint {
	return remote.Endpoint{
		Host: e.Host, Port: e.Port, User: user,
		IdentityFiles: []string{e.IdentityFile},
		KnownHosts:    []string{e.KnownHostsFile},
	}
}

// dialOptions belong to the dev machine, which needs nothing of the user's own
// SSH settings: no config file, no agent, no prompt.
func (p *Project) dialOptions() remote.Options {
	return remote.Options{Home: p.Paths.Home, Timeout: 10 * time.Second, KeepAlive: 5 * time.Second}
}
