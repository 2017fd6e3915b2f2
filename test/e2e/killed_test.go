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

	"devbox/internal/protocol"
	"devbox/test/harness"
)

// rounds is how often something is killed; each target has its turn, in the
// first lap with `devbox up` to bring all back, in the next with watch.
const rounds = 12

// target is something that takes part in a cycle.
type target struct {
	name string
	// aim gets ready, so that the kill itself needs no time, and returns what
	// kills after delay and says whether it was there.
	aim func(*testing.T, *harness.Project, *harness.Watch) func(delay time.Duration) bool
	// fatal says that a watch cannot outlive it: the next one has to mend it.
	fatal bool
}

var targets = []target{
	{"devbox watch", func(_ *testing.T, _ *harness.Project, w *harness.Watch) func(time.Duration) bool {
		return func(delay time.Duration) bool {
			time.Sleep(delay)
			return w.Kill()
		}
	}, true},
	{"devbox-host", inside("pkill -KILL -x devbox-host"), false},
	{"the SSH connection", inside("pkill -KILL -u deploy -x sshd-session"), false},
	{"portabled", inside("pkill -KILL -x systemd-portabl"), false},
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
	}, true},
}

// inside logs in and waits there for a line with the delay. What is not there
// yet gets 20 seconds to come: portabled is started in the middle of a cycle.
func inside(command string) func(*testing.T, *harness.Project, *harness.Watch) func(time.Duration) bool {
	script := fmt.Sprintf("echo ready; read delay; sleep $delay; for i in $(seq 2000); do %s && exit 0; sleep 0.01; done; exit 1", command)
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
// all back with one command alone. DEVBOX_TEST_SEED repeats a run's moments.
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
	long := cycleLengths(t, p)
	for n := range rounds {
		target, byWatch := targets[n%len(targets)], n/len(targets)%2 == 1
		t.Run(fmt.Sprintf("%d %s", n, target.name), func(t *testing.T) {
			w := p.Watch(t)
			kill := target.aim(t, p, w)
			unit := n%2 == 0 || target.name == "portabled" // which takes part in no other
			mark := fmt.Sprintf("<i>round %d of %d</i>", n, seed)
			save(t, p, mark, unit)
			delay := time.Duration(random.Int64N(int64(long[unit])))
			if !kill(delay) {
				t.Fatalf("%s was not there to be killed %s after the save", target.name, delay.Round(time.Millisecond))
			}
			t.Logf("unit, too: %t; killed %s after %s of some %s", unit, target.name, delay.Round(time.Millisecond), long[unit].Round(time.Millisecond))
			if byWatch {
				recoveredByWatch(t, p, w, target, mark)
				return
			}
			time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
			w.Kill() // what it could still do by itself does not count
			r := p.Must(t, "up", "--json")
			c := r.Cycle(t)
			t.Logf("up took %s: %s\n%s", r.Took.Round(time.Millisecond), c.Outcome, strings.TrimSpace(r.Stderr))
			recovered(t, p, mark, c.Version)
		})
	}
}

// save puts a mark on the page, and where unit is true into a unit, too, which
// takes the way by portabled.
func save(t *testing.T, p *harness.Project, mark string, unit bool) {
	t.Helper()
	if unit {
		p.Edit(t, units+"bowl.service", "[Unit]", "[Unit]\n# "+mark)
	}
	p.Write(t, page, p.Read(t, page)+mark+"\n") // an element: templates lose comments
}

// cycleLengths says how long the cycles last in which something is killed:
// those of a unit and the others. The second of a kind is like those that follow.
func cycleLengths(t *testing.T, p *harness.Project) map[bool]time.Duration {
	t.Helper()
	w := p.Watch(t)
	long := map[bool]time.Duration{}
	for n, unit := range []bool{false, true, false, true} {
		save(t, p, fmt.Sprintf("<i>cycle %d</i>", n), unit)
		long[unit] = next(t, w, protocol.Committed).Took
	}
	if code := w.Stop(t); code != 0 {
		t.Errorf("watch exits with %d on Ctrl-C\n%s", code, w.Said())
	}
	return long
}

// recoveredByWatch waits until the watch that runs has brought the newest page,
// or the next one, if what was killed is fatal to it.
func recoveredByWatch(t *testing.T, p *harness.Project, w *harness.Watch, killed target, mark string) {
	t.Helper()
	begin := time.Now()
	if killed.fatal {
		w.Kill()
		w = p.Watch(t)
	}
	for !p.Shows(mark) || !committed(t, p) {
		if w.Ended() || time.Since(begin) > time.Minute {
			t.Fatalf("%s after the kill the page lacks %s, or is not committed\n%s", time.Since(begin).Round(time.Millisecond), mark, w.Said())
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("watch took %s", time.Since(begin).Round(time.Millisecond))
	recovered(t, p, mark, strings.TrimSpace(p.Get(t, "/version")))
	if code := w.Stop(t); code != 0 {
		t.Errorf("watch exits with %d on Ctrl-C\n%s", code, w.Said())
	}
}

// committed says whether what is served is a release that is kept, and nothing
// is under way. It does not ask devbox, which would help.
func committed(t *testing.T, p *harness.Project) bool {
	t.Helper()
	kept := p.Inside(t, `cd /var/lib/devbox/bowl; test -e journal.json || sed -n 's/.*"digest": "\(............\).*/\1/p' state.json | head -n 1`)
	up := p.Inside(t, "systemctl is-active bowl.socket bowl.service bowl-litestream.service || true")
	return kept != "" && kept == strings.TrimSpace(p.Get(t, "/version")) && up == "active\nactive\nactive"
}

// recovered checks that version runs, with the mark, and that all is well.
func recovered(t *testing.T, p *harness.Project, mark, version string) {
	t.Helper()
	p.Answers(t, version)
	if body := p.Get(t, "/"); !strings.Contains(body, mark) {
		t.Errorf("the page is not the newest: it lacks %s", mark)
	}
	if !strings.Contains(p.Get(t, "/"), "Ada") {
		t.Error("what was stored is gone")
	}
	s := p.Status(t)
	if s.Code != 0 || s.Host.Current.Digest[:12] != version {
		t.Errorf("status exits with %d: %s %s", s.Code, s.Serving(), s.Problem)
	}
	// The host cleans up behind its answer.
	if got := p.Inside(t, `systemctl is-active bowl.socket bowl.service bowl-litestream.service
for i in $(seq 50); do test -e /var/lib/devbox/bowl/journal.json || exit 0; sleep 0.2; done
echo the journal is still there; cat /var/lib/devbox/bowl/journal.json`); got != "active\nactive\nactive" {
		t.Errorf("on the machine: %s", got)
	}
}
