package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"devbox/internal/hint"
	"devbox/internal/remote"
	"devbox/internal/ui"

	"golang.org/x/term"
)

// sshOptions are this person's side of SSH connections to servers. Without a
// terminal nothing is asked: what would need an answer is refused.
func (a *app) sshOptions(home string) remote.Options {
	o := remote.Options{
		Home:        home,
		ConfigFiles: []string{filepath.Join(home, ".ssh", "config"), "/etc/ssh/ssh_config"},
		AgentSocket: os.Getenv("SSH_AUTH_SOCK"),
	}
	if u, err := user.Current(); err == nil {
		o.LocalUser = u.Username
	}
	if !a.canAsk() {
		return o
	}
	o.Passphrase = func(ctx context.Context, file string) ([]byte, error) {
		return a.readHidden(ctx, fmt.Sprintf("passphrase of %s: ", file))
	}
	o.Answer = func(ctx context.Context, q remote.Question) (string, error) {
		prompt := q.Prompt
		if who := q.User + "@" + q.Host; !strings.HasPrefix(prompt, who) {
			prompt = who + ": " + prompt
		}
		if q.Echo {
			return a.readShown(ctx, prompt)
		}
		text, err := a.readHidden(ctx, prompt)
		return string(text), err
	}
	o.ConfirmHostKey = func(ctx context.Context, unknown *remote.HostKeyUnknownError) (bool, error) {
		defer a.ui.Ask()()
		fmt.Fprintf(a.stderr, "the host %s is not known yet; it shows the %s key\n  %s\n", unknown.Host, unknown.KeyType, unknown.Fingerprint)
		err := a.confirm(ctx, "is that its key? Its owner or provider can tell; `ssh-keygen -lf` on the host prints it.", "")
		if errors.Is(err, errNotConfirmed) {
			return false, nil
		}
		return err == nil, err
	}
	return o
}

// canAsk tells whether there is a person at a terminal.
func (a *app) canAsk() bool { return ui.IsTerminal(a.stderr) && ui.IsTerminal(a.stdin) }

// readHidden asks for one line that is not shown. The terminal is as it was
// afterwards, also when ctx ends before the answer.
func (a *app) readHidden(ctx context.Context, prompt string) ([]byte, error) {
	if !a.canAsk() {
		return nil, hint.Errorf("run it at a terminal", "%s cannot be asked without a terminal", prompt)
	}
	fd := int(a.stdin.Fd())
	was, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	defer a.ui.Ask()()
	fmt.Fprint(a.stderr, prompt)
	defer fmt.Fprintln(a.stderr)
	type answer struct {
		text []byte
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		answered <- answer{text, err}
	}()
	select {
	case <-ctx.Done():
		_ = term.Restore(fd, was)
		return nil, context.Cause(ctx)
	case got := <-answered:
		return got.text, got.err
	}
}

// readShown asks for one line.
func (a *app) readShown(ctx context.Context, prompt string) (string, error) {
	defer a.ui.Ask()()
	fmt.Fprint(a.stderr, prompt)
	return readLine(ctx, a.stdin)
}
