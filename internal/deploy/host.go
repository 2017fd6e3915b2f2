package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"devbox/internal/protocol"
	"devbox/internal/provision"
	"devbox/internal/remote"
	"devbox/internal/sync/delta"
)

// Host is a connected host: its kept SSH connection and the session of
// devbox-host on it.
type Host struct {
	Conn *remote.Conn
	*Session
	project *Project
	target  *Target                                 // nil: it is the dev machine
	open    func(context.Context) (*Session, error) // another one over the same connection
	done    <-chan struct{}                         // closed when the connection has ended
	slow    bool                                    // its processor is emulated
}

// App is the name of the app that the host is asked about.
func (h *Host) App() string { return h.project.Config.Name }

// settings are what a release on this host is to satisfy.
func (h *Host) settings() protocol.Settings {
	if h.target != nil {
		return h.target.settings()
	}
	return h.project.settings(h.slow)
}

// mode is how deltas for this host are made.
func (h *Host) mode() delta.Mode {
	if h.target != nil {
		return delta.Small
	}
	return delta.Fast
}

// Close ends the session and the connection.
func (h *Host) Close() {
	h.Session.Close()
	h.Conn.Close()
}

// reopen starts a new session over the same connection.
func (h *Host) reopen(ctx context.Context) error {
	h.Session.Close()
	s, err := h.open(ctx)
	if err != nil {
		return err
	}
	h.Session = s
	return nil
}

// Connect reaches the project's dev machine as the deploy user, the way that a
// production host is reached. It starts nothing.
func (p *Project) Connect(ctx context.Context) (*Host, error) {
	e, err := p.AdminEndpoint(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := remote.Dial(ctx, endpoint(e, p.Config.DeployUser), p.dialOptions())
	if err != nil {
		return nil, fmt.Errorf("connect to the machine: %w", err)
	}
	open := func(ctx context.Context) (*Session, error) { return OpenSession(ctx, conn, p.Config.Name) }
	s, err := open(ctx)
	if err != nil {
		conn.Close()
		return nil, err
	}
	h := &Host{Conn: conn, Session: s, project: p, open: open, done: conn.Done()}
	if h.slow, err = p.slow(ctx); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// LogOptions choose what Logs prints.
type LogOptions struct {
	Unit   string // "" is every unit of the app
	Follow bool
	Lines  int
	Cursor string // go on after this entry, instead of the last Lines
	JSON   bool
}

// Logs writes the journal of the app's units to w until it ends or, when it
// follows, until ctx does.
func (h *Host) Logs(ctx context.Context, o LogOptions, w io.Writer) error {
	args := []string{"sudo", "-n", provision.HostPath, "logs", h.project.Config.Name}
	if o.Unit != "" {
		args = append(args, o.Unit)
	}
	if o.Cursor != "" {
		args = append(args, "--cursor", o.Cursor)
	} else {
		args = append(args, "--lines", fmt.Sprint(o.Lines))
	}
	if o.Follow {
		args = append(args, "-f")
	}
	if o.JSON {
		args = append(args, "--json")
	}
	err := h.Conn.Run(ctx, remote.Command{Args: args, Stdout: w})
	if err != nil && ctx.Err() != nil && o.Follow {
		return context.Cause(ctx)
	}
	var exit *remote.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("read the journal: %w", err)
	}
	return err
}
