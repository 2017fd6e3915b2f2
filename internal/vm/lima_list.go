package vm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// limaInstance is what devbox reads of `limactl list --json`, the same in Lima
// 1.x and 2.x. Fields it does not need are ignored: they differ between the two.
type limaInstance struct {
	Name          string `json:"name"`
	Status        string `json:"status"` // Running, Stopped, Broken, …
	Dir           string `json:"dir"`
	Arch          string `json:"arch"`
	SSHAddress    string `json:"sshAddress"`
	SSHLocalPort  int    `json:"sshLocalPort"`
	SSHConfigFile string `json:"sshConfigFile"`
	HostAgentPID  int    `json:"hostAgentPID"`
	DriverPID     int    `json:"driverPID"`
	CPUs          int    `json:"cpus"`
	Memory        int64  `json:"memory"` // bytes
	Disk          int64  `json:"disk"`   // bytes
	Protected     bool   `json:"protected"`
	LimaVersion   string `json:"limaVersion"`

	// Errors are empty objects in 1.x, texts in 2.x.
	Errors []json.RawMessage `json:"errors"`
	Config *limaEffective    `json:"config"`
}

// limaEffective is the configuration after Lima merged the user's
// _config/default.yaml and override.yaml into it.
type limaEffective struct {
	Plain  *bool `json:"plain"`
	Mounts []struct {
		Location string `json:"location"`
	} `json:"mounts"`
	Provision []struct {
		Mode   string `json:"mode"`
		Script string `json:"script"`
	} `json:"provision"`
	Containerd struct {
		System *bool `json:"system"`
		User   *bool `json:"user"`
	} `json:"containerd"`
}

// decodeLimaList reads the instances that limactl printed: JSON values one after
// the other, on a line each or, on a terminal of 2.x, indented.
func decodeLimaList(out []byte) ([]limaInstance, error) {
	var all []limaInstance
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var i limaInstance
		switch err := dec.Decode(&i); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("read limactl list --json: %w", err)
		case i.Name == "":
			return nil, fmt.Errorf("read limactl list --json: instance %d has no name", len(all)+1)
		case i.SSHLocalPort < 0 || i.SSHLocalPort > 65535:
			return nil, fmt.Errorf("read limactl list --json: instance %s: SSH port %d", i.Name, i.SSHLocalPort)
		}
		all = append(all, i)
	}
}

func (i limaInstance) scripts() []string {
	if i.Config == nil {
		return nil
	}
	var all []string
	for _, p := range i.Config.Provision {
		all = append(all, p.Script)
	}
	return all
}

// problems are the errors that Lima itself has with the instance, where it tells.
func (i limaInstance) problems() []string {
	var all []string
	for _, raw := range i.Errors {
		var text string
		if json.Unmarshal(raw, &text) == nil && text != "" {
			all = append(all, text)
		}
	}
	return all
}

// changed says in what the user's override.yaml made the machine unlike the one
// that devbox asked for.
func (i limaInstance) changed() []string {
	c := i.Config
	if c == nil {
		return nil
	}
	var all []string
	if c.Plain == nil || !*c.Plain {
		all = append(all, "plain mode is off")
	}
	for _, m := range c.Mounts {
		all = append(all, m.Location+" is mounted")
	}
	if on(c.Containerd.System) || on(c.Containerd.User) {
		all = append(all, "containerd is on")
	}
	return all
}

func on(b *bool) bool { return b != nil && *b }
