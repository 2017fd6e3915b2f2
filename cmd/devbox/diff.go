package main

import (
	"context"
	"errors"

	"devbox/internal/deploy"
	"devbox/internal/drift"

	"github.com/spf13/cobra"
)

func newDiff(a *app) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "diff [TARGET]",
		Short: "how the dev machine, a server and the repository differ",
		Long: `diff compares the dev machine, a server and what the repository asks of both, and changes
nothing. Differences that something explains are told apart from drift; it exits with 1
if there is drift.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			target := ""
			if len(args) == 1 {
				target = args[0]
			}
			return a.diff(c.Context(), target, all)
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "show every difference, also those that are expected")
	return c
}

var errDrift = errors.New("there is drift")

func (a *app) diff(ctx context.Context, target string, all bool) error {
	p, err := a.project()
	if err != nil {
		return err
	}
	if target != "" {
		if _, err := p.Target(target); err != nil {
			return badInput{err}
		}
	}
	d, err := p.Diff(ctx, target)
	if err != nil {
		return err
	}
	if a.json {
		a.ui.Value(d)
	} else {
		a.printDiff(d, all)
	}
	if drift.Count(d.Differences) > 0 {
		return silent{errDrift}
	}
	return nil
}

func (a *app) printDiff(d *deploy.Diff, all bool) {
	for _, n := range d.Notes {
		a.ui.Say("note: %s", n)
	}
	for _, line := range drift.Text(d.Differences, d.Hosts, all) {
		a.ui.Result("%s", line)
	}
	a.ui.Say("%s", drift.Summary(d.Differences))
}
