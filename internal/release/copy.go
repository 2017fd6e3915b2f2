package release

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Copy is folders to be copied, with owners, times and all, while nobody writes.
type Copy struct {
	Unit   string      // to do it in
	Freeze []string    // services that wait meanwhile, those of them that are up
	Dirs   [][2]string // from, which is there, and to, which is not
	Limit  time.Duration
}

// Copy implements [System]. It is all in one unit: systemd has the services go on when
// that ends, also if it, or this process, is killed. After a power cut nothing
// is frozen. Who asks a service that is frozen waits, no more.
func (s *Systemd) Copy(ctx context.Context, c Copy) error {
	command := func(args ...string) []execCommand { return []execCommand{{args[0], args, []string{"no-env-expand"}}} }
	var copies []execCommand
	for _, d := range c.Dirs {
		copies = append(copies, command("/usr/bin/cp", "--archive", "--reflink=auto", "--no-target-directory", "--", d[0], d[1])...)
	}
	props := append(oneshot(c.Limit),
		property("Description", "devbox copy of the data"),
		property("ExecStartEx", copies),
	)
	if len(c.Freeze) > 0 {
		props = append(props,
			property("ExecStartPreEx", command(append([]string{"/bin/sh", "-c", freeze, "sh"}, c.Freeze...)...)),
			property("ExecStopPostEx", command(append([]string{"/bin/sh", "-c", thaw, "sh"}, c.Freeze...)...)),
		)
	}
	err := s.runUnit(ctx, c.Unit, "the copy of the data", props)
	var f *fault
	if errors.As(err, &f) && len(f.log) > 0 { // cp says what the matter is
		return fmt.Errorf("%w:\n  %s", err, strings.Join(f.log, "\n  "))
	}
	return err
}

// freeze does without services that have ended meanwhile, or are being started
// anew: systemd freezes none of them, and one that fails again and again must not
// keep away the release that mends it. Where control groups cannot freeze (version 1),
// or a service will not, its processes are stopped.
const freeze = `for unit; do
	systemctl freeze "$unit" || ! systemctl is-active --quiet "$unit" || systemctl kill --signal=STOP "$unit" || exit 1
done`

const thaw = `for unit; do systemctl thaw "$unit"; systemctl kill --signal=CONT "$unit"; done; true`
