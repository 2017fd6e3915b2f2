package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"devbox/internal/hint"
)

// ToolError is an outside program that failed.
type ToolError struct {
	Args   []string
	Err    error  // *exec.ExitError, why it could not be run, or why it was cancelled
	Output string // its stderr; empty if it was cancelled
}

func (e *ToolError) Error() string {
	command := strings.Join(strings.Fields(strings.Join(e.Args, " ")), " ")
	if limit := 80; len(command) > limit {
		command = strings.ToValidUTF8(command[:limit], "") + "…"
	}
	what := fmt.Sprintf("run `%s`: %v", command, e.Err)
	if tail := lastLines(e.Output, 12); tail != "" {
		what += "\n" + tail
	}
	return what
}

func (e *ToolError) Unwrap() error { return e.Err }

// Is tells a full disk by what the program printed.
func (e *ToolError) Is(target error) bool {
	return target == syscall.ENOSPC && hint.SaysFull(e.Output)
}

// tool names a program with its arguments; dir, env and stdin are optional.
type tool struct {
	args  []string
	dir   string
	env   []string // added to ours
	stdin string
	quiet time.Duration // how long it may take to end after a cancel, 5 s if zero
	// lock is held by the program too: if this process is killed, the next one
	// waits until the program has ended.
	lock *os.File
}

// run returns what the program wrote to stdout. A cancelled ctx ends the whole
// process group; the death of this process ends the program on Linux.
func (t tool) run(ctx context.Context) (string, error) {
	path, err := lookTool(t.args[0])
	if err != nil {
		return "", hint.Wrap(&ToolError{Args: t.args, Err: err}, "install it: `devbox doctor --fix`")
	}
	cmd := exec.CommandContext(ctx, path, t.args[1:]...)
	cmd.Dir = t.dir
	cmd.Env = append(os.Environ(), t.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithUs(cmd.SysProcAttr)
	if t.lock != nil {
		cmd.ExtraFiles = []*os.File{t.lock}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = max(t.quiet, 5*time.Second)
	if t.stdin != "" {
		cmd.Stdin = strings.NewReader(t.stdin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", &ToolError{Args: t.args, Err: context.Cause(ctx)}
		}
		return stdout.String(), &ToolError{Args: t.args, Err: err, Output: stderr.String()}
	}
	return stdout.String(), nil
}

// run is tool.run for the usual case.
func run(ctx context.Context, args ...string) (string, error) {
	return tool{args: args}.run(ctx)
}

// lookTool finds a program also where only root's PATH looks.
func lookTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || strings.Contains(name, "/") {
		return path, err
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n \t\r"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// waitFor polls until done says so. what is what it waited for, for the error.
func waitFor(ctx context.Context, limit, every time.Duration, what string, done func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w after %s", what, errTimeout, limit)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		case <-time.After(every):
		}
	}
}

var errTimeout = errors.New("gave up")
