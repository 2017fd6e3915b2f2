//go:build darwin

package main

import "golang.org/x/sys/unix"

const (
	termiosGet = unix.TIOCGETA
	termiosSet = unix.TIOCSETA
	// termiosFlush is termiosSet that throws away what was typed and not read.
	termiosFlush = unix.TIOCSETAF
)
