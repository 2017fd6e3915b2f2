package release

import (
	"bytes"
	"iter"
	"maps"
	"slices"
	"strings"

	"devbox/internal/image"
	"devbox/internal/protocol"
)

// seen is what a host has of an app, before anything is done.
type seen struct {
	Linked bool // the attached path is the target's image already
	Units  map[string]seenUnit
}

// seenUnit is one unit of the target, or one that is attached still.
type seenUnit struct {
	Body      []byte               // of the attached unit file, nil if there is none
	Sandboxed bool                 // portabled's drop-ins are there and have the target's profile and path
	DropIn    string               // devbox's drop-in, "" if there is none
	Instances map[string]UnitState // of a template, by name
	State     UnitState
}

// states are those of all units and instances.
func (s seen) states() iter.Seq2[string, UnitState] {
	return func(yield func(string, UnitState) bool) {
		for name, u := range s.Units {
			if isTemplate(name) {
				for instance, st := range u.Instances {
					if !yield(instance, st) {
						return
					}
				}
			} else if !yield(name, u.State) {
				return
			}
		}
	}
}

func (s seen) has(unit string) bool {
	_, ok := s.Units[unit]
	return ok
}

// Plan is what is to be done, in the order of its fields. It is complete: doing
// it looks at nothing else to decide.
type Plan struct {
	Vanished []string          // stop, disable and remove these: the target has them no longer
	Swap     *swap             // and have the data of a snapshot in place, nil for the data that is there
	Switch   bool              // link the target's image to the attached path
	Attach   bool              // have portabled install the unit files
	DropIns  map[string]string // service -> devbox's drop-in to write
	Disable  []string          // before Enable: their [Install] changed
	Enable   []string
	Reload   bool
	Release  []string // stop Sockets and then these services, so that the former can be opened again
	Sockets  []string // restart these
	Restart  []string // restart these, in this order, and judge the release by them
	Nudge    []string // start these too: they were down already, the release is not judged by them

	Public protocol.Plan
}

// Empty says that there is nothing to do.
func (p *Plan) Empty() bool {
	return !p.Switch && !p.Attach && !p.Reload &&
		len(p.Vanished)+len(p.DropIns)+len(p.Enable)+len(p.Sockets)+len(p.Restart)+len(p.Nudge) == 0
}

// stay are the units that the plan leaves alone.
func (p *Plan) stay() []string {
	var units []string
	for _, u := range p.Public.Stay {
		units = append(units, u.Unit)
	}
	return units
}

// why says of a unit what the change from one image to the other means to it.
type why struct {
	Restart bool
	Ran     bool // and start it if it is down, also if it need not run
	Text    string
}

// Down says what is done about a unit that should be up and is not.
type Down int

// What to do about units that are down.
const (
	// DownNudge starts them and does not wait: another unit's old trouble must
	// not condemn a release that has nothing to do with it.
	DownNudge Down = iota
	// DownRestart restarts them, and their failing is the activation's.
	DownRestart
)

// makePlan decides how to get from what is seen to the target. reasons has what
// the change means for each unit; one that is missing stays as it is.
func makePlan(p place, t target, s seen, reasons map[string]why, down Down) Plan {
	plan := Plan{Switch: !s.Linked, DropIns: map[string]string{}}
	m := planner{place: p, target: t, seen: s, reasons: reasons, down: down, plan: &plan}
	for name, is := range s.Units {
		if _, ok := t.unit(name); !ok {
			plan.Vanished = append(plan.Vanished, name)
			plan.Vanished = slices.AppendSeq(plan.Vanished, maps.Keys(is.Instances))
			plan.Public.Remove = append(plan.Public.Remove, protocol.UnitWhy{Unit: name, Why: "no longer in the image"})
		}
	}
	slices.Sort(plan.Vanished)
	sortWhy(plan.Public.Remove)
	for _, u := range t.Units {
		m.files(u)
	}
	plan.Reload = plan.Attach || len(plan.DropIns) > 0 || len(plan.Vanished) > 0
	m.orphaned()
	for _, u := range t.Units {
		m.sockets(u)
	}
	for _, u := range t.Units {
		m.restarts(u)
	}
	plan.Restart = m.order(plan.Restart)
	plan.Public.Reload = plan.Reload
	sortWhy(plan.Public.Restart)
	sortWhy(plan.Public.Stay)
	return plan
}

