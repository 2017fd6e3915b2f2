package harness

import (
	"bufio"
	"bytes"
	"context"
	"strings"
	"syscall"
	"testing"
	"time"
)

// busy is how long after its beginning a step is interrupted.
const busy = 300 * time.Millisecond

// Interrupt runs devbox and presses Ctrl-C a moment after it has said after on
// stderr: the whole process group gets the signal, as from a terminal.
func (p *Project) Interrupt(t testing.TB, after string, args ...string) Ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	cmd := p.Command(ctx, args...)
	cmd.SysProcAttr.Setpgid = true
	var stdout, said bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pressed := false
	for in := bufio.NewScanner(stderr); in.Scan(); {
		said.WriteString(in.Text() + "\n")
		if !pressed && strings.Contains(in.Text(), after) {
			pressed = true
			time.Sleep(busy)
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		}
	}
	_ = cmd.Wait() // the exit code tells
	r := Ran{args, cmd.ProcessState.ExitCode(), stdout.String(), said.String(), time.Since(begin)}
	if !pressed {
		t.Fatalf("it never said %q: %s", after, r)
	}
	return r
}
