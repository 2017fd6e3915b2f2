package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/hint"
	"devbox/internal/secret"
	"devbox/internal/ui"

	"github.com/spf13/cobra"
)

func newSecret(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "secret",
		Short: "set, list and remove the secrets of the app's services",
		Long: `secret keeps passwords, keys and the like on the dev machine or on a server: encrypted on
its disk, given to services that ask for them as files that nobody else can read, and
nowhere else. A service asks by

  LoadCredentialEncrypted=APP.NAME

and reads $CREDENTIALS_DIRECTORY/APP.NAME. Without TARGET it is the dev machine, which has
secrets of its own.`,
	}
	c.AddCommand(newSecretSet(a), newSecretList(a), newSecretRm(a))
	return c
}

func newSecretSet(a *app) *cobra.Command {
	var raw bool
	c := &cobra.Command{
		Use:   "set [TARGET] NAME",
		Short: "set a secret; its value is asked for, or read from stdin",
		Long: `set asks for the value without showing it, or reads it from stdin if that is no terminal.
A single line of text loses the end of its line, which is hardly ever meant; everything
else is taken byte for byte, and so is a line with --raw. The most is 64 KiB.`,
		Example: "  devbox secret set session-key\n  openssl rand -base64 32 | devbox secret set prod session-key\n  devbox secret set prod tls.key < key.pem",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 2 {
				return badInput{errValue}
			}
			on, name, err := a.secretName(args)
			if errors.As(err, new(noTarget)) {
				return badInput{fmt.Errorf("%w; and if that is a secret's name: %w", err, errValue)}
			}
			if err != nil {
				return err
			}
			return a.setSecret(c.Context(), on, name, raw)
		},
	}
	c.Flags().BoolVar(&raw, "raw", false, "keep the end of a line, too")
	return c
}

func newSecretList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list [TARGET]",
		Short: "show which secrets there are, and which ones units want",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			h, err := a.connect(c.Context(), args)
			if err != nil {
				return err
			}
			defer h.Close()
			all, err := h.Secrets(c.Context())
			if err != nil {
				return err
			}
			a.printSecrets(all)
			return nil
		},
	}
}

func newSecretRm(a *app) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "rm [TARGET] NAME",
		Short: "remove a secret",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			on, name, err := a.secretName(args)
			if err != nil {
				return err
			}
			h, err := a.connect(c.Context(), on)
			if err != nil {
				return err
			}
			defer h.Close()
			if err := h.RemoveSecret(c.Context(), name, force); err != nil {
				return err
			}
			if a.json {
				a.ui.Value(secretReport{Entry: secret.Entry{Name: name}, Removed: true})
			} else {
				a.ui.Say("%s is removed", name)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also one that a running unit loads")
	return c
}

// errValue is a value on the command line. It is not repeated.
var errValue = hint.Errorf("leave it out: it is asked for, or read from stdin (`devbox secret set NAME < FILE`)",
	"a value is never given as an argument: your shell's history keeps it, and every user of this computer can see it in the list of processes")

// noTarget is a name before that of a secret which is no target's.
type noTarget struct{ error }

func (n noTarget) Unwrap() error { return n.error }

// secretName splits [TARGET] NAME. Errors do not repeat what comes last: it may
// be a value in the wrong place.
func (a *app) secretName(args []string) (target []string, name string, err error) {
	target, name = args[:len(args)-1], args[len(args)-1]
	p, err := a.project()
	if err != nil {
		return nil, "", err
	}
	if len(target) == 1 {
		if _, err := p.Target(target[0]); err != nil {
			return nil, "", badInput{noTarget{err}}
		}
	} else if p.HasTarget(name) {
		return nil, "", badInput{hint.Errorf("give the name of the secret after it", "%s is a target", name)}
	}
	if err := secret.ValidName(name); err != nil {
		return nil, "", badInput{err}
	}
	return target, name, nil
}

// secretReport is what --json prints of a secret.
type secretReport struct {
	secret.Entry
	Bytes   int  `json:"bytes,omitempty"`   // of the value that was just set
	Removed bool `json:"removed,omitempty"` // by rm
}

func (a *app) setSecret(ctx context.Context, on []string, name string, raw bool) error {
	// Before the value is asked for: what is wrong there is known first.
	h, err := a.connect(ctx, on)
	if err != nil {
		return err
	}
	defer h.Close()
	value, err := a.secretValue(ctx, fmt.Sprintf("value of %s for %s: ", name, h.Name()), raw)
	if err != nil {
		return err
	}
	defer clear(value)
	e, err := h.SetSecret(ctx, name, value)
	if err != nil {
		return err
	}
	if a.json {
		a.ui.Value(secretReport{Entry: e, Bytes: len(value)})
		return nil
	}
	a.ui.Say("%s is set on %s: %s", name, h.Name(), ui.Bytes(int64(len(value))))
	a.sayUse(h, e)
	return nil
}

// sayUse says what is still to do for a secret to be in use.
func (a *app) sayUse(h *deploy.Host, e secret.Entry) {
	switch {
	case len(e.Stale) > 0:
		a.ui.Say("%s until restarted: `%s`", hasOld(e.Stale), h.RestartCommand(e.Stale))
	case len(e.Units) == 0:
		a.ui.Say("nothing that runs there loads it; a service does by LoadCredentialEncrypted=%s", secret.Credential(h.App(), e.Name))
	}
}

func hasOld(units []string) string {
	if len(units) == 1 {
		return units[0] + " goes on without it"
	}
	return strings.Join(units, ", ") + " go on without it"
}

func (a *app) printSecrets(all []secret.Entry) {
	var rows [][]string
	for _, e := range all {
		if a.json {
			a.ui.Value(e)
			continue
		}
		set := "not set"
		if !e.Missing() {
			set = e.Set.Local().Format(time.DateTime)
		}
		note := ""
		if len(e.Stale) > 0 {
			note = "restart " + strings.Join(e.Stale, ", ")
		}
		rows = append(rows, []string{e.Name, set, strings.Join(e.Units, ", "), note})
	}
	switch {
	case a.json:
	case len(rows) == 0:
		a.ui.Say("there are no secrets there")
	default:
		a.ui.Table([]string{"secret", "set", "loaded by", ""}, rows)
	}
}
