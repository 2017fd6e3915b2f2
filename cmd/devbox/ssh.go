package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"devbox/internal/hint"

	"github.com/spf13/cobra"
)

func newSSH(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "ssh [TARGET] [COMMAND…]",
		Short: "open a shell on the machine or a server, or run one command there",
		Long: `ssh opens a shell on the dev machine as its administrator (who may use sudo), or on a
target as the user that provision logs in as, or runs one command there and exits with its
code. It is your own ssh program; for the dev machine with its address, key and host key
filled in, for a target by your own SSH config.`,
		Example: "  devbox ssh\n  devbox ssh systemctl list-units 'bowl*'\n  devbox ssh prod",
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			on, command, err := a.splitTarget(args)
			if err != nil {
				return err
			}
			var argv []string
			if len(on) == 1 {
				argv, err = a.sshToTarget(on[0])
			} else {
				argv, err = a.sshToMachine(c.Context())
			}
			if err != nil {
				return err
			}
			return a.runSSH(append(argv, command...))
		},
	}
	c.Flags().SetInterspersed(false)
	return c
}

func (a *app) sshToMachine(ctx context.Context) ([]string, error) {
	p, err := a.project()
	if err != nil {
		return nil, err
	}
	e, err := p.AdminEndpoint(ctx)
	if err != nil {
		return nil, err
	}
	return []string{
		"-F", "none", "-p", fmt.Sprint(e.Port), "-i", e.IdentityFile,
		"-o", "IdentitiesOnly=yes",
		"-o", "UserKnownHostsFile=" + e.KnownHostsFile,
		"-o", "StrictHostKeyChecking=yes",
		"-o", "ControlMaster=no", "-o", "ControlPath=none",
		"-o", "ServerAliveInterval=15",
		"-o", "LogLevel=ERROR",
		"-l", e.User, "--", e.Host,
	}, nil
}

func (a *app) sshToTarget(name string) ([]string, error) {
	t, err := a.target(name)
	if err != nil {
		return nil, err
	}
	argv := []string{"-l", t.User}
	if t.Port != 0 {
		argv = append(argv, "-p", fmt.Sprint(t.Port))
	}
	return append(argv, "--", t.Host), nil
}

func (a *app) runSSH(argv []string) error {
	path, err := exec.LookPath("ssh")
	if err != nil {
		return hint.Wrap(err, "install openssh-client")
	}
	ssh := exec.Command(path, argv...)
	ssh.Stdin, ssh.Stdout, ssh.Stderr = a.stdin, a.stdout, a.stderr
	err = ssh.Run() // a Ctrl-C at the terminal reaches ssh itself
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return silent{exitWith{err, exit.ExitCode()}}
	}
	return err
}
