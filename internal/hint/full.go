package hint

import (
	"errors"
	"strings"
	"syscall"
)

// Full gives an error its cure if a full disk or a quota is the cause, and it
// has none yet.
func Full(err error, cure string) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) || Of(err) != "" {
		return err
	}
	return Wrap(err, cure)
}

// SaysFull finds that cause in what a program printed on its way out: its exit
// code does not tell. The words are those of strerror(3), and of Go.
func SaysFull(output string) bool {
	return strings.Contains(strings.ToLower(output), "no space left on device")
}
