package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// report is all that one run found.
type report struct {
	options
	Facts     [][2]string
	Began     time.Time
	Took      time.Duration
	LoadAfter string

	Saves    []*saved
	Help, Up samples

	Ready                  samples
	TreeSaid               string
	IdleCPU                time.Duration
	Resident, ResidentPeak int64

	Air     samples
	AirLost int // saves after which air had nothing running
	Article flow

	Deploys deploys
	Buzzes  []*buzzed

	Failed []string // parts that could not be measured to their end
}

// facts are about the computer, without anything that names it.
func facts() [][2]string {
	cpu := "unknown"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel := "unknown"
	if data, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = strings.TrimSpace(string(data))
	}
	memory := "unknown"
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		memory = fmt.Sprintf("%.1f GB", float64(info.Totalram)*float64(info.Unit)/1e9)
	}
	return [][2]string{
		{"processor", fmt.Sprintf("%s, %d cores", cpu, runtime.NumCPU())},
		{"memory", memory},
		{"kernel", kernel},
		{"Go", runtime.Version()},
		{"load average before", loadAverage()},
	}
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	f := strings.Fields(string(data))
	return strings.Join(f[:min(3, len(f))], " ")
}

// target is a line of the first table.
type target struct {
	what   string
	limit  string
	got    string
	ok     bool
	saving *saved // what the line is about, if it is about saves
}

// factor is how much more than systemd by hand devbox may take.
const factor = 1.5

func (r *report) targets() []target {
	var all []target
	for _, s := range r.Saves {
		if len(s.Beyond) == 0 {
			continue // not measured
		}
		all = append(all, target{fmt.Sprintf("save (%s) → new version answers, beyond the build", s.Name),
			"≤ " + seconds(s.Target), seconds(s.Beyond.median()), s.Beyond.median() <= s.Target, s})
	}
	for _, s := range r.Saves {
		if len(s.Floor) == 0 {
			continue
		}
		ratio := s.ratio()
		all = append(all, target{fmt.Sprintf("the same (%s), in times of systemd by hand (%s)", s.Name, seconds(s.Floor.median())),
			fmt.Sprintf("≤ %.1f", factor), fmt.Sprintf("%.2f", ratio), ratio <= factor, s})
	}
	limit := func(what string, limit, got time.Duration) {
		if got == 0 {
			return // not measured
		}
		all = append(all, target{what: what, limit: "≤ " + seconds(limit), got: seconds(got), ok: got <= limit})
	}
	limit(fmt.Sprintf("`devbox watch` ready on %d files", r.files), time.Second, r.Ready.median())
	if r.Resident > 0 {
		const most = 60e6
		all = append(all,
			target{what: fmt.Sprintf("processor time of %s idle", r.idle), limit: "≤ 100 ms",
				got: fmt.Sprintf("%d ms", r.IdleCPU.Milliseconds()), ok: r.IdleCPU <= 100*time.Millisecond},
			target{what: "memory of devbox then, resident", limit: "≤ 60 MB", got: megabytes(r.Resident), ok: r.Resident <= most})
	}
	all = append(all, r.Deploys.targets()...)
	limit("`devbox --help`", 30*time.Millisecond, r.Help.median())
	limit("`devbox up` with nothing to do", time.Second, r.Up.median())
	return all
}

func (s *saved) ratio() float64 {
	return float64(s.Beyond.median()) / float64(max(s.Floor.median(), 1))
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func (r *report) write(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	const chartName = "chart.svg"
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), chartName), r.chart(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(file, r.markdown(chartName), 0o644)
}

func (r *report) markdown(chart string) []byte {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# How fast devbox is\n")
	p("Written by `make bench` on %s, in %s. All figures are of this one run, on one computer and one machine made for it",
		r.Began.UTC().Format(time.DateOnly), r.Took.Round(time.Second))
	p("(systemd-nspawn, the app of examples/bowl with Litestream in its image). Times are medians unless said otherwise.\n")
	p("| | |\n|---|---|")
	for _, f := range append(slices.Clone(r.Facts), [2]string{"load average after", r.LoadAfter}) {
		p("| %s | %s |", f[0], f[1])
	}
	for _, f := range r.Failed {
		p("\n**Not measured to the end:** %s", f)
	}
	p("\n## Targets\n")
	p("| | target | reached | |\n|---|---|---|---|")
	for _, t := range r.targets() {
		p("| %s | %s | %s | %s |", t.what, t.limit, t.got, map[bool]string{true: "ok", false: "**missed**"}[t.ok])
	}
	p("\n![devbox, systemd by hand, air and the article's flow](%s)\n", chart)
	r.missed(p)
	r.saves(p)
	r.sideBySide(p)
	r.Deploys.write(p)
	r.buzzes(p)
	p("## The rest\n")
	p("| | median | p95 | min | max | samples |\n|---|---|---|---|---|---|")
	p("| `devbox watch` on %d files: from its start to \"%s\" | %s |", r.files, r.TreeSaid, r.Ready.row())
	p("| `devbox --help` | %s |", r.Help.row())
	p("| `devbox up` with nothing to do: asks the machine, builds, packs, compares | %s |", r.Up.row())
	p("\nThe start of `devbox watch` includes that of `devbox up`: it asks the machine what is missing before it says that it")
	p("is ready. Watching the big tree, devbox had %s resident after %s without a change, at most %s before that, while it", megabytes(r.Resident), r.idle, megabytes(r.ResidentPeak))
	p("packed. Files of the tree: 70 %% in a folder that .gitignore names, 20 %% in one that devbox.yaml names, 9 %% between")
	p("the sources with an ending that .gitignore names, 1 %% watched.")
	return b.Bytes()
}

