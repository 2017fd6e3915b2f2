// Package e2e goes through devbox as a person does, on a real machine of the
// nspawn driver: real systemd, portabled, SSH and disk.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"devbox/internal/vm"
	"devbox/test/harness"

	"golang.org/x/sys/unix"
)

// TestNspawn is one machine from its making to its end. The parts run in this
// order, and each leaves a machine that is well.
func TestNspawn(t *testing.T) {
	if testing.Short() {
		t.Skip("needs minutes, and -short was given")
	}
	if err := vm.NspawnReady(); err != nil {
		t.Skipf("needs systemd-nspawn: %v", err)
	}
	p := project(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *harness.Project)
	}{
		{"interrupted", testInterrupted},
		{"up", testUp}, {"watch", testWatch}, {"journal", testJournal}, {"commands", testCommands}, {"saves under load", testSaves},
		{"failures", testFailures}, {"bad input", testBadInput}, {"disk full", testDiskFull},
		{"killed", testKilled}, {"down and up", testDownUp},
		{"logs", testLogs}, {"secrets", testSecrets}, {"cloud-config", testCloudConfig},
		{"replica", testReplica}, {"bad replicas", testBadReplicas},
		{"store down at boot", testStoreDownAtBoot}, {"drill", testDrill}, {"match killed", testMatchKilled}, {"crowd", testCrowd}, {"locked in", testLockedIn},
		{"restart", testRestart}, {"destroy", testDestroy},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, p) }) && part.name == "up" {
			t.Fatal("without a machine there is nothing more to test")
		}
	}
}

// project is a copy of the example whose machine lies on a small disk of its
// own, which can be full.
func project(t *testing.T) *harness.Project {
	home, err := os.MkdirTemp("", "devbox-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() || os.Getenv("DEVBOX_TEST_KEEP") == "" {
			os.RemoveAll(home)
		}
	})
	state := filepath.Join(home, ".local", "state")
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(home, "disk")
	harness.Output(t, "truncate", "--size=4G", disk)
	harness.Output(t, "mkfs.ext4", "-q", "-m", "0", disk)
	harness.Output(t, "mount", "-o", "loop", disk, state)
	t.Cleanup(func() { harness.Output(t, "umount", state) })

	p := harness.New(t, harness.Options{Home: home, Cache: harness.Cache(t, home)})
	t.Cleanup(func() {
		if r := p.Run(t, "destroy", "--yes"); r.Code != 0 {
			t.Error(r)
		}
	})
	return p
}

// leftovers lists what a machine that is gone still has on this computer.
func leftovers(t *testing.T, p *harness.Project, s harness.Status) []string {
	t.Helper()
	var found []string
	note := func(what, text string, marks ...string) {
		for line := range strings.Lines(text) {
			for _, mark := range marks {
				if mark != "" && strings.Contains(line, mark) {
					found = append(found, what+": "+strings.TrimSpace(line))
					break
				}
			}
		}
	}
	note("namespace", harness.Output(t, "ip", "netns", "list"), s.Machine.NetNS)
	note("link", harness.Output(t, "ip", "-o", "link"), s.Machine.Link)
	note("nft table", harness.Output(t, "nft", "list", "tables"), s.Machine.NetNS, s.Machine.Link)
	note("mount", read(t, "/proc/self/mountinfo"), p.MachineDir())
	// Its disk is a file system of its own: what lies on it tells by the device.
	var disk syscall.Stat_t
	if err := syscall.Stat(filepath.Join(p.Home, ".local", "state"), &disk); err != nil {
		t.Fatal(err)
	}
	note("loop device", harness.Output(t, "losetup", "--list", "--noheadings", "--output=NAME,BACK-FILE,BACK-MAJ:MIN"),
		fmt.Sprintf(" %d:%d", unix.Major(disk.Dev), unix.Minor(disk.Dev)))
	groups, _ := exec.Command("find", "/sys/fs/cgroup", "-maxdepth", "3", "-name", "*"+s.Machine.NetNS+"*").Output()
	note("control group", string(groups), s.Machine.NetNS)
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, _ := os.ReadFile(file)
		if strings.Contains(string(line), p.MachineDir()) {
			found = append(found, fmt.Sprintf("process: %s %q", file, line))
		}
		if env, _ := os.ReadFile(filepath.Dir(file) + "/environ"); strings.Contains(string(env), "HOME="+p.Home+"\x00") {
			found = append(found, fmt.Sprintf("process: %s %q", file, line))
		}
	}
	return found
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
