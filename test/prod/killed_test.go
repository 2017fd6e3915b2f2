package prod

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testKilled kills what takes part in a deploy, in the middle of it. Whatever
// devbox then says has to be so, and the next deploy has to work.
func testKilled(t *testing.T, s *site) {
	seed := seed(t)
	p := &powerless{site: s, random: rand.New(rand.NewPCG(seed, 1)), text: map[string]string{}, ended: map[string]string{}}
	defer s.Undo(t, page, units+"bowl.service")()
	p.begin(t)
	victims := []string{"devbox", "pkill -KILL -x devbox-host", "pkill -KILL -x systemd-portabl", "pkill -KILL -u deploy -x sshd-session"}
	hits := map[string]int{}
	// Two of each, and more of one that was gone by its moment.
	for i := range 5 * len(victims) {
		victim := victims[i%len(victims)]
		if i >= 2*len(victims) && hits[victim] > 0 {
			continue
		}
		t.Run(fmt.Sprintf("%d %s", i, victim), func(t *testing.T) {
			old, want := p.answers(t), p.build(t, fmt.Sprintf("killed %d", i), true)
			p.know(t)
			cmd := p.Command(t.Context(), "deploy", "prod", "--yes", "--allow-unproven", "--json")
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { _ = cmd.Wait(); close(ended) }()
			delay := p.instant(cut{units: true})
			time.Sleep(delay)
			hit := false
			if victim == "devbox" {
				hit = cmd.Process.Signal(syscall.SIGKILL) == nil
			} else {
				// What is not there yet gets some time to come.
				hit = p.sh(t, "for i in $(seq 300); do "+victim+" && echo hit && exit; sleep 0.01; done") == "hit"
			}
			if hit {
				hits[victim]++
			}
			select {
			case <-ended:
			case <-time.After(2 * time.Minute):
				t.Fatalf("devbox goes on two minutes after the kill\n%s", &out)
			}
			code := cmd.ProcessState.ExitCode()
			// What goes on there comes to its end. That portabled was killed is remembered,
			// unless systemd has dropped the unit, as it does with one that is idle.
			p.sh(t, "systemctl reset-failed systemd-portabled.service || ! systemctl is-failed --quiet systemd-portabled.service")
			p.sh(t, "for i in $(seq 300); do flock -n /var/lib/devbox/bowl/lock true && exit; sleep 0.1; done; echo the lock is held; exit 1")
			if r := p.Run(t, "status", "prod"); r.Code != 0 {
				t.Errorf("%s", r)
			}
			version := p.answers(t)
			t.Logf("killed after %s: %s, exit %d, %s answers", delay.Round(time.Millisecond), map[bool]string{true: "hit", false: "missed"}[hit], code, map[string]string{old: "the old", want: "the new"}[version])
			switch {
			case version != old && version != want:
				t.Errorf("%s answers, neither %s nor %s", version, old, want)
			case code == 0 && version != want, code == 3 && version != old, code > 5:
				t.Errorf("devbox says %d, and %s answers\n%s", code, version, &out)
			case victim != "devbox" && code != 0 && !strings.Contains(out.String(), "error"):
				t.Errorf("exit %d without a word:\n%s", code, &out)
			}
			p.whole(t, version)
			p.forth(t, fmt.Sprintf("killed %d forth", i), cut{})
		})
	}
	t.Logf("killed: %v", hits)
	for _, victim := range victims {
		if hits[victim] == 0 {
			t.Errorf("%s: it was never there", victim)
		}
	}
}
