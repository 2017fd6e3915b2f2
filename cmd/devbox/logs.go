package main

import (
	"fmt"
	"strings"

	"devbox/internal/deploy"
	"devbox/internal/hint"

	"github.com/spf13/cobra"
)

type logsOptions struct {
	follow bool
	lines  int
}

func newLogs(a *app) *cobra.Command {
	var o logsOptions
	c := &cobra.Command{
		Use:   "logs [TARGET] [UNIT]",
		Short: "show the journal of the app's units",
		Long: `logs prints the last lines of the journal of all the app's units, or of one, on the dev
machine or on a target; a name without a suffix is a service's. With --json every line is an entry of the journal as
journalctl -o json gives it.`,
		Example: "  devbox logs -f\n  devbox logs prod bowl.service -n 200",
		Args:    cobra.MaximumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			on, args, err := a.splitTarget(args)
			if err != nil {
				return err
			}
			if len(args) > 1 {
				return badInput{hint.Errorf("the targets of devbox.yaml are servers, everything else is a unit", "there is no target %q", args[0])}
			}
			h, err := a.connect(c.Context(), on)
			if err != nil {
				return err
			}
			defer h.Close()
			opts := deploy.LogOptions{Follow: o.follow, Lines: o.lines, JSON: a.json}
			if len(args) == 1 {
				opts.Unit = unitName(args[0])
			}
			return h.Logs(c.Context(), opts, a.stdout)
		},
	}
	c.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with new lines as they come")
	c.Flags().IntVarP(&o.lines, "lines", "n", 100, "how many lines to begin with")
	c.PreRunE = func(*cobra.Command, []string) error {
		if o.lines < 0 {
			return badInput{fmt.Errorf("--lines %d: give a number from 0", o.lines)}
		}
		return nil
	}
	return c
}

// splitTarget takes a target's name off the front of args, if there is one.
func (a *app) splitTarget(args []string) (target, rest []string, err error) {
	p, err := a.project()
	if err != nil {
		return nil, nil, err
	}
	if len(args) > 0 && p.HasTarget(args[0]) {
		return args[:1], args[1:], nil
	}
	return nil, args, nil
}

// unitName completes what systemctl would: bowl is bowl.service.
func unitName(arg string) string {
	if strings.Contains(arg, ".") {
		return arg
	}
	return arg + ".service"
}
