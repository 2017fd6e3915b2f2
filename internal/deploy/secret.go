package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/provision"
	"devbox/internal/remote"
	"devbox/internal/secret"
)

// SetSecret has the host keep value, encrypted, as the app's secret name.
func (h *Host) SetSecret(ctx context.Context, name string, value []byte) (secret.Entry, error) {
	in, err := json.Marshal(secret.Input{Value: value})
	if err != nil {
		return secret.Entry{}, err
	}
	defer clear(in)
	all, err := h.secret(ctx, bytes.NewReader(in), "set", h.App(), name, "--json")
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("devbox-host answered with %d secrets", len(all))
	}
	if err != nil {
		return secret.Entry{}, err
	}
	return all[0], nil
}

// Secrets lists the app's secrets on the host, and those that its units want
// and that are not set. No value comes back.
func (h *Host) Secrets(ctx context.Context) ([]secret.Entry, error) {
	return h.secret(ctx, nil, "list", h.App(), "--json")
}

// RemoveSecret deletes a secret; one that a running unit loads, only with force.
func (h *Host) RemoveSecret(ctx context.Context, name string, force bool) error {
	args := []string{"rm", h.App(), name}
	if force {
		args = append(args, "--force")
	}
	_, err := h.secret(ctx, nil, args...)
	return err
}

// Name is what a person calls the host.
func (h *Host) Name() string {
	if h.target != nil {
		return h.target.Name
	}
	return "the dev machine"
}

// RestartCommand is what has services of this host take new values. It ships
// nothing: a deploy would bring whatever the working tree holds now.
func (h *Host) RestartCommand(units []string) string {
	args := []string{"devbox", "ssh"}
	if h.target != nil {
		args = append(args, h.target.Name)
	}
	return remote.Quote(append(append(args, "sudo", "systemctl", "restart"), units...)...)
}

// secret runs one of devbox-host's commands about secrets.
func (h *Host) secret(ctx context.Context, in io.Reader, args ...string) ([]secret.Entry, error) {
	var out bytes.Buffer
	err := h.Conn.Run(ctx, remote.Command{
		Args: append([]string{"sudo", "-n", provision.HostPath, "secret"}, args...), Stdin: in, Stdout: &out,
	})
	if err != nil {
		return nil, h.said(err)
	}
	return secretEntries(&out)
}

func secretEntries(r io.Reader) ([]secret.Entry, error) {
	var all []secret.Entry
	for d := json.NewDecoder(r); ; {
		var e secret.Entry
		switch err := d.Decode(&e); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("read what devbox-host answered: %w", err)
		}
		all = append(all, e)
	}
}

// said is what devbox-host itself wrote about its failure, with its hint.
func (h *Host) said(err error) error {
	var exit *remote.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	text, cure := hostSaid(exit.Stderr)
	if text == "" {
		return err
	}
	if strings.Contains(text, "there is no command ") {
		return hint.Errorf("run `"+h.provisionCommand()+"`", "devbox-host there is older than this devbox")
	}
	e := &HostError{Text: text}
	switch exit.Code {
	case exitPolicy:
		e.Code = protocol.CodePolicy
	case exitRefused:
		e.Code = protocol.CodeNoSecret
	}
	return hint.Wrap(e, cure)
}

// How devbox-host exits if the host's policy refuses a command, and if what it
// asks does not fit the secrets that are there.
const (
	exitPolicy  = 3
	exitRefused = 4
)

// hostSaid finds the lines in which devbox-host tells an error and its cure.
func hostSaid(stderr string) (text, cure string) {
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "error: "); ok {
			text = rest
		} else if rest, ok := strings.CutPrefix(line, "hint: "); ok {
			cure = rest
		} else if text != "" && cure == "" && line != "" {
			text += "\n" + line
		}
	}
	return text, cure
}
