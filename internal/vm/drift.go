package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// size is what a machine has, or may use: 0 for no limit, unknown where it
// cannot be told.
type size struct {
	cpus         int
	memory, disk int64 // bytes
}

const unknown = -1

// drift says in what a machine that exists is not what devbox.yaml asks for now,
// and what brings it there; "" if in nothing.
func drift(want, have size, cure string) string {
	var all []string
	differ := func(field string, want, have int64, text func(int64) string) {
		if want != unknown && have != unknown && want != have {
			all = append(all, fmt.Sprintf("machine.%s asks for %s, it has %s", field, text(want), text(have)))
		}
	}
	differ("cpus", int64(want.cpus), int64(have.cpus), func(n int64) string {
		return limitText(n, strconv.FormatInt(n, 10))
	})
	mib := func(n int64) string { return limitText(n, strconv.FormatInt(n>>20, 10)+" MiB") }
	differ("memory", want.memory, have.memory, mib)
	differ("disk", want.disk, have.disk, mib)
	if all == nil {
		return ""
	}
	return strings.Join(all, ", ") + ": in effect after " + cure
}

func limitText(n int64, text string) string {
	if n == 0 {
		return "all of this computer's"
	}
	return text
}

// drift compares an instance with what was asked for. limactl tells 0 where it
// could not read a value, and 0 asked for is devbox's own choice.
func (l *Lima) drift(inst *limaInstance) string {
	known := func(n int64) int64 {
		if n == 0 {
			return unknown
		}
		return n
	}
	return drift(
		size{int(known(int64(l.spec.CPUs))), known(l.spec.MemoryBytes), known(l.spec.DiskBytes)},
		size{int(known(int64(inst.CPUs))), known(inst.Memory), known(inst.Disk)},
		"`devbox destroy && devbox up`, which removes its data")
}

// drift compares the running machine's control groups with the limits that the
// next start would set. Its disk is the host's.
func (n *Nspawn) drift() string {
	cpus, memory := n.limits()
	mounts, _ := os.ReadFile("/proc/self/mounts")
	have := heldTo(parseHierarchies(string(mounts)), n.groups())
	return drift(size{cpus, memory / pageSize * pageSize, unknown}, have, "`devbox down && devbox up`")
}

// pageSize is the grain of the kernel's limits on memory.
var pageSize = int64(os.Getpagesize())

// heldTo reads the limits of control groups, as limitFiles sets them.
func heldTo(mounted []hierarchy, groups []string) size {
	have := size{unknown, unknown, unknown}
	// A group of version 1 is made only for a limit.
	if slices.ContainsFunc(mounted, func(h hierarchy) bool { return !h.v2 && slices.Contains(h.options, "cpu") }) {
		have.cpus = 0
	}
	for _, dir := range groups {
		read := func(name string) (first string, rest []string) {
			b, _ := os.ReadFile(filepath.Join(dir, name))
			if f := strings.Fields(string(b)); len(f) > 0 {
				return f[0], f[1:]
			}
			return "", nil
		}
		if quota, rest := read("cpu.max"); len(rest) == 1 {
			have.cpus = wholeCPUs(quota, rest[0])
		} else if quota, _ := read("cpu.cfs_quota_us"); quota != "" {
			period, _ := read("cpu.cfs_period_us")
			have.cpus = wholeCPUs(quota, period)
		}
		for _, name := range []string{"memory.max", "memory.limit_in_bytes"} {
			if limit, _ := read(name); limit != "" {
				have.memory = limitOf(limit)
			}
		}
	}
	return have
}

func wholeCPUs(quota, period string) int {
	p := limitOf(period)
	if p == 0 {
		return unknown
	}
	return int(limitOf(quota) / p)
}

// limitOf reads a limit: "max", -1 and close to 2⁶³ are none.
func limitOf(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > 1<<60 {
		return 0
	}
	return n
}
