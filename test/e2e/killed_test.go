package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"devbox/test/harness"
)

// rounds is how often something is killed; each target has its turn.
const rounds = 12

// targets are what takes part in a cycle. Each gets ready, so that the kill
// itself needs no time, and returns what kills after delay and says whether it
// was there.
var targets = []struct {
	name string
	aim  func(*testing.T, *harness.Project, *harness.Watch) func(delay time.Duration) bool
}{
	{"devbox watch", func(_ *testing.T, _ *harness.Project, w *harness.Watch) func(time.Duration) bool {
		return func(delay time.Duration) bool {
			time.Sleep(delay)
			w.Kill()
			return true
		}
	}},
	{"devbox-host", inside("pkill -KILL -x devbox-host")},
	{"the SSH connection", inside("pkill -KILL -u deploy -x sshd-session")},
	{"portabled", inside("pkill -KILL -x systemd-portabl")},
	{"the machine", func(t *testing.T, p *harness.Project, _ *harness.Watch) func(time.Duration) bool {
		detail := p.Status(t).Machine.Detail
		_, text, _ := strings.Cut(detail, "process ")
		pid, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("status does not name the machine's process: %q", detail)
		}
		return func(delay time.Duration) bool {
			time.Sleep(delay)
			return syscall.Kill(pid, syscall.SIGKILL) == nil
		}
	}},
}

// inside logs in and waits there for a line with the delay. What is not there
// yet gets two seconds to come.
func inside(command string) func(*testing.T, *harness.Project, *harness.Watch) func(time.Duration) bool {
	script := fmt.Sprintf("echo ready; read delay; sleep $delay; for i in $(seq 200); do %s && exit 0; sleep 0.01; done; exit 1", command)
	return func(t *testing.T, p *harness.Project, _ *harness.Watch) func(time.Duration) bool {
		cmd := p.Command(t.Context(), "ssh", "sudo", "sh", "-c", "'"+script+"'")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
			t.Fatalf("log in: %v", err)
		}
		return func(delay time.Duration) bool {
			fmt.Fprintf(stdin, "%.3f\n", delay.Seconds())
			return cmd.Wait() == nil
		}
	}
}

// testKilled saves, kills something at a random moment of the cycle, and brings
// all back with `devbox up` alone. DEVBOX_TEST_SEED repeats a run's moments.
func testKilled(t *testing.T, p *harness.Project) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("DEVBOX_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("DEVBOX_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for n := range rounds {
		target := targets[n%len(targets)]
		t.Run(fmt.Sprintf("%d %s", n, target.name), func(t *testing.T) {
			w := p.Watch(t)
			kill := target.aim(t, p, w)
			mark := fmt.Sprintf("<i>round %d of %d</i>", n, seed) // templates lose comments
			p.Write(t, page, p.Read(t, page)+mark+"\n")
			what := "a template"
			if n%2 == 0 || target.name == "portabled" { // which takes part in no other
				what = "a unit, too"
				p.Edit(t, units+"bowl.service", "[Unit]", "[Unit]\n# "+mark)
			}
			delay := time.Duration(random.Int64N(int64(time.Second)))
			was := kill(delay)
			t.Logf("%s saved, killed %s after %s: it was there: %t", what, target.name, delay.Round(time.Millisecond), was)
			time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
			w.Kill() // what it could still do by itself does not count
			recovered(t, p, mark)
		})
	}
	t.Run("watch goes on", func(t *testing.T) { testWatchGoesOn(t, p) })
}

func recovered(t *testing.T, p *harness.Project, mark string) {
	t.Helper()
	r := p.Must(t, "up", "--json")
	c := r.Cycle(t)
	t.Logf("up took %s: %s\n%s", r.Took.Round(time.Millisecond), c.Outcome, strings.TrimSpace(r.Stderr))
	p.Answers(t, c.Version)
	if body := p.Get(t, "/"); !strings.Contains(body, mark) {
		t.Errorf("the page is not the newest: it lacks %s", mark)
	}
	if !strings.Contains(p.Get(t, "/"), "Ada") {
		t.Error("what was stored is gone")
	}
	s := p.Status(t)
	if s.Code != 0 || s.Host.Current.Digest[:12] != c.Version {
		t.Errorf("status exits with %d: %s %s", s.Code, s.Serving(), s.Problem)
	}
	// The host cleans up behind its answer.
	if got := p.Inside(t, `systemctl is-active bowl.socket bowl.service bowl-litestream.service
for i in $(seq 50); do test -e /var/lib/devbox/bowl/journal.json || exit 0; sleep 0.2; done
echo the journal is still there; cat /var/lib/devbox/bowl/journal.json`); got != "active\nactive\nactive" {
		t.Errorf("on the machine: %s", got)
	}
}

// testWatchGoesOn ends the connection under a watch, which comes back alone.
func testWatchGoesOn(t *testing.T, p *harness.Project) {
	w := p.Watch(t)
	if !inside("pkill -KILL -u deploy -x sshd-session")(t, p, w)(0) {
		t.Fatal("there was no connection to end")
	}
	mark := "<i>without a connection</i>"
	p.Write(t, page, p.Read(t, page)+mark+"\n")
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(p.Get(t, "/"), mark) {
		if time.Now().After(deadline) {
			t.Fatalf("a minute later the page is not the newest\n%s", w.Said())
		}
		time.Sleep(100 * time.Millisecond)
	}
	if code := w.Stop(t); code != 0 {
		t.Errorf("watch exits with %d on Ctrl-C\n%s", code, w.Said())
	}
}