// missed says where the time of saves went that took too long.
func (r *report) missed(p func(string, ...any)) {
	told := map[*saved]bool{}
	for _, t := range r.targets() {
		if t.ok {
			continue
		}
		if len(told) == 0 {
			p("### What holds back what was missed\n")
		}
		s := t.saving
		if s == nil {
			p("- %s: %s instead of %s.", t.what, t.got, t.limit)
			told[nil] = true
			continue
		}
		if told[s] {
			continue
		}
		told[s] = true
		phases := slices.DeleteFunc(slices.Clone(s.Phases), func(x phase) bool { return slices.Contains(after, x.Name) || x.Name == "receive" })
		slices.SortStableFunc(phases, func(x, y phase) int { return int(y.Took.median() - x.Took.median()) })
		var parts []string
		for _, x := range phases[:min(5, len(phases))] {
			parts = append(parts, fmt.Sprintf("%s %s", x.Name, seconds(x.Took.median())))
		}
		p("- %s: %s, of which systemd by hand takes %s. Most of the time is in: %s; seeing the change and all else %s.",
			s.Name, seconds(s.Beyond.median()), seconds(s.Floor.median()), strings.Join(parts, ", "), seconds(s.Other.median()))
	}
	if len(told) > 0 {
		p("")
	}
}

func (r *report) saves(p func(string, ...any)) {
	p("## From save to answer\n")
	p("The clock runs from before the file is written until an answer of the new version has come (`/version`, asked every")
	p("%s at the machine's own address, not through the forwarded port). \"By hand\" are the bare steps of systemd on the", pollPause)
	p("same machine with the image there already: rename, `systemctl restart`; for a unit file rename,")
	p("`portablectl attach --force --no-reload`, `systemctl daemon-reload`, `systemctl restart`; they were run between the")
	p("saves, so that noise hit both.\n")
	p("| save of | | median | p95 | min | max | samples |\n|---|---|---|---|---|---|---|")
	for _, s := range r.Saves {
		p("| %s | save → answer | %s |", s.Name, s.Total.row())
		p("| | of that, the build command | %s |", s.Build.row())
		p("| | beyond the build | %s |", s.Beyond.row())
		p("| | systemd by hand | %s |", s.Floor.row())
	}
	p("\nWhere the time beyond the build goes, as `devbox watch --json` tells it (medians; health and")
	p("commit end after the new version answers):\n")
	for _, s := range r.Saves {
		var parts []string
		for _, x := range s.Phases {
			parts = append(parts, fmt.Sprintf("%s %s", x.Name, seconds(x.Took.median())))
		}
		p("- %s: %s; seeing the change and all else %s; %.0f kB sent.", s.Name, strings.Join(parts, ", "), seconds(s.Other.median()), float64(s.Wire.median())/1000)
	}
	p("")
}

func (r *report) sideBySide(p func(string, ...any)) {
	p("## The same edit in other ways\n")
	p("Save of a template → the page shows it, the build included.\n")
	p("| | median | p95 | min | max | samples |\n|---|---|---|---|---|---|")
	if len(r.Saves) > 0 {
		p("| devbox: same OS, same units, same sandbox as production | %s |", r.Saves[0].Total.row())
	}
	p("| air %s: the program alone, on this computer, outside systemd | %s |", airVersion, r.Air.row())
	p("| the article's flow: build, mksquashfs xz, scp, reattach, restart | %s |", r.Article.Total.row())
	var parts []string
	for _, x := range r.Article.Steps {
		parts = append(parts, fmt.Sprintf("%s %s", x.Name, seconds(x.Took.median())))
	}
	p("\nThe article's flow by step: %s. It ran beside devbox's app on the same machine, with the same", strings.Join(parts, ", "))
	p("files in its image. air waits a second after a save, which is how it comes; it has no machine, image or units to deal with.")
	if r.AirLost > 0 {
		p("After %d more saves nothing answered below air within %s, until the next save; they are not in its figures.", r.AirLost, airPatience)
	}
	p("")
}