type planner struct {
	place
	target  target
	seen    seen
	reasons map[string]why
	down    Down
	plan    *Plan
	changed map[string]string // unit -> why its files on the host are not the target's
	cycled  map[string]string // service -> the socket that it makes room for
	orphans map[string]string // service -> what became of its socket
}

// files decides about a unit's files on the host.
func (m *planner) files(u unitFile) {
	if m.changed == nil {
		m.changed, m.cycled, m.orphans = map[string]string{}, map[string]string{}, map[string]string{}
	}
	is := m.seen.Units[u.Name]
	switch {
	case is.Body == nil:
		m.changed[u.Name] = "new on this host"
	case !bytes.Equal(is.Body, u.Body):
		m.changed[u.Name] = "unit file changed"
	case !is.Sandboxed:
		m.changed[u.Name] = "its profile or image path changed"
	}
	if m.changed[u.Name] != "" {
		m.plan.Attach = true
	}
	if was := installOf(u.Name, is.Body); was != u.Install || is.Body == nil {
		if was != "" {
			m.plan.Disable = append(m.plan.Disable, u.Name)
		}
		if u.Install != "" {
			m.plan.Enable = append(m.plan.Enable, u.Name)
		}
	}
	if u.Type != "service" {
		return
	}
	if want := m.target.dropIn(m.place, u.Name); is.DropIn != want {
		m.plan.DropIns[u.Name] = want
		if m.changed[u.Name] == "" {
			m.changed[u.Name] = "its environment changed"
		}
	}
}

// installOf is the [Install] section of a unit file on the host, "" if systemd
// could not read it either.
func installOf(name string, body []byte) string {
	was, err := image.ParseUnit(name, body)
	if err != nil {
		return ""
	}
	return was.Section("Install")
}

// orphaned finds services whose socket is no longer theirs. One lives on with
// what it has inherited, and would not start again: now is when to find out.
func (m *planner) orphaned() {
	for name, is := range m.seen.Units {
		if !strings.HasSuffix(name, ".socket") || isTemplate(name) || is.Body == nil {
			continue
		}
		was, err := image.ParseUnit(name, is.Body)
		if err != nil {
			continue // systemd could not read it either
		}
		to, ok := m.target.unit(name)
		switch {
		case !ok:
			m.orphans[was.Service] = "its socket " + name + " is gone"
		case to.Service != was.Service:
			m.orphans[was.Service] = "its socket " + name + " is for " + to.Service + " now"
			// It holds the port open.
			if old, ok := m.seen.Units[was.Service]; ok && !old.State.gone() {
				m.plan.Release = append(m.plan.Release, was.Service)
			}
		}
	}
	slices.Sort(m.plan.Release)
}

// sockets decides which sockets are opened again. One cannot be opened while
// its service runs.
func (m *planner) sockets(u unitFile) {
	if u.Type != "socket" || isTemplate(u.Name) {
		return
	}
	text := m.reason(u)
	if text == "" && !m.seen.Units[u.Name].State.up() {
		text = "it was down"
	}
	if text == "" {
		m.stay(u)
		return
	}
	m.plan.Sockets = append(m.plan.Sockets, u.Name)
	m.plan.Public.Restart = append(m.plan.Public.Restart, protocol.UnitWhy{Unit: u.Name, Why: text})
	m.cycled[u.Service] = u.Name
	// Also if it does not run: a visitor may start it any moment.
	if _, ok := m.target.unit(u.Service); ok && !slices.Contains(m.plan.Release, u.Service) {
		m.plan.Release = append(m.plan.Release, u.Service)
	}
}

