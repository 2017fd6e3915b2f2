package main

import (
	"context"
	"os"

	"devbox/internal/deploy"
	"devbox/internal/ui"

	"golang.org/x/sys/unix"
)

// readKeys turns keys pressed on a terminal into what they ask of a watch. The
// terminal gives them at once, without an echo; Ctrl-C works as ever. restore
// gives the terminal back as it was.
func readKeys(ctx context.Context, in *os.File) (keys <-chan deploy.Key, restore func()) {
	fd := int(in.Fd())
	if !ui.IsTerminal(in) {
		return nil, func() {}
	}
	was, err := unix.IoctlGetTermios(fd, termiosGet)
	if err != nil {
		return nil, func() {}
	}
	now := *was
	now.Lflag &^= unix.ICANON | unix.ECHO
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, termiosSet, &now); err != nil {
		return nil, func() {}
	}
	pressed := make(chan deploy.Key)
	go func() {
		one := make([]byte, 1)
		for {
			if n, err := in.Read(one); n == 0 || err != nil {
				return
			}
			key, ok := map[byte]deploy.Key{'r': deploy.KeyRebuild, 'p': deploy.KeyPause, 'q': deploy.KeyQuit}[one[0]]
			if !ok {
				continue
			}
			select {
			case pressed <- key:
			case <-ctx.Done():
				return
			}
		}
	}()
	return pressed, func() { unix.IoctlSetTermios(fd, termiosSet, was) }
}
