package deploy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"devbox/internal/image"
	"devbox/internal/protocol"
	"devbox/internal/provision"
	"devbox/internal/remote"
)

// Problems are what is wrong with a staged image, all at once.
type Problems []image.Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, x := range p {
		lines[i] = x.String()
		if x.Cure != "" {
			lines[i] += "; " + x.Cure
		}
	}
	return fmt.Sprintf("the image has %d problem(s):\n  %s", len(p), strings.Join(lines, "\n  "))
}

// RolledBackError is an activation that did not bring up the release that was
// asked for. Its Result tells whether the one before serves.
type RolledBackError struct {
	Result protocol.Result
	Target string // the server; "" is the dev machine
}

func (e *RolledBackError) Error() string {
	var b strings.Builder
	same := e.Result.Release == e.Result.Serving // it was in place already
	b.WriteString("release " + e.Result.Release)
	if same {
		b.WriteString(" is in place but not well: ")
	} else {
		b.WriteString(" was not kept: ")
	}
	b.WriteString(e.cause())
	switch {
	case e.Result.Outcome == protocol.RolledBack:
		b.WriteString("\n" + e.Result.Serving + " serves on")
	case e.Result.Serving == "":
		b.WriteString("\nnothing serves: there was no release before")
	case !same:
		b.WriteString("\n" + e.Result.Serving + " may not serve either; `" + strings.TrimSpace("devbox status "+e.Target) + "` tells")
	}
	return b.String()
}

// cause is what was wrong with the release, and what it logged.
func (e *RolledBackError) cause() string {
	f := e.Result.Failure
	if f == nil {
		return "no cause given"
	}
	text := f.Cause
	if f.Unit != "" {
		text = f.Unit + ": " + text
	}
	for _, l := range f.Log {
		text += "\n  " + l
	}
	return text
}

// Lost tells whether err means that the host cannot be reached any more.
func Lost(err error) bool {
	return errors.Is(err, ErrLost) || errors.Is(err, remote.ErrLost)
}

// NotBegunError is a connection that was lost before anything that runs on the
// host was touched.
type NotBegunError struct{ Err error }

func (e *NotBegunError) Error() string { return e.Err.Error() }

func (e *NotBegunError) Unwrap() error { return e.Err }

// Mistaken tells whether err is a mistake in the cloud-config, found before
// anything was changed by it.
func Mistaken(err error) bool { return errors.As(err, new(provision.Problems)) }

// Busy tells whether another activation holds the host.
func (e *HostError) Busy() bool { return e.Code == protocol.CodeBusy }

// Refused tells whether the host will not do what was asked, and has not begun.
func (e *HostError) Refused() bool {
	return slices.Contains([]string{protocol.CodePolicy, protocol.CodeNoRelease, protocol.CodeNoSecret, protocol.CodeChanged}, e.Code)
}
