package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/ui"

	"github.com/spf13/cobra"
)

// deployFlags are those of both deploy and rollback.
type deployFlags struct {
	yes    bool
	dryRun bool
}

func (o *deployFlags) flags(c *cobra.Command) {
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "stop after the plan; what runs is not touched")
}

func newDeploy(a *app) *cobra.Command {
	var o deployFlags
	var opts deploy.DeployOptions
	c := &cobra.Command{
		Use:   "deploy TARGET",
		Short: "make the image that ran on the dev machine the running release of a server",
		Long: `deploy builds the image, byte for byte the one that ran on the dev machine, sends what
the server lacks of it, shows what will restart and why, and asks. The server then goes to
the new release by itself, watches it for a while and keeps it, or goes back.`,
		Example: "  devbox deploy prod\n  devbox deploy prod --dry-run",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.target(args[0])
			if err != nil {
				return err
			}
			offer, err := t.Offer(c.Context(), a.ui, opts)
			return a.settle(c.Context(), t, offer, err, o)
		},
	}
	o.flags(c)
	c.Flags().BoolVar(&opts.Unproven, "allow-unproven", false, "also an image that did not run on the dev machine")
	c.Flags().BoolVar(&opts.All, "restart-all", false, "restart every service, changed or not")
	return c
}

func newRollback(a *app) *cobra.Command {
	var o deployFlags
	opts := deploy.RollbackOptions{Release: protocol.Previous}
	c := &cobra.Command{
		Use:   "rollback TARGET [RELEASE]",
		Short: "bring an earlier release of a server back",
		Long: `rollback makes an earlier release the running one again, with the image, environment and
health check that it had, by the same way as deploy. Without RELEASE it is the one that ran
before the running one. What the app itself has stored stays as it is, unless --with-data
is given: then it is what the release ran on last, of which the server keeps a copy where
devbox.yaml has state.snapshot. What was written since is put aside, not deleted.`,
		Example: "  devbox rollback prod\n  devbox rollback prod r12\n  devbox rollback prod --with-data",
		Args:    cobra.MaximumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "dev" {
				return badInput{hint.Errorf("check out what you want to go back to: `devbox up` brings it there, as `devbox watch` does",
					"rollback is for servers: the dev machine has what the folder has")}
			}
			t, err := a.target(args[0])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				opts.Release = args[1]
			}
			offer, err := t.OfferRelease(c.Context(), a.ui, opts)
			return a.settle(c.Context(), t, offer, err, o)
		},
	}
	o.flags(c)
	c.Flags().BoolVar(&opts.WithData, "with-data", false, "bring back the data, too, that the release ran on last")
	return c
}

func newReleases(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "releases [TARGET]",
		Short: "show what ran on a server, since when, from which commit and by whom",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			h, err := a.connect(c.Context(), args)
			if err != nil {
				return err
			}
			defer h.Close()
			return a.releases(c.Context(), h)
		},
	}
}

// target finds a server of devbox.yaml.
func (a *app) target(name string) (*deploy.Target, error) {
	p, err := a.project()
	if err != nil {
		return nil, err
	}
	t, err := p.Target(name)
	if err != nil {
		return nil, badInput{err}
	}
	return t, nil
}

// connect reaches the server that args name, or else the dev machine.
func (a *app) connect(ctx context.Context, args []string) (*deploy.Host, error) {
	if len(args) == 0 {
		p, err := a.project()
		if err != nil {
			return nil, err
		}
		return p.Connect(ctx)
	}
	t, err := a.target(args[0])
	if err != nil {
		return nil, err
	}
	return t.Connect(ctx)
}

// settle shows an offer, has it confirmed, sees it through and closes it; err is
// why there is none.
func (a *app) settle(ctx context.Context, t *deploy.Target, o *deploy.Offer, err error, f deployFlags) error {
	defer o.Close()
	nothing := err == nil && o.Unchanged() && o.Plan.Empty()
	switch {
	case err != nil:
	case nothing && !f.dryRun:
		err = o.Accept(ctx, a.ui) // the server notes what of it is new
	case nothing:
	case f.dryRun && !a.json:
		a.printOffer(t, o, a.ui.Result)
		return nil
	case !f.dryRun:
		a.printOffer(t, o, a.ui.Say)
		if !f.yes {
			if err := a.confirm(ctx, a.question(t, o), "--yes"); err != nil {
				return err
			}
		}
		err = o.Accept(ctx, a.ui)
	}
	if a.json || err == nil {
		a.printSettled(o)
	}
	return err
}

