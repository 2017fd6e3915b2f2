package main

import (
	"fmt"
	"strings"

	"devbox/internal/deploy"

	"github.com/spf13/cobra"
)

type logsOptions struct {
	follow bool
	lines  int
}

func newLogs(a *app) *cobra.Command {
	var o logsOptions
	c := &cobra.Command{
		Use:   "logs [UNIT]",
		Short: "show the journal of the app's units",
		Long: `logs prints the last lines of the journal of all the app's units, or of one; a name
without a suffix is a service's. With --json every line is an entry of the journal as
journalctl -o json gives it.`,
		Example: "  devbox logs -f\n  devbox logs bowl.service -n 200",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := a.project()
			if err != nil {
				return err
			}
			h, err := p.Connect(c.Context())
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

// unitName completes what systemctl would: bowl is bowl.service.
func unitName(arg string) string {
	if strings.Contains(arg, ".") {
		return arg
	}
	return arg + ".service"
}
