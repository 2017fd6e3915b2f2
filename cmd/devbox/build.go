package main

import (
	"context"
	"fmt"

	"devbox/internal/protocol"
	"devbox/internal/ui"

	"github.com/spf13/cobra"
)

type buildOptions struct {
	arch string
}

func (o *buildOptions) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.arch, "arch", "", "the host's architecture, amd64 or arm64 (default: asked of the running machine)")
}

func (o *buildOptions) check() error {
	switch o.arch {
	case "", "amd64", "arm64":
		return nil
	}
	return badInput{fmt.Errorf("--arch %s: give amd64 or arm64", o.arch)}
}

func newBuild(a *app) *cobra.Command {
	var o buildOptions
	c := &cobra.Command{
		Use:   "build",
		Short: "build the app and pack its image, without shipping it",
		Long: `build runs the build command of devbox.yaml, stages and checks the image and packs
it. The same inputs give the same bytes; the version is taken from them.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return a.build(c.Context(), o)
		},
	}
	o.flags(c)
	return c
}

func (a *app) build(ctx context.Context, o buildOptions) error {
	p, err := a.project()
	if err != nil {
		return err
	}
	arch := o.arch
	if arch == "" {
		if arch, err = p.MachineArch(ctx); err != nil {
			return err
		}
	}
	s := a.ui.Step("build and pack for %s", arch)
	var phases []protocol.Phase
	art, err := p.Build(ctx, arch, func(x protocol.Phase) { phases = append(phases, x) })
	if s.End(err, "") != nil {
		return err
	}
	defer art.Close()
	for _, w := range append(art.Warnings, p.Verify(ctx, art)...) {
		a.ui.Say("warning: %s", w)
	}
	if a.json {
		a.ui.Value(struct {
			Image   string           `json:"image"`
			Version string           `json:"version"`
			Digest  string           `json:"digest"`
			Arch    string           `json:"arch"`
			Size    int64            `json:"size"`
			Phases  []protocol.Phase `json:"phases"`
		}{art.Path, art.Version(), art.Digest.String(), arch, art.Size, phases})
		return nil
	}
	a.ui.Say("  %s", ui.Waterfall(spans(phases), 24))
	a.ui.Result("%s  %s  %s", art.Version(), ui.Bytes(art.Size), art.Path)
	return nil
}

func spans(phases []protocol.Phase) []ui.Span {
	all := make([]ui.Span, len(phases))
	for i, p := range phases {
		all[i] = ui.Span{Name: p.Name, Took: p.Took}
	}
	return all
}
