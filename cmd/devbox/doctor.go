package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"devbox/internal/deploy"
	"devbox/internal/hint"
	"devbox/internal/vm"

	"github.com/spf13/cobra"
)

type doctorOptions struct {
	fix    bool
	driver string
}

func newDoctor(a *app) *cobra.Command {
	var o doctorOptions
	c := &cobra.Command{
		Use:   "doctor",
		Short: "find what devbox lacks on this computer, and install it",
		Long: `doctor checks what devbox needs on this computer. With --fix it installs what is
missing: Debian packages (as root, or through sudo), and limactl, which it builds from its
Go module. It exits with 0 only if nothing is missing.`,
		RunE: func(c *cobra.Command, _ []string) error {
			switch o.driver {
			case "", vm.DriverAuto, vm.DriverLima, vm.DriverNspawn:
			default:
				return badInput{fmt.Errorf("--driver %s: give auto, lima or nspawn", o.driver)}
			}
			return a.doctor(c.Context(), o)
		},
	}
	c.Flags().BoolVar(&o.fix, "fix", false, "install what is missing")
	c.Flags().StringVar(&o.driver, "driver", "", "check for this kind of machine: auto, lima or nspawn (default: what devbox.yaml says)")
	return c
}

// finding is one thing that doctor looked at.
type finding struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	Says string `json:"says,omitempty"`
	Cure string `json:"cure,omitempty"`
}

func check(what string, err error, fine string) finding {
	if err != nil {
		return finding{What: what, Says: err.Error(), Cure: hint.Of(err)}
	}
	return finding{What: what, OK: true, Says: fine}
}

var errUnwell = errors.New("something is missing")

func (a *app) doctor(ctx context.Context, o doctorOptions) error {
	paths, err := userPaths()
	if err != nil {
		return err
	}
	var findings []finding
	p, err := a.project()
	switch {
	case err == nil:
		findings = append(findings, check("devbox.yaml", p.CheckFiles(), p.Config.Dir))
	default:
		// Not every look at a computer is from within a project.
		findings = append(findings, check("devbox.yaml", err, ""))
		p = deploy.NoProject(paths)
	}
	if o.driver == "" {
		o.driver = p.Config.Machine.Driver
	}
	if o.fix {
		if err := a.fix(ctx, p, o.driver); err != nil {
			return err
		}
	}
	findings = append(findings, check("devbox-host", p.CheckHostPrograms(), "for amd64 and arm64"))
	findings = append(findings, check("programs", vm.CheckInstalled(p.Needs()), toolNames(p.Needs())))
	driver, why, err := vm.Pick(o.driver, vm.Gather(ctx, p.Spec()))
	findings = append(findings, check("machines", err, driver+": "+why))
	findings = append(findings, check("inotify", deploy.CheckWatches(), "enough watches"))

	well := true
	for _, f := range findings {
		well = well && f.OK
		a.printFinding(f)
	}
	if !well {
		return silent{errUnwell}
	}
	return nil
}

func toolNames(needs []vm.Need) string {
	names := make([]string, len(needs))
	for i, n := range needs {
		names[i] = n.Tool
	}
	return strings.Join(names, ", ")
}

func (a *app) printFinding(f finding) {
	if a.json {
		a.ui.Value(f)
		return
	}
	mark := "✓"
	if !f.OK {
		mark = "✗"
	}
	says := strings.ReplaceAll(f.Says, "\n", fmt.Sprintf("\n  %-12s ", ""))
	a.ui.Result("%s %-12s %s", mark, f.What, says)
	if f.Cure != "" {
		a.ui.Result("  %-12s hint: %s", "", f.Cure)
	}
}

// fix installs what the project needs, and the driver that will be used here:
// Lima for a user, nspawn for root.
func (a *app) fix(ctx context.Context, p *deploy.Project, driver string) error {
	if driver == vm.DriverAuto || driver == "" {
		driver = vm.DriverLima
		if os.Geteuid() == 0 {
			driver = vm.DriverNspawn
		}
	}
	s := a.ui.Step("install what %s needs", driver)
	return s.End(vm.Prepare(ctx, driver, p.Spec(), p.Needs(), s.Progress()), "")
}
