package release

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Copy is folders to be copied, with owners, times and all, while nobody writes.
type Copy struct {
	Name   string      // of the unit to do it in
	Freeze []string    // services that wait meanwhile
	Dirs   [][2]string // from, which is there, and to, which is not
	Limit  time.Duration
}

// Copy implements [System]. It is all in one unit: systemd thaws the services when
// that ends, also if it, or this process, is killed. After a power cut nothing is
// frozen. Who asks a service that is frozen waits, no more.
func (s *Systemd) Copy(ctx context.Context, c Copy) error {
	command := func(args ...string) execCommand { return execCommand{args[0], args, []string{"no-env-expand"}} }
	var copies []execCommand
	for _, d := range c.Dirs {
		copies = append(copies, command("/usr/bin/cp", "--archive", "--reflink=auto", "--no-target-directory", "--", d[0], d[1]))
	}
	props := append(oneshot(c.Limit),
		property("Description", "devbox copy of the data"),
		property("ExecStartEx", copies),
	)
	if len(c.Freeze) > 0 {
		props = append(props,
			property("ExecStartPreEx", []execCommand{command(append([]string{"/usr/bin/systemctl", "freeze"}, c.Freeze...)...)}),
			property("ExecStopPostEx", []execCommand{command(append([]string{"/usr/bin/systemctl", "thaw"}, c.Freeze...)...)}),
		)
	}
	unit := transientName(c.Name)
	err := s.runUnit(ctx, unit, "the copy of the data", props)
	return errors.Join(err, s.ended(context.WithoutCancel(ctx), unit))
}

// ended waits until a unit has ended whose job has already: what it does last,
// it does after that.
func (s *Systemd) ended(ctx context.Context, unit string) error {
	for until := time.Now().Add(killWait); ; time.Sleep(2 * time.Millisecond) {
		st, err := s.Unit(ctx, unit)
		switch {
		case err != nil:
			return err
		case st.gone():
			return nil
		case time.Now().After(until):
			return fmt.Errorf("%s does not end", unit)
		}
	}
}
