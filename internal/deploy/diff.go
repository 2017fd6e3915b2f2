package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"devbox/internal/config"
	"devbox/internal/drift"
	"devbox/internal/facts"
	"devbox/internal/image"
	"devbox/internal/provision"
	"devbox/internal/remote"
	"devbox/internal/vm"
)

// Diff is how the dev machine, a target and the repository differ.
type Diff struct {
	Hosts       drift.Names        `json:"hosts"`
	Notes       []string           `json:"notes,omitempty"` // what was not asked, and why
	Differences []drift.Difference `json:"differences"`
}

// Diff compares the dev machine and, if target is not "", that server with each
// other and with the repository. The dev machine may be missing where a server
// is asked.
func (p *Project) Diff(ctx context.Context, target string) (*Diff, error) {
	repo, err := p.declared()
	if err != nil {
		return nil, err
	}
	d := &Diff{Hosts: drift.Names{Target: target}, Differences: []drift.Difference{}}
	type answer struct {
		host *drift.Host
		err  error
	}
	asked := make(chan answer, 1)
	go func() {
		h, err := p.devFacts(ctx)
		asked <- answer{h, err}
	}()
	var there *drift.Host
	if target != "" {
		there, err = p.targetFacts(ctx, target)
	} else {
		d.Notes = append(d.Notes, "no target was named, so only the dev machine and the repository are compared")
	}
	dev := <-asked
	switch {
	case err != nil:
		return nil, err
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case dev.err != nil && there == nil:
		return nil, dev.err
	case dev.err != nil:
		d.Notes = append(d.Notes, fmt.Sprintf("the dev machine was not asked, so only %s and the repository are compared: %v", target, dev.err))
	}
	if dev.host != nil {
		d.Hosts.Dev = dev.host.Name
	}
	d.Differences = append(d.Differences, drift.Compare(repo, dev.host, there)...)
	return d, nil
}

// Facts asks a host what it is; with updates also what apt would install there.
func (h *Host) Facts(ctx context.Context, updates bool) (*facts.Facts, error) {
	args := []string{"sudo", "-n", provision.HostPath, "facts", h.App()}
	if updates {
		args = append(args, "--updates")
	}
	var out bytes.Buffer
	err := h.Conn.Run(ctx, remote.Command{Args: args, Stdout: &bounded{&out, maxFacts}})
	if err != nil {
		return nil, fmt.Errorf("read the facts of %s: %w", h.Name(), h.said(err))
	}
	var f facts.Facts
	if err := json.Unmarshal(out.Bytes(), &f); err != nil {
		return nil, fmt.Errorf("read the facts of %s: %w", h.Name(), err)
	}
	return &f, nil
}

// maxFacts bounds what a host says of itself in bytes; a large one says 200 kB.
const maxFacts = 16 << 20

// bounded takes up to left bytes.
type bounded struct {
	to   *bytes.Buffer
	left int
}

func (b *bounded) Write(data []byte) (int, error) {
	if b.left -= len(data); b.left < 0 {
		return 0, errors.New("the host says more than facts may be")
	}
	return b.to.Write(data)
}

func (h *Host) provisionCommand() string {
	if h.target != nil {
		return "devbox provision " + h.target.Name
	}
	return "devbox up"
}

// compared is h with its facts.
func (h *Host) compared(ctx context.Context, updates bool) (*drift.Host, error) {
	f, err := h.Facts(ctx, updates)
	if err != nil {
		return nil, err
	}
	d := &drift.Host{Name: config.DevName, Facts: f, Env: h.settings().Env, Provision: h.provisionCommand(), Deploy: "devbox up"}
	if h.target != nil {
		d.Name, d.Deploy, d.Admin = h.target.Name, "devbox deploy "+h.target.Name, h.target.User
		return d, nil
	}
	e, err := h.project.AdminEndpoint(ctx)
	if err != nil {
		return nil, err
	}
	d.Admin, d.Packages = e.User, vm.BasePackages()
	key, err := os.ReadFile(e.IdentityFile)
	if err != nil {
		return nil, err
	}
	if signer, err := ssh.ParsePrivateKey(key); err == nil { // else a person's own, with a pass phrase
		d.Keys = []string{ssh.FingerprintSHA256(signer.PublicKey())}
	}
	return d, nil
}

func (p *Project) devFacts(ctx context.Context) (*drift.Host, error) {
	h, err := p.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return h.compared(ctx, false)
}

func (p *Project) targetFacts(ctx context.Context, name string) (*drift.Host, error) {
	t, err := p.Target(name)
	if err != nil {
		return nil, err
	}
	h, err := t.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return h.compared(ctx, false)
}

// declared is what the repository asks of hosts.
func (p *Project) declared() (drift.Repo, error) {
	c := p.Config
	r := drift.Repo{App: c.Name, CloudConfig: c.CloudInit, Version: provision.Version, Profile: c.Image.Profile, Users: map[string][]string{}}
	data, err := p.cloudConfig()
	if err != nil {
		return r, err
	}
	d := provision.Declares(data)
	r.Hash, r.Packages, r.Files, r.Timezone = provision.Hash(data), append(provision.BasePackages(), d.Packages...), d.Files, d.Timezone
	for user, keys := range d.Users {
		r.Users[user] = facts.Fingerprints([]byte(strings.Join(keys, "\n")))
	}
	r.Units, err = p.treeUnits()
	return r, err
}

// treeUnits are the app's unit files of image.tree; what the build command adds
// is not known without building.
func (p *Project) treeUnits() (map[string]string, error) {
	const dir = "usr/lib/systemd/system"
	units := map[string]string{}
	if p.Config.Image.Tree == "" {
		return units, nil
	}
	root := filepath.Join(p.Config.Abs(p.Config.Image.Tree), dir)
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return units, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !image.MatchesPrefix(e.Name(), p.Config.Name) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(root, e.Name()))
		if err != nil {
			return nil, err
		}
		units[e.Name()] = facts.Digest(data)
	}
	return units, nil
}
