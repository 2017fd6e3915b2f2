package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"devbox/test/visit"
)

// onMachine is where the hammer lies in a machine.
const onMachine = "/tmp/hammer"

// InstallHammer puts test/hammer on the machine, statically linked.
func (p *Project) InstallHammer(t testing.TB) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "hammer")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, "./test/hammer")
	cmd.Dir, cmd.Env = Root(), append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build hammer: %v\n%s", err, text)
	}
	program, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Feed(t, program, "ssh", "cat > "+onMachine+" && chmod 755 "+onMachine); r.Code != 0 {
		t.Fatal(r)
	}
}

// Visitors are clients of the app, on this computer and inside of the machine.
type Visitors struct {
	stop   context.CancelFunc
	here   chan visit.Report
	inside *exec.Cmd
	stdin  io.WriteCloser
	out    bytes.Buffer
	err    bytes.Buffer
}

// Visitors begin to ask for the page and go on until Leave.
func (p *Project) Visitors(t testing.TB) *Visitors {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	v := &Visitors{stop: cancel, here: make(chan visit.Report, 1)}
	v.inside = p.Command(context.Background(), "ssh", onMachine, "http://127.0.0.1:8080/")
	v.inside.Stdout, v.inside.Stderr = &v.out, &v.err
	var err error
	if v.stdin, err = v.inside.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := v.inside.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { v.here <- visit.Hammer(ctx, p.URL("/"), 6, 10*time.Millisecond) }()
	t.Cleanup(func() { cancel(); _ = v.inside.Process.Kill() })
	time.Sleep(300 * time.Millisecond) // until all of them have come
	return v
}

// Leave ends the visits and checks that nobody was turned away, and that all
// saw only delivered versions in their order, or else one of those on trial.
func (v *Visitors) Leave(t testing.TB, delivered []string, trial ...string) {
	t.Helper()
	v.stop()
	v.stdin.Close()
	here := <-v.here
	if err := v.inside.Wait(); err != nil {
		t.Fatalf("visitors inside of the machine: %v\n%s", err, &v.err)
	}
	var inside visit.Report
	if err := json.Unmarshal(v.out.Bytes(), &inside); err != nil {
		t.Fatalf("visitors inside of the machine: %v\n%s", err, &v.out)
	}
	for where, r := range map[string]visit.Report{"through the forwarded port": here, "inside of the machine": inside} {
		if r.Requests < 50 {
			t.Errorf("%s: only %d requests", where, r.Requests)
		}
		wrong := r.Wrong(delivered, trial...)
		for _, x := range wrong[:min(len(wrong), 10)] {
			t.Errorf("%s: %s", where, x)
		}
		t.Logf("%s: %d requests, %d wrong, %d idle connections ended, longest %s", where, r.Requests, len(wrong), r.Parted, r.Longest.Round(time.Millisecond))
	}
}
