package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"devbox/internal/deploy"
	"devbox/internal/hint"
	"devbox/internal/provision"

	"github.com/spf13/cobra"
)

type provisionOptions struct {
	dryRun   bool
	userData bool
	yes      bool
}

func newProvision(a *app) *cobra.Command {
	var o provisionOptions
	c := &cobra.Command{
		Use:   "provision TARGET",
		Short: "bring a server to the state of the cloud-config",
		Long: `provision logs in to a server of devbox.yaml as its administrator, shows what it lacks of
cloud-init/server.yaml and, once you agree, brings it there and installs devbox-host. Any
Debian 13 that you can log in to will do. What could lock you out is undone by the server
itself unless a new login gets in.`,
		Example: "  devbox provision prod --dry-run\n  devbox provision prod --user-data >user-data",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.target(args[0])
			if err != nil {
				return err
			}
			if o.userData && o.dryRun {
				return badInput{hint.Errorf("give one of them", "--user-data reaches no server, and --dry-run asks one")}
			}
			if o.userData {
				return a.userData(t)
			}
			return a.provision(c.Context(), t, o)
		},
	}
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be done, and change nothing")
	c.Flags().BoolVar(&o.userData, "user-data", false, "print the cloud-config to create a server with, and reach none")
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	return c
}

// provisioned is what --json prints.
type provisioned struct {
	Target  string             `json:"target"`
	OS      string             `json:"os,omitempty"`
	Arch    string             `json:"arch,omitempty"`
	Outcome string             `json:"outcome"` // not-begun, unchanged, planned, done, failed, undone
	Changes []provision.Change `json:"changes,omitempty"`
	Steps   []provision.Step   `json:"steps,omitempty"`
	Undone  []string           `json:"undone,omitempty"`
	Error   string             `json:"error,omitempty"`
	Hint    string             `json:"hint,omitempty"`
}

func (a *app) provision(ctx context.Context, t *deploy.Target, o provisionOptions) error {
	g, err := t.Provisioning(ctx, a.ui)
	if err != nil {
		if a.json {
			a.ui.Value(provisioned{Target: t.Name, Outcome: deploy.NotBegun, Error: err.Error(), Hint: hint.Of(err)})
		}
		return err
	}
	defer g.Close()
	out := provisioned{Target: t.Name, OS: g.Seen.OS, Arch: g.Seen.Arch, Changes: g.Changes.All, Outcome: "unchanged"}
	switch {
	case g.Changes.None():
		if !a.json {
			a.ui.Result("%s is as %s says; nothing to do", t.Name, t.CloudInit())
		}
	case o.dryRun:
		out.Outcome = "planned"
		if !a.json {
			a.ui.Result("%s", planText(t, g))
		}
	default:
		if err = a.carryOut(ctx, t, g, o, &out); err != nil && out.Outcome == "" {
			return err
		}
	}
	if a.json {
		a.ui.Value(out)
	}
	return err
}

// carryOut asks and does. out has no outcome if nothing was tried.
func (a *app) carryOut(ctx context.Context, t *deploy.Target, g *deploy.Provisioning, o provisionOptions, out *provisioned) error {
	out.Outcome = ""
	a.ui.Say("%s", planText(t, g))
	if !o.yes {
		if err := a.confirm(ctx, fmt.Sprintf("do this on %s?", t.Name), "--yes"); err != nil {
			return err
		}
	}
	report, err := g.Do(ctx, a.ui)
	out.Outcome, out.Steps = "done", report.Steps
	if err != nil {
		out.Outcome, out.Error, out.Hint = "failed", err.Error(), hint.Of(err)
		if undone := new(provision.UndoneError); errors.As(err, &undone) {
			out.Outcome, out.Undone = "undone", undone.Lines
		}
		return err
	}
	if !a.json {
		a.ui.Result("%s is set up; next: `devbox deploy %s`", t.Name, t.Name)
	}
	return nil
}

// planText is what is to be done, for a person.
func planText(t *deploy.Target, g *deploy.Provisioning) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s, %s):", t.Name, g.Seen.OS, g.Seen.Arch)
	words := map[string]string{
		"install": "install package", "group": "create group", "user": "create user", "key": "let in key",
		"new file": "write new file", "file": "change file", "do": "apply", "run": "run", "devbox-host": "install devbox-host",
	}
	for _, c := range g.Changes.All {
		fmt.Fprintf(&b, "\n  %-19s  %s", words[c.Kind], indent(c.Name, 23))
		if c.Why != "" {
			fmt.Fprintf(&b, " (%s)", c.Why)
		}
		if c.Diff != "" {
			fmt.Fprintf(&b, "\n      %s", indent(strings.TrimRight(c.Diff, "\n"), 6))
		}
	}
	if g.Changes.Apply {
		b.WriteString("\nssh, sudo and firewall are on trial meanwhile: the server undoes them unless a new login gets in")
	}
	return b.String()
}

// indent moves all lines of text but the first to the right.
func indent(text string, n int) string {
	return strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", n))
}

// maxUserData is what providers take, in bytes: 16 KiB at the least generous.
const maxUserData = 16 << 10

func (a *app) userData(t *deploy.Target) error {
	text, err := t.UserData()
	if err != nil {
		return badInput{err}
	}
	if len(text) > maxUserData {
		a.ui.Say("warning: this is %d bytes long, and some providers take no more than %d", len(text), maxUserData)
	}
	if a.json {
		a.ui.Value(struct {
			UserData string `json:"user_data"`
		}{string(text)})
		return nil
	}
	_, err = a.stdout.Write(text)
	return err
}