// restarts decides about all that is no socket.
func (m *planner) restarts(u unitFile) {
	if u.Type == "socket" {
		return
	}
	is := m.seen.Units[u.Name]
	text := m.reason(u)
	if text == "" {
		text = m.orphans[u.Name]
	}
	if text == "" && m.cycled[u.Name] != "" {
		text = "makes room for " + m.cycled[u.Name]
	}
	wanted, up := m.target.wanted(u), is.State.up()
	switch {
	case isTemplate(u.Name):
		if m.instances(u, text) {
			return
		}
	case u.Oneshot && is.Body == nil && u.Install != "":
		m.restart(u.Name, text)
		return
	case u.Oneshot && !up:
		if text != "" {
			m.plan.Public.Stay = append(m.plan.Public.Stay, protocol.UnitWhy{Unit: u.Name,
				Why: text + ", in effect the next time it runs"})
			return
		}
	case text != "" && (wanted || !is.State.gone() || m.reasons[u.Name].Ran):
		m.restart(u.Name, text)
		return
	case text != "":
		m.plan.Public.Stay = append(m.plan.Public.Stay, protocol.UnitWhy{Unit: u.Name, Why: text + ", but it was not running"})
		return
	case wanted && !up && m.down == DownRestart:
		m.restart(u.Name, "it was down")
		return
	case wanted && !up:
		m.plan.Nudge = append(m.plan.Nudge, u.Name)
		m.plan.Public.Restart = append(m.plan.Public.Restart, protocol.UnitWhy{Unit: u.Name, Why: "it was down"})
		return
	}
	m.stay(u)
}

// instances restarts those of a template that run, if text is a reason to, and
// those that have a reason of their own. It says whether there were any.
func (m *planner) instances(u unitFile, text string) bool {
	why := map[string]string{}
	for name := range m.seen.Units[u.Name].Instances {
		if text != "" {
			why[name] = text
		}
	}
	for name, r := range m.reasons {
		if name != u.Name && templateOf(name) == u.Name && r.Restart {
			why[name] = r.Text
		}
	}
	for _, name := range slices.Sorted(maps.Keys(why)) {
		m.restart(name, why[name])
	}
	return len(why) > 0
}

func (m *planner) restart(unit, text string) {
	m.plan.Restart = append(m.plan.Restart, unit)
	m.plan.Public.Restart = append(m.plan.Public.Restart, protocol.UnitWhy{Unit: unit, Why: text})
}

func (m *planner) stay(u unitFile) {
	text := m.reasons[u.Name].Text
	if text == "" || m.reasons[u.Name].Restart {
		text = "nothing that it reads changed"
	}
	m.plan.Public.Stay = append(m.plan.Public.Stay, protocol.UnitWhy{Unit: u.Name, Why: text})
}

// reason to restart a unit, "" if there is none.
func (m *planner) reason(u unitFile) string {
	if r := m.reasons[u.Name]; r.Restart {
		return r.Text
	}
	return m.changed[u.Name]
}

// order puts units behind those that they are ordered after. The jobs are
// queued one by one, and systemd orders only those that it has.
func (m *planner) order(units []string) []string {
	slices.Sort(units)
	var out []string
	visiting := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if visiting[name] || slices.Contains(out, name) {
			return
		}
		visiting[name] = true
		u, _ := m.target.unit(templateOf(name))
		for _, other := range units {
			o, _ := m.target.unit(templateOf(other))
			if slices.Contains(u.Order, other) || slices.Contains(o.Before, name) {
				visit(other)
			}
		}
		out = append(out, name)
	}
	for _, name := range units {
		visit(name)
	}
	return out
}

// templateOf is the unit file behind a unit: foo@.service for foo@1.service.
func templateOf(unit string) string {
	at := strings.IndexByte(unit, '@')
	dot := strings.LastIndexByte(unit, '.')
	if at < 0 || dot < at {
		return unit
	}
	return unit[:at+1] + unit[dot:]
}

func sortWhy(list []protocol.UnitWhy) {
	slices.SortFunc(list, func(a, b protocol.UnitWhy) int { return strings.Compare(a.Unit, b.Unit) })
}

// reasonsOf takes what image.Affected says into a plan's reasons.
func reasonsOf(effects []image.Effect) map[string]why {
	m := map[string]why{}
	for _, e := range effects {
		m[e.Unit] = why{Restart: e.Restart || e.Added, Text: e.Why}
	}
	return m
}

// maxEdits bounds the changed files that a plan shows.
const maxEdits = 100

func edits(d image.Diff) []protocol.FileEdit {
	var all []protocol.FileEdit
	for _, kind := range []struct {
		name  string
		paths []string
	}{{"changed", d.Changed}, {"added", d.Added}, {"removed", d.Removed}} {
		for _, p := range kind.paths {
			if len(all) < maxEdits {
				all = append(all, protocol.FileEdit{Path: p, Edit: kind.name})
			}
		}
	}
	return all
}
