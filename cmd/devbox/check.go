package main

import (
	"context"
	"runtime"

	"devbox/internal/deploy"
	"devbox/internal/image"

	"github.com/spf13/cobra"
)

func newCheck(a *app) *cobra.Command {
	var o buildOptions
	c := &cobra.Command{
		Use:   "check",
		Short: "check devbox.yaml, the cloud-config, the image and its units",
		Long: `check builds the app and looks for everything that portabled would ignore, refuse or
fail to start, without touching a machine. It exits with 2 if it finds a mistake.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return a.check(c.Context(), o)
		},
	}
	o.flags(c)
	return c
}

func (a *app) check(ctx context.Context, o buildOptions) error {
	p, err := a.project()
	if err != nil {
		return err
	}
	if err := p.CheckFiles(); err != nil {
		return badInput{err}
	}
	arch := o.arch
	if arch == "" {
		if arch, err = p.MachineArch(ctx); err != nil {
			arch = runtime.GOARCH
			a.ui.Say("note: no machine runs that could be asked, so this checks for %s; see --arch", arch)
		}
	}
	s := a.ui.Step("build and check for %s", arch)
	found, verified, err := p.Check(ctx, arch)
	if s.End(err, "") != nil {
		return err
	}
	if !verified {
		a.ui.Say("note: systemd-analyze is not installed here, so systemd's own verification of the units was left out")
	}
	serious := false
	for _, x := range found {
		serious = serious || !x.Warning
		if a.json {
			a.ui.Value(x)
		} else {
			a.ui.Result("%s", problemLine(x))
		}
	}
	if serious {
		return silent{badInput{deploy.Problems(found)}}
	}
	if !a.json {
		a.ui.Say("no mistakes found")
	}
	return nil
}

func problemLine(x image.Problem) string {
	kind := "error"
	if x.Warning {
		kind = "warning"
	}
	text := kind + ": " + x.String()
	if x.Cure != "" {
		text += "; " + x.Cure
	}
	return text
}
