package release

import (
	"context"
	"os"
	"time"

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
	// Refused is what was asked for and not begun, and what could not be done.
	Refused = "refused"
	exposed = "exposed" // an activation ends with its session
)

func (n Note) good() bool {
	switch n.Outcome {
	case protocol.Committed, protocol.Unchanged, recovered, forgotten:
		return true
	}
	return false
}

// Note implements [System].
func (s *Systemd) Note(n Note) { n.Write() }

// Write writes a note to the journal: `journalctl -t devbox-host`. That it cannot
// be written must not stop anything.
func (n Note) Write() {
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
	text, by := to.ID+" "+r.Outcome, to.By
	if r.Outcome == protocol.Unchanged {
		by = "" // it is the one who asked for it when it was new
	}
	if by != "" {
		text += ", by " + by
	}
	if r.Outcome == protocol.Committed && !to.Data.IsZero() {
		text += "; with the data of " + to.Data.Format(time.RFC3339)
	}
	if r.Serving != "" && r.Serving != to.ID {
		text += "; " + r.Serving + " runs"
	}
	if r.Failure != nil {
		text += ": " + r.Failure.Cause
	} else if r.Migration != nil {
		text += "; " + r.Migration.String()
	}
	h.sys.Note(Note{App: app, Text: text, Release: to.ID, Outcome: r.Outcome, By: by})
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
