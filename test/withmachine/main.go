// Command withmachine runs a command beside a fresh machine of the nspawn
// driver, and destroys the machine afterwards, whatever came of it:
//
//	withmachine go test ./internal/release
//
// The command finds in DEVBOX_TEST_SSH a program that runs its arguments as a
// shell command as root on the machine. Nothing is set up there: no
// cloud-config was applied, no devbox-host installed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"devbox/internal/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	stop()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.Exited():
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "withmachine:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command []string) (err error) {
	if len(command) == 0 {
		return errors.New("give a command to run")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "withmachine-")
	if err != nil {
		return err
	}
	m, err := vm.NewNspawn(vm.Spec{Name: "test", StateDir: filepath.Join(dir, "machine"), CacheDir: filepath.Join(cache, "devbox")})
	if err != nil {
		return err
	}
	defer func() {
		gone := m.Destroy(context.WithoutCancel(ctx)) // a signal does not leave a machine behind
		if gone == nil {
			gone = os.RemoveAll(dir)
		}
		err = errors.Join(err, gone)
	}()
	said := func(step string) { fmt.Fprintln(os.Stderr, "withmachine:", step) }
	if err := m.Create(ctx, said); err != nil {
		return err
	}
	if err := m.Start(ctx, said); err != nil {
		return err
	}
	program, leave, err := connect(ctx, m, dir)
	if err != nil {
		return err
	}
	defer leave()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "DEVBOX_TEST_SSH="+program)
	// Its children, too: test binaries hold connections to the machine.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	return cmd.Run()
}

// connect opens one connection and writes the program that runs commands over
// it: a connection for each command would take many times as long.
func connect(ctx context.Context, m vm.Machine, dir string) (program string, leave func(), err error) {
	e, err := m.Endpoint(ctx)
	if err != nil {
		return "", nil, err
	}
	control := filepath.Join(dir, "control")
	ssh := []string{
		"ssh", "-F", "none", "-p", fmt.Sprint(e.Port), "-i", e.IdentityFile, "-l", e.User,
		"-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + e.KnownHostsFile, "-o", "StrictHostKeyChecking=yes",
		"-o", "LogLevel=ERROR", "-S", control,
	}
	out, err := exec.CommandContext(ctx, ssh[0], append(ssh[1:], "-M", "-N", "-f", e.Host)...).CombinedOutput()
	if err != nil {
		return "", nil, fmt.Errorf("connect to the machine: %w: %s", err, out)
	}
	leave = func() { _ = exec.Command(ssh[0], append(ssh[1:], "-O", "exit", e.Host)...).Run() }
	// A login shell of root's has the PATH with sbin. The arguments are one
	// shell command, quoted once more for the shell that sudo is typed into.
	script := fmt.Sprintf(`#!/bin/sh
command=$(printf '%%s' "$*" | sed "s/'/'\\\\''/g")
exec %s %s "sudo -n -H sh -c '$command'"
`, quoted(ssh), e.Host)
	program = filepath.Join(dir, "as-root")
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		leave()
		return "", nil, err
	}
	return program, leave, nil
}

func quoted(args []string) string {
	q := make([]string, len(args))
	for i, a := range args {
		q[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(q, " ")
}
