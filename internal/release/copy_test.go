package release

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
)

// A copy of two folders while two services wait: all in one command, which is what
// systemd bounds, and with time for them to go on.
func TestACopyIsOneCommand(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// It can do what it is asked, but for freezing b.service.
	write("systemctl", `#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in "freeze b.service") exit 1; esac
case "$1" in show) printf 'FreezerState=running\n\nFreezerState=%s\n' "$STATE"; esac
`)
	write("a", "one")
	write("b", "two")
	in := func(name string) string { return filepath.Join(dir, name) }
	props := Copy{Freeze: []string{"a.service", "b.service"}, Dirs: [][2]string{{in("a"), in("a copy")}, {in("b"), in("b copy")}}, Limit: 15 * time.Second}.props()
	find := func(name string) any {
		if at := slices.IndexFunc(props, func(p sd.Property) bool { return p.Name == name }); at >= 0 {
			return props[at].Value.Value()
		}
		return nil
	}
	if start, stop := find("TimeoutStartUSec"), find("TimeoutStopUSec"); start != uint64(15e6) || stop != uint64(10e6) || find("ExecStartPreEx") != nil {
		t.Errorf("it may take %v µs, and %v to end; first %v", start, stop, find("ExecStartPreEx"))
	}
	// run runs the one command of a property, and returns what systemd was asked.
	run := func(name, state string) (string, error) {
		t.Helper()
		commands, _ := find(name).([]execCommand)
		if len(commands) != 1 {
			t.Fatalf("%s is %v", name, commands)
		}
		log := in("log")
		cmd := exec.Command(commands[0].Path, commands[0].Args[1:]...)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "LOG="+log, "STATE="+state)
		out, err := cmd.CombinedOutput()
		t.Logf("%s: %s%v", name, out, err)
		is, rerr := os.ReadFile(log)
		if rerr = errors.Join(rerr, os.Remove(log)); rerr != nil {
			t.Fatal(rerr)
		}
		return strings.ReplaceAll(strings.TrimSpace(string(is)), "\n", "; "), err
	}
	const froze = "freeze a.service; freeze b.service; is-active --quiet b.service; kill --signal=STOP b.service"
	if asked, err := run("ExecStartEx", ""); err != nil || asked != froze {
		t.Errorf("asked %q, %v", asked, err)
	}
	for name, text := range map[string]string{"a copy": "one", "b copy": "two"} {
		if got, err := os.ReadFile(in(name)); err != nil || string(got) != text {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	const thawed = "thaw a.service b.service; kill --signal=CONT a.service b.service; show --property=FreezerState a.service b.service"
	for state, well := range map[string]bool{"running": true, "frozen": false} {
		asked, err := run("ExecStopPostEx", state)
		if asked != thawed || (err == nil) != well {
			t.Errorf("b.service is %s: asked %q, %v", state, asked, err)
		}
	}
}
