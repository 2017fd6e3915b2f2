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
// takes a moment, unless the host has much to do. systemd gives as much to what is
// left of a copy that is cut short, before it begins with that: so it is no longer.
const thawTime = 10 * time.Second

// Copy implements [System]. It is all in one unit: systemd has the services go on when
// that ends, also if it, or this process, is killed. After a power cut nothing
// is frozen. Who asks a service that is frozen waits, no more.
func (s *Systemd) Copy(ctx context.Context, c Copy) error {
	err := s.runUnit(ctx, c.Unit, "the copy of the data", c.props())
	var f *fault
	if errors.As(err, &f) && len(f.log) > 0 { // cp says what the matter is
		err = fmt.Errorf("%w:\n  %s", err, strings.Join(f.log, "\n  "))
	}
	if err != nil && len(c.Freeze) > 0 {
		// It may be the thaw that was killed.
		unit := transientName(strings.TrimSuffix(c.Unit, ".service") + "-thaw")
		props := append(oneshot(thawTime, time.Second), property("ExecStartEx", shell(thaw, c.Freeze)))
		err = errors.Join(err, s.runUnit(ctx, unit, "having the services go on", props))
	}
	return err
}

// props are those of the unit. It has one command: systemd gives each of several the
// whole of the time, and bounds them together by nothing.
func (c Copy) props() []sd.Property {
	args := append(slices.Clone(c.Freeze), "--")
	for _, d := range c.Dirs {
		args = append(args, d[0], d[1])
	}
	props := append(oneshot(c.Limit, thawTime),
		property("Description", "devbox copy of the data"),
		// What SIGTERM does not end is not worth another wait while services are frozen.
		property("SendSIGKILL", false),
		property("ExecStartEx", shell(copies, args)),
	)
	if len(c.Freeze) > 0 {
		props = append(props, property("ExecStopPostEx", shell(thaw, c.Freeze)))
	}
	return props
}

func shell(script string, args []string) []execCommand {
	return []execCommand{{"/bin/sh", append([]string{"/bin/sh", "-c", script, "sh"}, args...), []string{"no-env-expand"}}}
}

// copies is given the services to freeze, "--", and of each folder from where and
// to where. It does without services that have ended meanwhile, or are being started
// anew: systemd freezes none of them, and one that fails again and again must not
// keep away the release that mends it. Where control groups cannot freeze (version 1),
// or a service will not, its processes are stopped. The last copy is the unit's own
// process, so that systemd, if that is killed, has no child of it to wait for.
const copies = `while [ "$1" != -- ]; do
	systemctl freeze "$1" || ! systemctl is-active --quiet "$1" || systemctl kill --signal=STOP "$1" || exit
	shift
done
shift
cp='cp --archive --reflink=auto --no-target-directory --'
while [ $# -gt 2 ]; do
	$cp "$1" "$2" || exit
	shift 2
done
exec $cp "$1" "$2"`

// thaw does not mind services that were not frozen, or have ended: what counts is
// that none is left that waits.
const thaw = `systemctl thaw "$@"
systemctl kill --signal=CONT "$@"
states=$(systemctl show --property=FreezerState "$@") || exit
case $states in *frozen*) exit 1; esac`
