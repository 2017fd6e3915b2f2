// Package deploy is the way from a source tree to a running release, the same
// for a machine at home and a server: build, pack, ship, activate, check.
// What makes a host exist is internal/vm's concern, what an activation does on
// it internal/release's.
package deploy

import (
	"cmp"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/remote"
	"devbox/internal/vm"
)

// Paths are where devbox keeps its own files on the client, all absolute.
type Paths struct {
	Home       string // the user's home folder, for ~/.ssh
	Cache      string // what can be made again: base images, tools, packed images
	State      string // what cannot: machines
	Executable string // devbox itself
}

// fullCache gives a full disk as the cause of err its cure.
func (p Paths) fullCache(err error) error {
	return hint.Full(err, fmt.Sprintf("free some space on the disk of %s, or set XDG_CACHE_HOME to a folder on another one", p.Cache))
}

// fullState is fullCache for what makes and starts machines.
func (p Paths) fullState(err error) error {
	return hint.Full(err, fmt.Sprintf("free some space on the disk of %s, or set XDG_STATE_HOME to a folder on another one", p.State))
}

// Project is one app: its devbox.yaml and the folders that devbox keeps for it.
type Project struct {
	Config *config.Config
	Paths  Paths
	// Version of devbox: another one replaces the process that forwards ports.
	Version string
	// SSH is the person's side of connections to servers: SSH config, agent, prompts.
	SSH remote.Options

	machineName string             // "": that of the app
	rehearses   *protocol.Settings // of what is rehearsed; nil: those of devbox.yaml

	on *Project // whose dev machine this app runs on; nil: it has its own

	prepared bool // this process made a copy for the next image to be packed over

	mu      sync.Mutex // of those below
	machine vm.Machine
	why     string // the machine is of that driver
}

// MachineDir is the folder of this app's dev machine.
func (p *Project) MachineDir() string {
	if p.on != nil {
		return p.on.MachineDir()
	}
	return filepath.Join(p.Paths.State, "machines", cmp.Or(p.machineName, p.Config.Name))
}

// stages is where build commands put their files, each into a folder of its own.
func (p *Project) stages() string {
	return filepath.Join(p.Paths.Cache, "apps", p.Config.Name, "stages")
}

// imageDir is where packed images of this app are kept.
func (p *Project) imageDir() string {
	return filepath.Join(p.Paths.Cache, "apps", p.Config.Name, "images")
}

func (p *Project) images() imageStore {
	return imageStore{dir: p.imageDir(), app: p.Config.Name}
}

// patience is how much longer than on a real processor everything may take on
// an emulated one. Seen under QEMU's TCG on a busy computer: a first restart of
// 7.6 s, and a later one that was not ready within 10 s; a container there took
// 0.2 to 0.8 s.
const patience = 12

// settings are what devbox.yaml says of a release on the dev machine.
func (p *Project) settings(slow bool) protocol.Settings {
	if p.rehearses != nil {
		s := *p.rehearses
		s.Health.Deadline = patient(s.Health.Deadline, slow)
		return s
	}
	c := p.Config
	return protocol.Settings{
		Profile: c.Image.Profile,
		Env:     c.Env,
		Health:  health(c.Health, patient(time.Duration(c.Health.Deadline), slow)),
		State:   p.state(),
	}
}

func (p *Project) state() protocol.State {
	return protocol.State{Check: p.Config.State.Check}
}

// patient is how long a release may take to be healthy that elsewhere has d.
func patient(d time.Duration, slow bool) time.Duration {
	if slow {
		d = min(d*patience, protocol.MaxDeadline)
	}
	return d
}
