//go:build linux

package main

import "golang.org/x/sys/unix"

const (
	termiosGet = unix.TCGETS
	termiosSet = unix.TCSETS
	// termiosFlush is termiosSet that throws away what was typed and not read.
	termiosFlush = unix.TCSETSF
)
