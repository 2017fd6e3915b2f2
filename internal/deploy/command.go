package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"devbox/internal/hint"
)

// BuildError is a build command that did not end well.
type BuildError struct {
	Command string
	Err     error
	Output  []string // the last lines of what it printed, both streams
}

func (e *BuildError) Error() string {
	text := fmt.Sprintf("build command `%s`: %v", oneLine(e.Command), e.Err)
	if len(e.Output) > 0 {
		text += "\n  " + strings.Join(e.Output, "\n  ")
	}
	return text
}

func (e *BuildError) Unwrap() error { return e.Err }

// Is tells a full disk by what the command printed.
func (e *BuildError) Is(target error) bool {
	return target == syscall.ENOSPC && hint.SaysFull(strings.Join(e.Output, "\n"))
}

// buildTail is how many lines of a failed build are shown.
const buildTail = 40

// errLeftRunning is a build command that ended well and left a process that
// holds its output.
var errLeftRunning = errors.New("it left a process running that holds its output")

// runBuild runs command with sh in dir, env added to devbox's own environment.
// When it ends, and when ctx does, the whole process group is killed: what a
// build leaves running must not write into the stage of the next one.
func runBuild(ctx context.Context, command, dir string, env []string) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	out := &tail{max: buildTail}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // most often nobody is left
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return &BuildError{command, exit, out.lines()}
	case errors.Is(err, exec.ErrWaitDelay):
		return hint.Wrap(&BuildError{command, errLeftRunning, out.lines()}, "let build.command wait for it, or send its output elsewhere: `>/dev/null 2>&1 &`")
	default:
		return fmt.Errorf("start build command in %s: %w", dir, err)
	}
}

// tail keeps the last max lines written to it. exec serialises the writes of
// one writer given as both streams.
type tail struct {
	max  int
	kept []string
	part string
}

func (t *tail) Write(p []byte) (int, error) {
	lines := strings.Split(t.part+string(p), "\n")
	t.part = lines[len(lines)-1]
	t.kept = append(t.kept, lines[:len(lines)-1]...)
	if len(t.kept) > t.max {
		t.kept = append([]string(nil), t.kept[len(t.kept)-t.max:]...)
	}
	return len(p), nil
}

func (t *tail) lines() []string {
	if t.part == "" {
		return t.kept
	}
	return append(t.kept, t.part)
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 80 {
		return string(r[:79]) + "…"
	}
	return s
}
