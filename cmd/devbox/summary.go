package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
	"devbox/internal/ui"
)

// soon is how early a certificate that expires is worth a warning.
const soon = 21 * 24 * time.Hour

// lists that are older than this say little about what is pending.
const oldLists = 3 * 24 * time.Hour

// summaryLines is what status says of a server beside the app.
func summaryLines(s *deploy.Summary, target string, now time.Time) []string {
	var lines []string
	say := func(what, format string, args ...any) {
		lines = append(lines, fmt.Sprintf("%-8s %s", what, fmt.Sprintf(format, args...)))
	}
	switch s.Drift {
	case 0:
		say("drift", "none")
	case 1:
		say("drift", "1 difference from the repository: `devbox diff %s`", target)
	default:
		say("drift", "%d differences from the repository: `devbox diff %s`", s.Drift, target)
	}
	if u := s.Updates; u != nil {
		text := "none pending"
		if len(u.Pending) > 0 {
			text = fmt.Sprintf("%d pending, %d of them security", len(u.Pending), len(u.Security))
		}
		if age := now.Sub(u.Lists); age > oldLists {
			text += fmt.Sprintf(", by lists that are %d days old: apt-get update", int(age.Hours()/24))
		}
		say("updates", "%s", text)
	}
	for _, why := range s.Reboot {
		say("reboot", "needed: %s", why)
	}
	if len(s.Stale) > 0 {
		say("restart", "needed, by libraries that were replaced: %s", strings.Join(s.Stale, ", "))
	}
	for _, unit := range s.Failed {
		say("failed", "%s: systemctl status %s", unit, unit)
	}
	for _, d := range s.Disks {
		text := fmt.Sprintf("%s has %s of %s free", d.Path, ui.Bytes(d.Free), ui.Bytes(d.Size))
		if d.Free < d.Size/10 {
			text += ": nearly full"
		}
		say("disk", "%s", text)
	}
	if c := s.Certificate; c != nil {
		left := c.Expires.Sub(now)
		text := fmt.Sprintf("of %s is good for %d days", c.URL, int(left.Hours()/24))
		switch {
		case left <= 0:
			text = fmt.Sprintf("of %s has expired, on %s", c.URL, c.Expires.Format(time.DateOnly))
		case left < soon:
			text += ": renew it"
		}
		say("cert", "%s", text)
	}
	if r := s.Rollback; r != nil {
		say("rollback", "%s", rollbackText(*r))
	}
	for _, u := range s.Unknown {
		say("unknown", "%s: %s", u.Part, u.Why)
	}
	return lines
}

// rollbackText is the last release that was not kept, or that brought back an
// older one.
func rollbackText(r protocol.Release) string {
	text := r.ID
	switch {
	case r.Of != "":
		text += " brought back " + r.Of
	case slices.Contains([]string{protocol.RolledBack, protocol.Interrupted, protocol.Failed}, r.Outcome):
		text += " was not kept (" + r.Outcome + ")"
	default:
		text += " was not kept"
	}
	if !r.At.IsZero() {
		text += ", " + ago(r.At) + " ago"
	}
	if r.By != "" {
		text += ", by " + r.By
	}
	if cause, _, _ := strings.Cut(r.Cause, "\n"); cause != "" {
		text += ": " + cause
	}
	return text
}
