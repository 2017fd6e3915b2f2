package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
	"devbox/test/harness"
)

// testJournal begins without a release, as the first watch of all does, and
// compares what watch shows of the journal with the journal itself: nothing is
// missing, nothing comes twice, and all is in order.
func testJournal(t *testing.T, p *harness.Project) {
	p.Inside(t, "devbox-host forget bowl")
	begin := p.Inside(t, "sleep 1.1; date +@%s") // journalctl takes whole seconds
	w := p.Watch(t)
	if w.First.Outcome != protocol.Committed {
		t.Fatalf("the first cycle: %s %s", w.First.Outcome, w.First.Error)
	}

	p.Edit(t, page, "<footer>", "<!-- journal -->\n<footer>") // another invocation
	w.Next(t, page)

	added := units + "bowl-added.service"
	p.Write(t, added, `[Unit]
Description=Bowl, a service that came later
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/litestream version
DynamicUser=yes

[Install]
WantedBy=multi-user.target

[X-Devbox]
Reads=
`)
	if c := w.Next(t, added); c.Outcome != protocol.Committed {
		t.Fatalf("the added service: %s %s", c.Outcome, c.Error)
	}

	// What is logged while nobody is connected comes afterwards.
	p.Inside(t, "pkill -KILL -u deploy -x sshd-session; systemctl restart bowl.service")
	p.Inside(t, "for i in $(seq 100); do pkill -KILL -x journalctl && break; sleep 0.1; done; systemctl restart bowl.service")

	var want, got []string
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		want = entries(t, p.Inside(t, "journalctl --quiet --no-pager --output=json --since="+begin+" --unit='bowl*'"))
		got = shown(w)
		if strings.Join(got, "\n") == strings.Join(want, "\n") {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("watch shows\n%s\n\nthe journal has\n%s\n\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), w.Said())
		}
	}
	invocations := map[string]bool{}
	all := strings.Join(got, "\n")
	for _, line := range got {
		if strings.HasPrefix(line, "bowl.service ") {
			invocations[strings.Fields(line)[1]] = true
		}
	}
	if len(invocations) < 4 || !strings.Contains(all, "bowl-added.service ") {
		t.Errorf("%d invocations of the app; is there a line of the added service?\n%s", len(invocations), all)
	}

	p.Remove(t, added)
	if c := w.Next(t, added); c.Outcome != protocol.Committed || len(c.Remove) != 1 {
		t.Errorf("removing it again: %s %s, %v", c.Outcome, c.Error, c.Remove)
	}
	if code := w.Stop(t); code != 0 {
		t.Errorf("watch exits with %d on Ctrl-C\n%s", code, w.Said())
	}
}

// entries are the app's own lines in what journalctl -o json prints.
func entries(t *testing.T, text string) []string {
	t.Helper()
	var all []string
	for line := range strings.Lines(text) {
		var e struct {
			Unit       string `json:"_SYSTEMD_UNIT"`
			Invocation string `json:"_SYSTEMD_INVOCATION_ID"`
			Message    string `json:"MESSAGE"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if e.Unit != "init.scope" { // systemd's own words
			all = append(all, fmt.Sprintf("%s %s %s", e.Unit, e.Invocation, e.Message))
		}
	}
	return all
}

func shown(w *harness.Watch) []string {
	var all []string
	for _, l := range w.Logs() {
		all = append(all, fmt.Sprintf("%s %s %s", l.Unit, l.Invocation, l.Message))
	}
	return all
}
