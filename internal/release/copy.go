package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
)

// Copy is folders to be copied, with owners, times and all, while nobody writes.
type Copy struct {
	Unit   string      // to do it in
	Freeze []string    // services that wait meanwhile, those of them that are up
	Dirs   [][2]string // from, which is there, and to, which is not
	Limit  time.Duration
}

// thawTime is what systemd gives the services to go on when a copy has ended. It
// takes a moment, unless the host has much to do.
const thawTime = 30 * time.Second

// Copy implements [System]. It is all in one unit: systemd has the services go on when
// that ends, also if it, or this process, is killed. After a power cut nothing
// is frozen. Who asks a service that is frozen waits, no more.
func (s *Systemd) Copy(ctx context.Context, c Copy) error {
	err := s.runUnit(ctx, c.Unit, "the copy of the data", c.props())
	var f *fault
	if errors.As(err, &f) && len(f.log) > 0 { // cp says what the matter is
		return fmt.Errorf("%w:\n  %s", err, strings.Join(f.log, "\n  "))
	}
	return err
}

// props are those of the unit. It has one command: systemd gives each of several the
// whole of the time, and bounds them together by nothing.
func (c Copy) props() []sd.Property {
	command := func(script string, args []string) []execCommand {
		return []execCommand{{"/bin/sh", append([]string{"/bin/sh", "-c", script, "sh"}, args...), []string{"no-env-expand"}}}
	}
	args := append(slices.Clone(c.Freeze), "--")
	for _, d := range c.Dirs {
		args = append(args, d[0], d[1])
	}
	props := append(oneshot(c.Limit, thawTime),
		property("Description", "devbox copy of the data"),
		property("ExecStartEx", command(copies, args)),
	)
	if len(c.Freeze) > 0 {
		props = append(props, property("ExecStopPostEx", command(thaw, c.Freeze)))
	}
	return props
}

// copies is given the services to freeze, "--", and of each folder from where and
// to where. It does without services that have ended meanwhile, or are being started
// anew: systemd freezes none of them, and one that fails again and again must not
// keep away the release that mends it. Where control groups cannot freeze (version 1),
// or a service will not, its processes are stopped.
const copies = `while [ "$1" != -- ]; do
	systemctl freeze "$1" || ! systemctl is-active --quiet "$1" || systemctl kill --signal=STOP "$1" || exit
	shift
done
shift
while [ $# -gt 0 ]; do
	cp --archive --reflink=auto --no-target-directory -- "$1" "$2" || exit
	shift 2
done`

// thaw does not mind services that were not frozen, or have ended: what counts is
// that none is left that waits.
const thaw = `systemctl thaw "$@"
systemctl kill --signal=CONT "$@"
states=$(systemctl show --property=FreezerState "$@") || exit
case $states in *frozen*) exit 1; esac`
