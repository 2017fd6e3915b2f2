package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/remote"
)

// Target is a server of devbox.yaml.
type Target struct {
	config.Target
	Name    string
	project *Project
}

// HasTarget tells whether devbox.yaml has a target of that name.
func (p *Project) HasTarget(name string) bool {
	_, ok := p.Config.Targets[name]
	return ok
}

// Target finds a server by its name in devbox.yaml.
func (p *Project) Target(name string) (*Target, error) {
	t, ok := p.Config.Targets[name]
	if ok {
		return &Target{Target: t, Name: name, project: p}, nil
	}
	if name == config.DevName {
		return nil, hint.Errorf("give no target at all: that is the dev machine", "%s has no target %q", config.FileName, name)
	}
	if len(p.Config.Targets) == 0 {
		return nil, hint.Errorf("add `targets: {"+name+": {host: ADDRESS}}` to "+config.FileName, "%s has no targets", config.FileName)
	}
	return nil, hint.Errorf("its targets are "+strings.Join(slices.Sorted(maps.Keys(p.Config.Targets)), ", "),
		"%s has no target %q", config.FileName, name)
}

// App is the name of the app that the server is for.
func (t *Target) App() string { return t.project.Config.Name }

// Endpoint is how to reach the server as user; the rest is the person's own SSH
// config.
func (t *Target) Endpoint(user string) remote.Endpoint {
	return remote.Endpoint{Host: t.Host, Port: t.Port, User: user}
}

// Connect reaches the server as the deploy user and greets devbox-host there.
func (t *Target) Connect(ctx context.Context) (*Host, error) {
	conn, err := remote.Dial(ctx, t.Endpoint(t.project.Config.DeployUser), t.project.SSH)
	if err != nil {
		err = fmt.Errorf("connect to %s: %w", t.Name, err)
		if errors.Is(err, remote.ErrAuth) {
			return nil, hint.Wrap(err, fmt.Sprintf("put your public key into %s, under the user %s, and run `devbox provision %s`",
				t.project.Config.CloudInit, t.project.Config.DeployUser, t.Name))
		}
		return nil, err
	}
	h, err := t.greet(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return h, nil
}

func (t *Target) greet(ctx context.Context, conn *remote.Conn) (*Host, error) {
	open := func(ctx context.Context) (*Session, error) { return OpenSession(ctx, conn, t.project.Config.Name) }
	s, err := open(ctx)
	if err != nil {
		var refused *HostError
		if errors.As(err, new(*remote.ExitError)) || errors.As(err, &refused) && refused.Code == protocol.CodeProtocol {
			err = hint.Wrap(err, fmt.Sprintf("run `devbox provision %s`: it installs the devbox-host that belongs to this devbox", t.Name))
		}
		return nil, err
	}
	return &Host{Conn: conn, Session: s, project: t.project, target: t, open: open, done: conn.Done()}, nil
}

// settings are what devbox.yaml says of a release on the server.
func (t *Target) settings() protocol.Settings {
	state := t.project.state()
	if t.project.Config.State.Snapshot == protocol.BeforeActivate { // and not "none"
		state.Snapshot = protocol.BeforeActivate
	}
	return protocol.Settings{
		Profile: t.project.Config.Image.Profile,
		Env:     t.Env,
		Health:  health(t.Health, time.Duration(t.Health.Deadline)),
		Trial:   time.Duration(t.Trial),
		State:   state,
	}
}

func health(h config.Health, deadline time.Duration) protocol.Health {
	return protocol.Health{URL: h.URL, Expect: h.Expect, Command: h.Command, Deadline: deadline}
}

// shipped is where the image stays that was last brought to the server. The
// images of the dev machine come and go with every save, and months later this
// one is what the next is sent against.
func (t *Target) shipped() imageStore {
	p := t.project
	return imageStore{dir: filepath.Join(p.Paths.Cache, "apps", p.Config.Name, "targets", t.Name), app: p.Config.Name}
}