func (a *app) question(t *deploy.Target, o *deploy.Offer) string {
	switch {
	case !o.Plan.Data.IsZero():
		return fmt.Sprintf("bring %s and its data of %s back on %s?", o.Plan.Of, o.Plan.Data.Local().Format(time.DateTime), t.Name)
	case o.Plan.Of != "":
		return fmt.Sprintf("bring %s back on %s?", o.Plan.Of, t.Name)
	}
	return fmt.Sprintf("activate %s on %s?", o.Plan.Release, t.Name)
}

func (a *app) printOffer(t *deploy.Target, o *deploy.Offer, say func(format string, args ...any)) {
	c := o.Cycle
	before := "nothing before"
	if c.Serving != "" {
		before = "instead of " + c.Serving
	}
	what := o.Plan.Release
	if o.Plan.Of != "" {
		what += ", which is " + o.Plan.Of + " again,"
	}
	say("%s on %s (%s), %s", what, t.Name, t.Host, before)
	image := c.Version
	if o.Proof != "" {
		image += " " + o.Proof
	}
	say("  image     %s", image)
	if o.Plan.Source != "" {
		say("  commit    %s", o.Plan.Source)
	}
	if o.Plan.Of == "" {
		say("  sent      %s", ui.Bytes(c.Wire))
	}
	restart := "restart"
	if o.Plan.First {
		restart = "start"
	}
	for _, list := range []struct {
		what  string
		units []protocol.UnitWhy
	}{{restart, o.Plan.Restart}, {"stays", o.Plan.Stay}, {"remove", o.Plan.Remove}} {
		for _, u := range list.units {
			say("  %-9s %s: %s", list.what, u.Unit, u.Why)
		}
	}
	if c.Migration != nil {
		say("  data      %s", c.Migration)
	}
	switch {
	case !o.Plan.Data.IsZero():
		say("  data      as it was on %s; what was written in the %s since is put aside, not deleted",
			o.Plan.Data.Local().Format(time.DateTime), ago(o.Plan.Data))
	case o.Plan.Of != "":
		say("  note      what the app itself has stored is not rolled back")
	}
}

func (a *app) printSettled(o *deploy.Offer) {
	c := o.Cycle
	switch {
	case a.json:
		a.ui.Value(c)
	case c.Outcome == protocol.Committed:
		a.ui.Result("%s runs on %s", c.Release, c.Target)
		a.ui.Say("  %s", ui.Waterfall(spans(c.Phases), 24))
	default:
		a.ui.Result("%s runs on %s already", c.Serving, c.Target)
	}
}

func (a *app) releases(ctx context.Context, h *deploy.Host) error {
	all, err := h.Releases(ctx)
	if err != nil {
		return err
	}
	st, err := h.Status(ctx, h.App())
	if err != nil {
		return err
	}
	runs := func(r protocol.Release) bool { return st.Current != nil && st.Current.ID == r.ID }
	if a.json {
		for _, r := range all {
			a.ui.Value(listed{r, runs(r)})
		}
		return nil
	}
	rows := make([][]string, len(all))
	known := slices.ContainsFunc(all, func(r protocol.Release) bool { return r.Schema != nil })
	for i, r := range all {
		mark := ""
		if runs(r) {
			mark = "runs"
		}
		rows[i] = []string{r.ID, mark, r.At.Local().Format(time.DateTime), short(r.Digest), r.Source, r.By, resultOf(r)}
		if known {
			rows[i] = append(rows[i], schemaOf(r))
		}
	}
	if len(rows) > 0 {
		head := []string{"release", "", "when", "image", "commit", "by", "result"}
		if known {
			head = append(head, "schema")
		}
		a.ui.Table(head, rows)
	} else {
		a.ui.Say("nothing was ever released there")
	}
	return nil
}

// listed is a release as releases prints it with --json.
type listed struct {
	protocol.Release
	Runs bool `json:"runs,omitempty"`
}

// schemaOf is the schema of the data that a release was kept on.
func schemaOf(r protocol.Release) string {
	if r.Schema == nil {
		return ""
	}
	return fmt.Sprint(*r.Schema)
}

// resultOf says how a release ended.
func resultOf(r protocol.Release) string {
	text := r.Outcome
	if r.Of != "" {
		text += ", brought " + r.Of + " back"
		if !r.Data.IsZero() {
			text += " with its data of " + r.Data.Local().Format(time.DateTime)
		}
	}
	if r.Cause != "" {
		text += ": " + r.Cause
	}
	if !r.Snapshot.IsZero() {
		text += ", snapshot of its data of " + r.Snapshot.Local().Format(time.DateTime)
	}
	if r.Gone {
		text += " (its image is gone)"
	}
	return text
}
