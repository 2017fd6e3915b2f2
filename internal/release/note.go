package release

import (
	"context"
	"os"

	journald "github.com/coreos/go-systemd/v22/journal"

	"devbox/internal/protocol"
)

// Note is an entry of the host's journal: what was done to an app, or refused.
type Note struct {
	App     string
	Text    string
	Release string // that it is about, "" if it is about none
	Outcome string // one of protocol's, or of those below
	By      string // who asked, by their own account
}

// Outcomes of what is no activation.
const (
	recovered = "recovered"
	forgotten = "forgotten"
	refused   = "refused"
	exposed   = "exposed" // an activation ends with its session
)

func (n Note) good() bool {
	switch n.Outcome {
	case protocol.Committed, protocol.Unchanged, recovered, forgotten:
		return true
	}
	return false
}

// Note implements [System]: `journalctl -t devbox-host`. That the journal cannot
// be written must not stop anything.
func (s *Systemd) Note(n Note) {
	fields := map[string]string{"SYSLOG_IDENTIFIER": "devbox-host"}
	for name, value := range map[string]string{
		"DEVBOX_APP": n.App, "DEVBOX_RELEASE": n.Release, "DEVBOX_OUTCOME": n.Outcome, "DEVBOX_BY": n.By,
		"DEVBOX_SUDO_USER": os.Getenv("SUDO_USER"), // who that really was
	} {
		if value != "" {
			fields[name] = value
		}
	}
	text := n.Text
	if n.App != "" {
		text = n.App + ": " + text
	}
	priority := journald.PriInfo
	if !n.good() {
		priority = journald.PriWarning
	}
	_ = journald.Send(printable(text), priority, fields)
}

// noteResult notes how an activation ended.
func (h *Host) noteResult(app string, to protocol.Release, r protocol.Result) {
	if r.Outcome == protocol.Planned {
		return
	}
	text := to.ID + " " + r.Outcome
	if to.By != "" {
		text += ", by " + to.By
	}
	if r.Serving != "" && r.Serving != to.ID {
		text += "; " + r.Serving + " runs"
	}
	if r.Failure != nil {
		text += ": " + r.Failure.Cause
	}
	h.sys.Note(Note{App: app, Text: text, Release: to.ID, Outcome: r.Outcome, By: to.By})
}

// shelter keeps what is under way from ending with the session that asked for
// it. If that cannot be had, it goes on without.
func (h *Host) shelter(ctx context.Context, app string) {
	h.sheltered.Do(func() {
		if err := h.sys.Shelter(ctx, app); err != nil {
			h.sys.Note(Note{App: app, Outcome: exposed, Text: "a session that ends takes this process with it: " + err.Error()})
		}
	})
}
