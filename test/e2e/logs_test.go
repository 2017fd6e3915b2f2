package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"devbox/test/harness"
)

// testLogs reads the journal: of all units, of one, as JSON, and as it grows.
func testLogs(t *testing.T, p *harness.Project) {
	all := p.Must(t, "logs", "-n", "1000").Stdout
	for _, program := range []string{" bowl[", " litestream["} {
		if !strings.Contains(all, program) {
			t.Errorf("the journal of all units has no line of%s", program)
		}
	}
	one := p.Must(t, "logs", "bowl-litestream").Stdout // without its suffix
	if !strings.Contains(one, " litestream[") || strings.Contains(one, " bowl[") {
		t.Errorf("the journal of one unit:\n%s", one)
	}
	if r := p.Run(t, "logs", "ssh.service"); r.Code == 0 || !strings.Contains(r.Stderr, `"ssh.service" is no unit of bowl`) || r.Stdout != "" {
		t.Errorf("the journal of somebody else's unit: %s", r)
	}

	lines := strings.Split(strings.TrimSpace(p.Must(t, "logs", "--json", "-n", "3", "bowl-litestream.service").Stdout), "\n")
	for _, line := range lines {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil || e["MESSAGE"] == "" || e["_SYSTEMD_UNIT"] != "bowl-litestream.service" && e["UNIT"] != "bowl-litestream.service" {
			t.Errorf("no entry of the unit: %v %s", err, line)
		}
	}
	if len(lines) != 3 {
		t.Errorf("%d entries, not 3", len(lines))
	}
	testFollow(t, p)
}

func testFollow(t *testing.T, p *harness.Project) {
	cmd := p.Command(t.Context(), "logs", "-f", "-n", "1", "bowl")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	in := bufio.NewScanner(out)
	if !in.Scan() {
		t.Fatalf("it ended without the newest line: %v", cmd.Wait())
	}
	p.Inside(t, "systemctl restart bowl.service")
	for in.Scan() && !strings.Contains(in.Text(), "msg=serving") {
	}
	if !strings.Contains(in.Text(), "msg=serving") {
		t.Errorf("the new line did not come; the last one is %q", in.Text())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	for in.Scan() {
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("Ctrl-C: exit %d", code)
	}
}
