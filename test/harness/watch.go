package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"devbox/internal/deploy"
)

// Watch is a running `devbox watch --json`.
type Watch struct {
	First  deploy.Cycle // the one that every watch begins with
	cmd    *exec.Cmd
	cycles chan deploy.Cycle
	ended  chan struct{}
	err    error // of the program, once ended is closed

	mu     sync.Mutex
	lines  []string
	stderr bytes.Buffer
}

// Watch starts devbox watch and waits for its first cycle. It is interrupted at
// the end of the test if it runs then.
func (p *Project) Watch(t testing.TB) *Watch {
	t.Helper()
	w := p.StartWatch(t)
	w.First = w.Next(t, "")
	if w.First.Error != "" {
		t.Fatalf("the first cycle of watch: %s", w.First.Error)
	}
	return w
}

// StartWatch is Watch without the waiting.
func (p *Project) StartWatch(t testing.TB) *Watch {
	t.Helper()
	w := &Watch{cmd: p.Command(context.Background(), "watch", "--json"), cycles: make(chan deploy.Cycle, 256), ended: make(chan struct{})}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.cmd.Stderr = locked{w}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(w.ended)
		in := bufio.NewScanner(stdout)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			w.mu.Lock()
			w.lines = append(w.lines, in.Text())
			w.mu.Unlock()
			var e deploy.WatchEvent
			if json.Unmarshal(in.Bytes(), &e) == nil && e.Cycle != nil {
				w.cycles <- *e.Cycle
			}
		}
		w.err = w.cmd.Wait()
	}()
	t.Cleanup(func() { w.Signal(syscall.SIGKILL); <-w.ended })
	return w
}

type locked struct{ w *Watch }

func (l locked) Write(b []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.w.stderr.Write(b)
}

// Next waits for the cycle that file triggered; "" is any.
func (w *Watch) Next(t testing.TB, file string) deploy.Cycle {
	t.Helper()
	limit := time.After(Limit)
	for {
		select {
		case c := <-w.cycles:
			if file == "" || slices.ContainsFunc(c.Trigger, func(x string) bool { return strings.HasSuffix(x, file) }) {
				return c
			}
			t.Logf("another cycle: %v %s %s", c.Trigger, c.Outcome, c.Error)
		case <-w.ended:
			t.Fatalf("watch ended: %v\n%s", w.err, w.Said())
		case <-limit:
			t.Fatalf("no cycle for %q within %s\n%s", file, Limit, w.Said())
		}
	}
}

// Said is what watch printed so far.
func (w *Watch) Said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.lines, "\n") + "\n" + w.stderr.String()
}

// Logs are the app's lines that watch showed so far.
func (w *Watch) Logs() []deploy.LogLine {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []deploy.LogLine
	for _, line := range w.lines {
		var e deploy.WatchEvent
		if json.Unmarshal([]byte(line), &e) == nil && e.Log != nil {
			all = append(all, *e.Log)
		}
	}
	return all
}

// Signal sends a signal; one that has ended gets none.
func (w *Watch) Signal(s os.Signal) { _ = w.cmd.Process.Signal(s) }

// Stop is Ctrl-C. It returns the exit code.
func (w *Watch) Stop(t testing.TB) int {
	t.Helper()
	w.Signal(os.Interrupt)
	select {
	case <-w.ended:
	case <-time.After(time.Minute):
		t.Fatalf("watch goes on a minute after Ctrl-C\n%s", w.Said())
	}
	return w.cmd.ProcessState.ExitCode()
}

// Kill is kill -9. It says whether there was a process to kill.
func (w *Watch) Kill() (ran bool) {
	ran = w.cmd.Process.Signal(syscall.SIGKILL) == nil
	<-w.ended
	return ran
}

// Ended says whether watch has ended.
func (w *Watch) Ended() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}
