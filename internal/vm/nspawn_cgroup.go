package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"devbox/internal/hint"
)

// hierarchy is one mounted tree of control groups (cgroups(7)): the only one
// where the host has version 2, one for each controller in version 1.
type hierarchy struct {
	mount   string
	v2      bool
	options []string
}

func parseHierarchies(mounts string) []hierarchy {
	var found []hierarchy
	for line := range strings.Lines(mounts) {
		if f := strings.Fields(line); len(f) > 3 && (f[2] == "cgroup" || f[2] == "cgroup2") {
			found = append(found, hierarchy{f[1], f[2] == "cgroup2", strings.Split(f[3], ",")})
		}
	}
	return found
}

// tracks says whether a container has to have a group of its own here.
func (h hierarchy) tracks(cpuLimit bool) bool {
	has := func(option string) bool { return slices.Contains(h.options, option) }
	return h.v2 || has("name=systemd") || has("memory") || cpuLimit && has("cpu")
}

// underSystemd says whether systemd is the host's init, which then owns the
// control groups.
func underSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// limits are the processors and bytes to hold the machine to, 0 for no limit.
// A limit beyond what the host has would only cost time.
func (n *Nspawn) limits() (cpus int, memory int64) {
	if n.spec.CPUs < runtime.NumCPU() {
		cpus = n.spec.CPUs
	}
	if n.spec.MemoryBytes < hostMemory() {
		memory = n.spec.MemoryBytes
	}
	return cpus, memory
}

func hostMemory() int64 {
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb * 1024
		}
	}
	return 0
}

// enterGroup returns the words to put before a command so that it runs in
// control groups of the machine's own, with its limits.
func (n *Nspawn) enterGroup() ([]string, error) {
	cpus, memory := n.limits()
	if underSystemd() {
		args := []string{"systemd-run", "--quiet", "--scope", "--collect", "--unit=" + n.id, "--property=Delegate=yes"}
		if cpus > 0 {
			args = append(args, fmt.Sprintf("--property=CPUQuota=%d%%", cpus*100))
		}
		if memory > 0 {
			args = append(args, fmt.Sprintf("--property=MemoryMax=%d", memory))
		}
		return append(args, "--"), nil
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var joins []string
	for _, h := range parseHierarchies(string(mounts)) {
		if !h.tracks(cpus > 0) {
			continue
		}
		dir := filepath.Join(h.mount, n.id)
		if h.v2 { // refused where this process is in the way; limits are then not applied
			_ = os.WriteFile(filepath.Join(h.mount, "cgroup.subtree_control"), []byte("+cpu +memory"), 0o644)
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			const cure = "systemd-nspawn needs writable control groups; in a container, start that with --privileged and --cgroupns=private"
			return nil, hint.Wrap(fmt.Errorf("make control group %s: %w", dir, err), cure)
		}
		for file, value := range limitFiles(h.v2, cpus, memory) {
			if name := filepath.Join(dir, file); fileExists(name) {
				if err := os.WriteFile(name, []byte(value), 0o644); err != nil {
					return nil, fmt.Errorf("limit the machine: %w", err)
				}
			}
		}
		joins = append(joins, filepath.Join(dir, "cgroup.procs"))
	}
	const join = `while [ "$1" != -- ]; do echo 0 >"$1" || exit; shift; done; shift; exec "$@"`
	return append(append([]string{"sh", "-c", join, "sh"}, joins...), "--"), nil
}

func limitFiles(v2 bool, cpus int, memory int64) map[string]string {
	files := map[string]string{}
	const period = 100_000 // microseconds, the kernel's default
	if cpus > 0 {
		quota := strconv.Itoa(cpus * period)
		if v2 {
			files["cpu.max"] = quota + " " + strconv.Itoa(period)
		} else {
			files["cpu.cfs_quota_us"] = quota
		}
	}
	if memory > 0 {
		files[map[bool]string{true: "memory.max", false: "memory.limit_in_bytes"}[v2]] = strconv.FormatInt(memory, 10)
	}
	return files
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// groups returns the machine's control groups that exist.
func (n *Nspawn) groups() []string {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	var dirs []string
	for _, h := range parseHierarchies(string(mounts)) {
		for _, name := range []string{n.id, "system.slice/" + n.id + ".scope"} {
			if dir := filepath.Join(h.mount, name); fileExists(dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// Processes returns all that run in the machine's control groups, as this computer
// counts them.
func (n *Nspawn) Processes() []int {
	var pids []int
	for _, dir := range n.groups() {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // groups come and go while we look
			}
			b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	return pids
}

// killGroups sends SIGKILL to every process of the machine and returns how
// many it found.
func (n *Nspawn) killGroups() int {
	for _, dir := range n.groups() {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o644) // Linux 5.14
	}
	pids := n.Processes()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return len(pids)
}

// removeGroups removes the machine's empty control groups, innermost first.
func (n *Nspawn) removeGroups() error {
	var errs []error
	for _, dir := range n.groups() {
		var all []string
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for _, path := range slices.Backward(all) {
			if err := syscall.Rmdir(path); err != nil && !errors.Is(err, syscall.ENOENT) {
				errs = append(errs, fmt.Errorf("remove control group %s: %w", path, err))
			}
		}
	}
	return errors.Join(errs...)
}
