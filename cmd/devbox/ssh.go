package main

import (
	"errors"
	"fmt"
	"os/exec"

	"devbox/internal/hint"

	"github.com/spf13/cobra"
)

func newSSH(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "ssh [COMMAND…]",
		Short: "open a shell on the machine, or run one command there",
		Long: `ssh opens a shell on the dev machine as its administrator (who may use sudo), or
runs one command there and exits with its code. It is your own ssh program, with the
machine's address, key and host key filled in.`,
		Example: "  devbox ssh\n  devbox ssh systemctl list-units 'bowl*'",
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			p, err := a.project()
			if err != nil {
				return err
			}
			e, err := p.AdminEndpoint(c.Context())
			if err != nil {
				return err
			}
			path, err := exec.LookPath("ssh")
			if err != nil {
				return hint.Wrap(err, "install openssh-client")
			}
			argv := []string{
				"-F", "none", "-p", fmt.Sprint(e.Port), "-i", e.IdentityFile,
				"-o", "IdentitiesOnly=yes",
				"-o", "UserKnownHostsFile=" + e.KnownHostsFile,
				"-o", "StrictHostKeyChecking=yes",
				"-o", "ControlMaster=no", "-o", "ControlPath=none",
				"-o", "ServerAliveInterval=15",
				"-o", "LogLevel=ERROR",
				"-l", e.User, "--", e.Host,
			}
			ssh := exec.Command(path, append(argv, args...)...)
			ssh.Stdin, ssh.Stdout, ssh.Stderr = a.stdin, a.stdout, a.stderr
			err = ssh.Run() // a Ctrl-C at the terminal reaches ssh itself
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return silent{exitWith{err, exit.ExitCode()}}
			}
			return err
		},
	}
	c.Flags().SetInterspersed(false)
	return c
}
