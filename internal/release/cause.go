package release

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Codes of waitid(2), as ExecMainCode has them.
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// hindrance is the unit that keeps one from starting: one that it requires,
// directly or through others, that has failed or is not ready yet. It is best
// effort, and "" if there is none.
func hindrance(ctx context.Context, sys System, st UnitState) (unit string, found UnitState) {
	var visited []string
	queue := st.Requires
	for len(queue) > 0 {
		unit, queue = queue[0], queue[1:]
		if slices.Contains(visited, unit) || !strings.HasSuffix(unit, ".service") && !strings.HasSuffix(unit, ".socket") {
			continue
		}
		visited = append(visited, unit)
		st, err := sys.Unit(ctx, unit)
		if err != nil {
			continue
		}
		if st.Active == "failed" || st.Active == "activating" {
			return unit, st
		}
		queue = append(slices.Clone(queue), st.Requires...)
	}
	return "", UnitState{}
}

// ending says in a phrase how a service ended.
func ending(st UnitState) string {
	if st.Active == "activating" && st.Sub != "auto-restart" {
		return "is not ready yet"
	}
	switch st.Result {
	case "timeout":
		return "not ready within its TimeoutStartSec="
	case "protocol":
		return "ended without saying that it is ready (Type=" + st.Type + ")"
	case "watchdog":
		return "stopped answering systemd's watchdog"
	case "oom-kill":
		return "killed by the kernel: out of memory"
	case "start-limit-hit":
		return "started too often"
	case "resources":
		return "systemd could not start it: something that it needs is missing"
	}
	switch st.ExitCode {
	case cldExited:
		if why, ok := statuses[st.ExitStatus]; ok {
			return fmt.Sprintf("could not be started: %s (status %d)", why, st.ExitStatus)
		}
		return fmt.Sprintf("exited with status %d", st.ExitStatus)
	case cldKilled:
		return "killed by " + signal(st.ExitStatus)
	case cldDumped:
		return "crashed with " + signal(st.ExitStatus)
	}
	if st.Result != "" && st.Result != "success" {
		return "failed (" + st.Result + ")"
	}
	return "is " + st.Active
}

func signal(n int) string {
	if name := unix.SignalName(unix.Signal(n)); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", n)
}

// statuses are those that systemd itself exits with before the program runs:
// "Process Exit Codes" in systemd.exec(5).
var statuses = map[int]string{
	200: "its WorkingDirectory= is missing",
	203: "its program cannot be executed",
	210: "its RootDirectory= or RootImage= cannot be entered",
	216: "its group does not exist",
	217: "its user does not exist",
	218: "its capabilities cannot be set",
	226: "its mount namespace cannot be set up, often because the image lacks a folder",
	228: "its system call filter cannot be installed",
	233: "its RuntimeDirectory= cannot be made",
	238: "its StateDirectory= cannot be made",
	239: "its CacheDirectory= cannot be made",
	240: "its LogsDirectory= cannot be made",
	241: "its ConfigurationDirectory= cannot be made",
	243: "its credentials cannot be set up",
}
