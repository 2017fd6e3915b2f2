package deploy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	"devbox/internal/hint"
	"devbox/internal/provision"
	"devbox/internal/remote"
)

// asAdmin runs scripts of package provision as root over a connection of
// whoever administers the server: root itself, or a user of sudo.
type asAdmin struct {
	conn     *remote.Conn
	sudo     bool
	password *string // that sudo asks for; nil: it asks for none
}

// sudoScript runs after sudo, which may or may not have read the password that
// comes first on stdin: all up to the mark is not for the script.
const sudoScript = `while IFS= read -r line; do [ "$line" != "$1" ] || break; done
shift
exec sh -c "$@"`

// Run implements provision.Runner. A password goes to sudo's stdin alone: it is
// in no argument and in no environment, which others on the host could read.
func (r asAdmin) Run(ctx context.Context, c provision.Command) (int, error) {
	script := append([]string{"sh", "-c", c.Script, "devbox"}, c.Args...)
	cmd := remote.Command{Args: script, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr}
	switch {
	case r.sudo && r.password == nil:
		cmd.Args = append([]string{"sudo", "-n"}, script...)
	case r.sudo:
		mark := rand.Text()
		// -k: a password that sudo remembers would not be read.
		cmd.Args = append([]string{"sudo", "-k", "-S", "-p", "", "sh", "-c", sudoScript, "devbox", mark, c.Script, "devbox"}, c.Args...)
		stdin := c.Stdin
		if stdin == nil {
			stdin = strings.NewReader("")
		}
		cmd.Stdin = io.MultiReader(strings.NewReader(*r.password+"\n"+mark+"\n"), stdin)
	}
	err := r.conn.Run(ctx, cmd)
	var exit *remote.ExitError
	if errors.As(err, &exit) && exit.Signal == "" {
		return exit.Code, nil
	}
	return 0, err
}

// sudoTries is how often a person may mistype.
const sudoTries = 3

// becomeRoot finds out how the user of conn becomes root there, and asks for a
// password if sudo does.
func (t *Target) becomeRoot(ctx context.Context, conn *remote.Conn, ask func(context.Context, remote.Question) (string, error)) (asAdmin, error) {
	user := conn.Hop().User
	if user == "root" {
		return asAdmin{conn: conn}, nil
	}
	said, err := trySudo(ctx, conn, nil)
	if err != nil || said == "" {
		return asAdmin{conn: conn, sudo: true}, err
	}
	if out, err := conn.Output(ctx, "sh", "-c", "command -v sudo"); err != nil || len(out) == 0 {
		return asAdmin{}, hint.Errorf(fmt.Sprintf("set `user: root` for %s in devbox.yaml, or install sudo there and let %s use it", t.Name, user),
			"%s has no sudo, by which %s could become root", t.Name, user)
	}
	if ask == nil {
		return asAdmin{}, hint.Errorf(fmt.Sprintf("run it at a terminal, or let %s use sudo there without a password, or set `user: root`", user),
			"sudo asks %s for a password on %s, and there is no terminal to ask for it", user, t.Name)
	}
	for range sudoTries {
		password, err := ask(ctx, remote.Question{Host: t.Host, User: user, Prompt: "password for sudo: "})
		if err != nil {
			return asAdmin{}, fmt.Errorf("ask for the password for sudo on %s: %w", t.Name, err)
		}
		if strings.ContainsAny(password, "\n\x00") {
			return asAdmin{}, errors.New("a password for sudo is one line")
		}
		if said, err = trySudo(ctx, conn, &password); err != nil || said == "" {
			return asAdmin{conn: conn, sudo: true, password: &password}, err
		}
	}
	return asAdmin{}, hint.Wrap(fmt.Errorf("become root on %s by sudo as %s: refused: %s", t.Name, user, said),
		fmt.Sprintf("see that the password is right and that %s may use sudo for everything there", user))
}

// trySudo runs nothing as root, and returns what sudo says if it refuses. It
// gets one try with the password: its next one would read what is not there.
func trySudo(ctx context.Context, conn *remote.Conn, password *string) (said string, err error) {
	cmd := remote.Command{Args: []string{"sudo", "-k", "-n", "sh", "-c", ":"}}
	if password != nil {
		cmd = remote.Command{Args: []string{"sudo", "-k", "-S", "-p", "", "sh", "-c", ":"}, Stdin: strings.NewReader(*password + "\n")}
	}
	err = conn.Run(ctx, cmd)
	var exit *remote.ExitError
	if !errors.As(err, &exit) {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(exit.Stderr), "\n")
	last := lines[len(lines)-1] // a lecture may come before
	if last == "" {
		last = fmt.Sprintf("exit code %d", exit.Code)
	}
	return strings.TrimPrefix(last, "sudo: "), nil
}
