package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/hint"
	"devbox/internal/secret"
	"devbox/internal/ui"

	"github.com/spf13/cobra"
)

type drillOptions struct {
	secrets []string
	keep    bool
}

func newDrill(a *app) *cobra.Command {
	var o drillOptions
	c := &cobra.Command{
		Use:   "drill [TARGET]",
		Short: "rehearse the loss of a server: does everything come back?",
		Long: `drill makes a new machine at home, brings the released image there and has it restore the
app's data from the replica, as it would on a new server. Then it compares what came back
with what is there, says what would have been lost and how long all took, and removes the
machine. It only reads the replica; the server goes on untouched, or may be gone.`,
		Example: "  devbox drill prod --secret s3=read-only-key",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := a.project()
			if err != nil {
				return err
			}
			var t *deploy.Target
			if len(args) == 1 {
				if t, err = a.target(args[0]); err != nil {
					return err
				}
			}
			return a.drill(c.Context(), p, t, o)
		},
	}
	c.Flags().StringArrayVar(&o.secrets, "secret", nil, "read the value of a secret for the rehearsal, `NAME=FILE`; others are asked for")
	c.Flags().BoolVar(&o.keep, "keep", false, "keep the machine of the rehearsal, to look at")
	return c
}

func (a *app) drill(ctx context.Context, p *deploy.Project, t *deploy.Target, o drillOptions) error {
	if err := p.CheckFiles(); err != nil {
		return badInput{err}
	}
	given, err := secretFiles(o.secrets)
	if err != nil {
		return badInput{err}
	}
	ask := func(ctx context.Context, name string) ([]byte, error) {
		if !a.canAsk() {
			return nil, badInput{hint.Errorf(fmt.Sprintf("give it by --secret %s=FILE", name), "the value of %s is needed", name)}
		}
		value, err := a.secretValue(ctx, fmt.Sprintf("value of %s for the rehearsal (a key that may only read is enough): ", name), false)
		if err != nil {
			err = hint.Wrap(fmt.Errorf("value of %s: %w", name, err), fmt.Sprintf("give it by --secret %s=FILE", name))
		}
		return value, err
	}
	a.again = "run the same command again: nothing is left of this rehearsal"
	if o.keep {
		a.again = "run the same command again: it begins anew"
	}
	d, err := p.Drill(ctx, a.ui, t, deploy.DrillOptions{Secrets: given, Ask: ask, Keep: o.keep})
	if a.json {
		a.ui.Value(d)
		return err
	}
	if d.Restored != nil {
		a.printDrill(d)
	}
	return err
}

// secretFiles reads values from files, NAME=FILE each, as `devbox secret set
// NAME <FILE` does.
func secretFiles(files []string) (map[string][]byte, error) {
	all := map[string][]byte{}
	for _, f := range files {
		name, file, ok := strings.Cut(f, "=")
		if !ok || secret.ValidName(name) != nil {
			return nil, hint.Errorf("write --secret NAME=FILE", "%q is not NAME=FILE", name)
		}
		value, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the value of %s: %w", name, err)
		}
		value = trimLine(value)
		if err := secret.ValidValue(value); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all[name] = value
	}
	return all, nil
}

func (a *app) printDrill(d *deploy.Drill) {
	say, restored, live := a.ui.Result, d.Restored, d.Live
	what, how := d.Of, "came back"
	if d.Release != "" {
		what += " " + d.Release
	}
	if d.Error != "" {
		how = "was rehearsed"
	}
	say("%s (%s) %s on a new machine", what, d.Version, how)
	say("  machine %s, image %s, restore and start %s", ui.Seconds(d.Machine), ui.Seconds(d.Ship), ui.Seconds(d.Restore))
	if restored.Integrity != "" {
		say("  integrity: %s", restored.Integrity)
	}
	fewer := false
	if live == nil {
		live = restored
	}
	rows := maps.Collect(maps.All(live.Rows))
	maps.Copy(rows, restored.Rows)
	for _, table := range slices.Sorted(maps.Keys(rows)) {
		is, was := restored.Rows[table], live.Rows[table]
		of := ""
		if is != was {
			of = " of " + strconv.FormatInt(was, 10)
		}
		say("  %s: %s%s", table, counted(is, "row"), of)
		fewer = fewer || is < was
	}
	newest := restored.Newest.Format(time.RFC3339)
	switch {
	case d.Error != "": // which says what is not well
	case restored.Newest.IsZero() && d.Live == nil:
		say("  what was there besides cannot be known")
	case restored.Newest.IsZero() || live.Newest.IsZero():
		say("  when something was written last, its check does not tell: compare the rows")
	case d.Live == nil:
		say("  newest change: %s (%s ago); what came after it cannot be known", newest, ui.Seconds(time.Since(restored.Newest)))
	case d.Lost > 0:
		say("  the last %s would have been lost: %s is the newest change that came back", ui.Seconds(d.Lost), newest)
	case fewer:
		say("  the newest change, of %s, is there, but not all rows: they are not replicated, or were deleted meanwhile", newest)
	default:
		say("  nothing would have been lost: the newest change, of %s, is there", newest)
	}
}
