package main

import (
	"errors"

	"devbox/internal/config"
	"devbox/internal/deploy"
	"devbox/internal/protocol"
)

// Exit codes, documented in docs/commands.md. A test holds the two together.
const (
	exitOK          = 0   // done, or nothing to do
	exitFailed      = 1   // it did not work; the message says what was and was not done
	exitBadInput    = 2   // refused: wrong use, a mistake in devbox.yaml, the image or the cloud-config, or what the host's policy forbids; what runs was not touched
	exitRolledBack  = 3   // the new release, or a server's new settings, were not kept; the previous ones serve
	exitBusy        = 4   // another activation, or another provision, holds the host
	exitUnknown     = 5   // the connection was lost while the host was at work; the next run finds out
	exitInterrupted = 130 // Ctrl-C
)

var errInterrupted = errors.New("interrupted")

// badInput marks an error as the caller's mistake, found before anything changed.
type badInput struct{ error }

func (b badInput) Unwrap() error { return b.error }

// silent ends the program with an error's code without printing it: what there
// is to say has been said.
type silent struct{ error }

func (s silent) Unwrap() error { return s.error }

// exitWith carries the exit code of a command that ran on the machine.
type exitWith struct {
	error
	code int
}

func exitCode(err error) int {
	var (
		mistakes config.Mistakes
		problems deploy.Problems
		refused  *deploy.HostError
		rolled   *deploy.RolledBackError
		owned    *deploy.OwnedError
		remote   exitWith
	)
	switch {
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case errors.As(err, &remote):
		return remote.code
	case errors.As(err, new(*deploy.NotBegunError)):
		return exitFailed
	case deploy.Lost(err): // whatever else is known: the end is not
		return exitUnknown
	case errors.As(err, new(badInput)), errors.As(err, &mistakes), errors.As(err, &problems), errors.As(err, &owned),
		errors.As(err, new(*deploy.UnprovenError)), errors.As(err, &refused) && refused.Refused(), deploy.Mistaken(err), deploy.Refused(err):
		return exitBadInput
	case errors.As(err, &rolled) && rolled.Result.Outcome == protocol.RolledBack, deploy.Undone(err):
		return exitRolledBack
	case errors.As(err, &refused) && refused.Busy(), deploy.Busy(err):
		return exitBusy
	default:
		return exitFailed
	}
}
