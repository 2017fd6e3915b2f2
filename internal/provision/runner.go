package provision

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
)

// Command is a script for sh on the host, run as root.
type Command struct {
	Script string
	Args   []string // $1 and on
	Stdin  io.Reader
	Stdout io.Writer // may be nil; is written to while the script runs
	Stderr io.Writer // may be nil
}

// Runner runs scripts as root on one host.
type Runner interface {
	// Run runs the command to its end and returns its exit code. The error is
	// for a command that could not be run or whose end was not seen, such as
	// a lost connection or an ended ctx.
	Run(ctx context.Context, c Command) (exit int, err error)
}

// output runs a script that must exit with 0 and returns what it prints.
func output(ctx context.Context, r Runner, script string, stdin io.Reader, args ...string) ([]byte, error) {
	var out, errs bytes.Buffer
	exit, err := r.Run(ctx, Command{Script: script, Args: args, Stdin: stdin, Stdout: &out, Stderr: &errs})
	if err != nil {
		return nil, err
	}
	return out.Bytes(), exitError(exit, errs.String())
}

func exitError(exit int, stderr string) error {
	if exit == 0 {
		return nil
	}
	if said := strings.TrimSpace(stderr); said != "" {
		return fmt.Errorf("exit code %d: %s", exit, said)
	}
	return fmt.Errorf("exit code %d", exit)
}
