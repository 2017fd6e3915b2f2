package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"devbox/internal/config"
	"devbox/internal/deploy"
)

// clockTick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every
// architecture that devbox has (proc(5), sysconf(3)).
const clockTick = 10 * time.Millisecond

// measureTree watches the app in a tree with many files that are ignored. It is
// the last part: the files stay.
func (b *bench) measureTree(ctx context.Context, r *report) error {
	if err := b.growTree(); err != nil {
		return err
	}
	said := ""
	start := func() (*watching, error) {
		w, err := b.watch(ctx, b.project)
		if err != nil {
			return nil, err
		}
		e, err := w.next(ctx, func(e deploy.WatchEvent) bool { return strings.HasPrefix(e.Note, "watching ") })
		if err != nil {
			w.stop()
			return nil, err
		}
		r.Ready.add(time.Since(w.began))
		said, _, _ = strings.Cut(e.Note, " of ")
		return w, nil
	}
	for n := range b.rounds {
		w, err := start()
		if err != nil {
			return err
		}
		if n < b.rounds-1 {
			w.stop()
			continue
		}
		defer w.stop()
		if _, err := w.cycle(ctx); err != nil {
			return err
		}
		if err := b.measureIdle(ctx, w, r); err != nil {
			return err
		}
	}
	r.TreeSaid = said
	return nil
}

// measureIdle lets the last one sit without a change.
func (b *bench) measureIdle(ctx context.Context, w *watching, r *report) error {
	if err := pause(ctx); err != nil {
		return err
	}
	before, err := cpuTime(w.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if err := wait(ctx, b.idle); err != nil {
		return err
	}
	after, err := cpuTime(w.cmd.Process.Pid)
	if err != nil {
		return err
	}
	r.IdleCPU = after - before
	r.Resident, r.ResidentPeak, err = memory(w.cmd.Process.Pid)
	return err
}

// growTree puts the app among files that a real project has too: dependencies
// and outputs in folders of their own, logs between the sources. One in a
// hundred is watched.
func (b *bench) growTree() error {
	dir := b.project
	ignore, err := os.OpenFile(filepath.Join(dir, ".gitignore"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = ignore.WriteString("\nnode_modules/\n*.log\n")
	if cerr := ignore.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := edit(filepath.Join(dir, config.FileName), map[string]string{`"testdata/"`: `"testdata/", "out/"`}); err != nil {
		return err
	}
	for _, part := range []struct {
		folder, name string
		percent      int
	}{
		{"internal/many", "file%d.txt", 1},
		{"internal/many", "file%d.log", 9},
		{"internal/out", "file%d.o", 20},
		{"internal/node_modules", "file%d.js", 70},
	} {
		for n := range b.files * part.percent / 100 {
			folder := filepath.Join(dir, part.folder, fmt.Sprintf("d%d", n/100))
			if n%100 == 0 {
				if err := os.MkdirAll(folder, 0o755); err != nil {
					return err
				}
			}
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf(part.name, n)), []byte(strconv.Itoa(n)), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// cpuTime is what all threads of a process took so far, user and system.
func cpuTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name may hold spaces
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// memory is what a process has resident, now and at most so far, in bytes.
func memory(pid int) (now, peak int64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kilobytes, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			now = kilobytes << 10
		case "VmHWM:":
			peak = kilobytes << 10
		}
	}
	return now, peak, nil
}

// measureCommands times what a person waits for at the prompt.
func (b *bench) measureCommands(ctx context.Context, r *report) error {
	for _, c := range []struct {
		into *samples
		args []string
	}{
		{&r.Help, []string{"--help"}},
		{&r.Up, []string{"up"}},
	} {
		for n := range b.rounds + 1 {
			begin := time.Now()
			if err := b.do(ctx, b.project, b.devbox, c.args...); err != nil {
				return err
			}
			if n > 0 { // the first warms caches up
				c.into.add(time.Since(begin))
			}
		}
	}
	return nil
}
