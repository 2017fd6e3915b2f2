package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
	"devbox/internal/ui"
	"devbox/internal/vm"

	"github.com/spf13/cobra"
)

func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status [TARGET]",
		Short: "show the machine, or a server, and what runs on it",
		Long: `status asks the machine or the server what is there and what runs, and remembers nothing
by itself. It exits with 0 only if every unit of the app runs there and is well.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.targetStatus(c.Context(), args[0])
			}
			return a.status(c.Context())
		},
	}
}

// report is what status prints with --json.
type report struct {
	App     string           `json:"app"`
	Target  string           `json:"target,omitempty"`
	Machine *machineReport   `json:"machine,omitempty"` // not of a target
	Ports   []deploy.Forward `json:"ports,omitempty"`
	Host    *protocol.Status `json:"host,omitempty"`
	Data    *protocol.Data   `json:"data,omitempty"`    // of an app that has a check of it
	Summary *deploy.Summary  `json:"summary,omitempty"` // of a target only
	Problem string           `json:"problem,omitempty"`
}

type machineReport struct {
	Driver string `json:"driver"`
	vm.Status
}

var errNotWell = errors.New("not everything is well")

func (a *app) status(ctx context.Context) error {
	p, err := a.project()
	if err != nil {
		return err
	}
	m, _, err := p.Machine(ctx)
	if err != nil {
		return err
	}
	st, err := m.Status(ctx)
	if err != nil {
		return err
	}
	r := report{App: p.Config.Name, Machine: &machineReport{m.Driver(), st}}
	if st.State == vm.Running {
		a.askHost(ctx, p, &r)
	}
	if a.json {
		a.ui.Value(r)
	} else {
		a.printStatus(r)
	}
	if !r.well() {
		return silent{errNotWell}
	}
	return nil
}

func (r report) well() bool {
	well := r.Host != nil && r.Host.Current != nil && r.Problem == "" && r.Host.Problem == ""
	if r.Host != nil {
		for _, u := range r.Host.Units {
			well = well && u.Problem == ""
		}
	}
	return well && (r.Data == nil || r.Data.Problem == "")
}

func (a *app) targetStatus(ctx context.Context, name string) error {
	t, err := a.target(name)
	if err != nil {
		return err
	}
	h, err := t.Connect(ctx)
	if err != nil {
		if a.json {
			a.ui.Value(report{App: t.App(), Target: name, Problem: err.Error()})
		}
		return err
	}
	defer h.Close()
	r := report{App: h.App(), Target: name}
	var unread error
	asked := make(chan struct{})
	go func() { // apt takes its time
		r.Summary, unread = h.Summary(ctx)
		close(asked)
	}()
	a.askApp(ctx, h, &r)
	<-asked
	if unread != nil {
		a.ui.Say("note: what else there is to know of the server is not: %v", unread)
	}
	if a.json {
		a.ui.Value(r)
	} else {
		a.ui.Result("server   %s (%s)", name, t.Host)
		a.printApp(r, fmt.Sprintf("`devbox deploy %s` puts right what it can", name))
	}
	if !r.well() {
		return silent{errNotWell}
	}
	return nil
}

func (a *app) askHost(ctx context.Context, p *deploy.Project, r *report) {
	var err error
	if r.Ports, err = p.Forwards(); err != nil {
		r.Problem = err.Error()
	}
	h, err := p.Connect(ctx)
	if err != nil {
		r.Problem = err.Error()
		return
	}
	defer h.Close()
	a.askApp(ctx, h, r)
}

func (a *app) askApp(ctx context.Context, h *deploy.Host, r *report) {
	if h.Welcome.Recovered != "" {
		a.ui.Say("%s", h.Welcome.Recovered)
	}
	s, err := h.Status(ctx, h.App())
	if err != nil {
		r.Problem = err.Error()
		return
	}
	r.Host = &s
	if s.Current == nil || len(s.Current.Settings.State.Check) == 0 {
		return
	}
	d, err := h.Data(ctx, h.App())
	if err != nil {
		r.Problem = err.Error()
		return
	}
	r.Data = &d
}

func (a *app) printStatus(r report) {
	line := fmt.Sprintf("machine  %s, %s", r.Machine.Driver, r.Machine.State)
	if !r.Machine.Since.IsZero() {
		line += " for " + ago(r.Machine.Since)
	}
	if r.Machine.Detail != "" {
		line += " (" + r.Machine.Detail + ")"
	}
	a.ui.Result("%s", line)
	if r.Machine.State != vm.Running {
		a.ui.Say("hint: `devbox up` brings it up")
		return
	}
	a.printApp(r, "`devbox up` puts right what it can")
}

func (a *app) printApp(r report, cure string) {
	if r.Host != nil {
		a.printHost(r.Host)
	}
	if r.Data != nil {
		for _, line := range dataLines(r.Data, time.Now()) {
			a.ui.Result("%s", line)
		}
	}
	if r.Summary != nil {
		for _, line := range summaryLines(r.Summary, r.Target, time.Now()) {
			a.ui.Result("%s", line)
		}
	}
	for _, f := range r.Ports {
		a.ui.Result("port     %s -> %d in the machine%s", localAddress(f.Client, f.Guest), f.Guest, note(f.Problem))
	}
	if r.Problem != "" {
		a.ui.Result("problem  %s", r.Problem)
		a.ui.Say("hint: %s", cure)
	}
}

func (a *app) printHost(s *protocol.Status) {
	switch {
	case s.Current == nil:
		a.ui.Result("release  none")
	default:
		c := s.Current
		text := fmt.Sprintf("release  %s (%s), %s ago", c.ID, short(c.Digest), ago(c.At))
		if c.Source != "" {
			text += ", from " + c.Source
		}
		if c.By != "" {
			text += ", by " + c.By
		}
		a.ui.Result("%s", text)
	}
	if s.Problem != "" {
		a.ui.Result("problem  %s", s.Problem)
	}
	rows := make([][]string, len(s.Units))
	for i, u := range s.Units {
		since, memory, pid := "", "", ""
		if !u.Since.IsZero() {
			since = ago(u.Since)
		}
		if u.Memory > 0 {
			memory = ui.Bytes(u.Memory)
		}
		if u.MainPID > 0 {
			pid = fmt.Sprint(u.MainPID)
		}
		rows[i] = []string{u.Unit, u.Active + " (" + u.Sub + ")", since, pid, memory, u.Problem}
	}
	if len(rows) > 0 {
		a.ui.Table([]string{"unit", "state", "for", "pid", "memory", ""}, rows)
	}
	for _, u := range s.Units {
		for _, line := range u.Log {
			a.ui.Result("%s: %s", u.Unit, line)
		}
	}
}

// dataLines is what there is to say of what the app has stored.
func dataLines(d *protocol.Data, now time.Time) []string {
	var parts []string
	if len(d.Rows) > 0 {
		var n int64
		for _, rows := range d.Rows {
			n += rows
		}
		parts = append(parts, counted(n, "row")+" in "+counted(int64(len(d.Rows)), "table"))
	}
	if d.Schema != nil {
		parts = append(parts, fmt.Sprintf("schema %d", *d.Schema))
	}
	if !d.Newest.IsZero() {
		parts = append(parts, "newest change "+lasted(now.Sub(d.Newest))+" ago")
	}
	if d.Integrity == "ok" {
		parts = append(parts, "integrity ok")
	}
	var lines []string
	if len(parts) > 0 {
		lines = append(lines, "data     "+strings.Join(parts, ", "))
	}
	if d.Problem != "" {
		lines = append(lines, "problem  with the data: "+d.Problem)
		for _, l := range d.Log {
			lines = append(lines, "         "+l)
		}
	}
	if len(lines) == 0 {
		lines = append(lines, "data     its check says nothing of it")
	}
	return lines
}

// counted is a number of things, its thousands apart: "12,034 rows".
func counted(n int64, thing string) string {
	text := fmt.Sprint(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	if n != 1 {
		thing += "s"
	}
	return text + " " + thing
}

func short(digest string) string { return digest[:min(12, len(digest))] }

func note(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// ago is how long ago t was, as people say it.
func ago(t time.Time) string { return lasted(time.Since(t)) }

// lasted is how long something takes or took, as people say it.
func lasted(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dmin", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dmin", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}
