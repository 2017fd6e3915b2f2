// Package forward keeps ports of a dev machine open on the client's 127.0.0.1,
// in a process of its own that outlives the command that started it: [Start]
// spawns it, [Child] is its body, [Stop] ends it, [Running] tells of it.
package forward

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"devbox/internal/hint"
	"devbox/internal/remote"
)

// Port leads from 127.0.0.1 of the client to 127.0.0.1 of the machine.
type Port struct {
	Client int `json:"client"`
	Guest  int `json:"guest"`
}

// Spec is all that the forwarding process needs. It crosses to it as JSON, so
// the callbacks of Options do not: nobody can be asked.
type Spec struct {
	Dir      string          `json:"dir"` // absolute; the process's lock, status and log
	Ports    []Port          `json:"ports"`
	Endpoint remote.Endpoint `json:"endpoint"`
	Options  remote.Options  `json:"options"`
	// Version of the program; another one replaces the running process.
	Version string `json:"version,omitempty"`
	// Patience is how long a connection waits for a machine that is away; 0: 10 s.
	Patience time.Duration `json:"patience,omitempty"`
}

// State is what a forwarding process is doing.
type State string

const (
	Idle      State = "idle"      // nobody has connected since the machine was last away
	Connected State = "connected" // there is a connection to the machine
	Waiting   State = "waiting"   // somebody has connected, the machine does not answer
)

// Status is a forwarding process as it is. Pid 0: there is none.
type Status struct {
	Pid   int    `json:"pid,omitempty"`
	Ports []Port `json:"ports,omitempty"`
	State State  `json:"state,omitempty"`
	Error string `json:"error,omitempty"` // why the machine was last not reached
	Spec  string `json:"spec,omitempty"`  // digest of what it was started with
}

// PortInUseError is a client port that something else listens on.
type PortInUseError struct {
	Port    int    `json:"port"`
	Process string `json:"process,omitempty"` // name and pid, where they can be found out
}

func (e *PortInUseError) Error() string {
	by := "another program"
	if e.Process != "" {
		by = e.Process
	}
	return fmt.Sprintf("port %d of 127.0.0.1 is in use by %s", e.Port, by)
}

func (e *PortInUseError) cure() string {
	s := fmt.Sprintf("end that program, or choose another client port than %d in machine.ports", e.Port)
	if e.Process == "" {
		s += fmt.Sprintf("; `lsof -nP -iTCP:%d -sTCP:LISTEN` names the program", e.Port)
	}
	return s
}

func (s Spec) lockFile() string   { return filepath.Join(s.Dir, "forward.lock") }
func (s Spec) startFile() string  { return filepath.Join(s.Dir, "forward.start") }
func (s Spec) statusFile() string { return filepath.Join(s.Dir, "forward.json") }

// LogFile is where the process writes what happens to it.
func (s Spec) LogFile() string { return filepath.Join(s.Dir, "forward.log") }

func (s Spec) validate() error {
	var errs []error
	if !filepath.IsAbs(s.Dir) {
		errs = append(errs, fmt.Errorf("the state folder %q is not an absolute path", s.Dir))
	}
	seen := map[int]bool{}
	for _, p := range s.Ports {
		for _, n := range []int{p.Client, p.Guest} {
			if n < 1 || n > 65535 {
				errs = append(errs, fmt.Errorf("port %d is not between 1 and 65535", n))
			}
		}
		if seen[p.Client] {
			errs = append(errs, hint.Errorf("give each entry of machine.ports a client port of its own", "client port %d is there twice", p.Client))
		}
		seen[p.Client] = true
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("forward ports: %w", err)
	}
	return nil
}

func (s Spec) digest() (string, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("forward ports: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Running tells of the process that dir belongs to.
func Running(dir string) (Status, error) {
	s := Spec{Dir: dir}
	pid, err := holder(s.lockFile())
	if err != nil || pid == 0 {
		return Status{}, err
	}
	var status Status
	text, err := os.ReadFile(s.statusFile())
	if err == nil {
		err = json.Unmarshal(text, &status)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Status{Pid: pid}, fmt.Errorf("read the state of the port forwarding: %w", err)
	}
	if status.Pid != pid {
		// Of an earlier process; this one is about to write its own.
		return Status{Pid: pid}, nil
	}
	return status, nil
}
