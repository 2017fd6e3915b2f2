package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Leftovers lists what a machine of the nspawn driver that is gone still has on
// this computer, and the processes of this project.
func (p *Project) Leftovers(t testing.TB, machine string) []string {
	t.Helper()
	dir := filepath.Join(p.Home, machines, machine)
	sum := sha256.Sum256([]byte(dir))
	tag := hex.EncodeToString(sum[:4]) // in all names that the driver gives
	var found []string
	note := func(what, text, mark string) {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); strings.Contains(line+" ", mark) {
				found = append(found, what+": "+line)
			}
		}
	}
	note("namespace", Output(t, "ip", "netns", "list"), tag)
	note("link", Output(t, "ip", "-o", "link"), tag)
	note("nft table", Output(t, "nft", "list", "tables"), tag)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	note("mount", string(mounts), dir)
	// Its disk is a file system of its own: what lies on it tells by the device.
	var disk unix.Stat_t
	if err := unix.Stat(filepath.Join(p.Home, state), &disk); err != nil {
		t.Fatal(err)
	}
	dev := uint64(disk.Dev) //nolint:unconvert // an int32 on macOS
	note("loop device", Output(t, "losetup", "--list", "--noheadings", "--output=NAME,BACK-FILE,BACK-MAJ:MIN"),
		fmt.Sprintf(" %d:%d ", unix.Major(dev), unix.Minor(dev)))
	groups, _ := exec.Command("find", "/sys/fs/cgroup", "-maxdepth", "3", "-name", "*"+tag+"*").Output()
	note("control group", string(groups), tag)
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, _ := os.ReadFile(file)
		if strings.Contains(string(line), dir) {
			found = append(found, fmt.Sprintf("process: %s %q", file, line))
		}
	}
	for _, pid := range processes(p.Home) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		found = append(found, fmt.Sprintf("process: %d %q", pid, line))
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		found = append(found, fmt.Sprintf("folder: %s (%v)", dir, err))
	}
	return found
}
