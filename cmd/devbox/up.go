package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
	"devbox/internal/ui"

	"github.com/spf13/cobra"
)

func newUp(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "up",
		Short: "bring the machine up, with the app running on it",
		Long: `up makes the machine if there is none, boots it, sets it up by the cloud-config, builds
the app and makes it the running release. It asks what is there and does only what is
missing, so it may be run at any time, also after anything went wrong.`,
		RunE: func(c *cobra.Command, _ []string) error {
			h, err := a.up(c.Context())
			if h != nil {
				h.Close()
			}
			return err
		},
	}
}

// up leaves the host connected for the caller, who closes it, also when the
// release was not kept.
func (a *app) up(ctx context.Context) (*deploy.Host, error) {
	p, err := a.project()
	if err != nil {
		return nil, err
	}
	if err := p.CheckFiles(); err != nil {
		return nil, badInput{err}
	}
	h, err := p.Up(ctx, a.ui)
	if err != nil {
		return nil, err
	}
	c, err := p.Release(ctx, a.ui, h)
	switch {
	case a.json:
		a.ui.Value(c)
	case err == nil:
		a.printRelease(p, c)
	}
	return h, err
}

func (a *app) printRelease(p *deploy.Project, c *deploy.Cycle) {
	switch c.Outcome {
	case protocol.Unchanged:
		a.ui.Say("%s (%s) runs already", c.Serving, c.Version)
	default:
		a.ui.Say("%s (%s) runs; %s sent", c.Release, c.Version, ui.Bytes(c.Wire))
		a.ui.Say("  %s", ui.Waterfall(spans(c.Phases), 24))
	}
	for _, port := range p.Config.Machine.Ports {
		a.ui.Result("%s", localAddress(port.Client, port.Guest))
	}
}

// localAddress is where a port of the machine answers here. What is on 443 speaks TLS.
func localAddress(client, guest int) string {
	if guest == 443 {
		return fmt.Sprintf("https://127.0.0.1:%d", client)
	}
	return fmt.Sprintf("http://127.0.0.1:%d", client)
}

func newDown(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "stop the machine; its data stays",
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := a.project()
			if err != nil {
				return err
			}
			s := a.ui.Step("stop the machine")
			was, err := p.Down(c.Context(), a.ui)
			if s.End(err, unless(was, "it did not run")) != nil {
				return err
			}
			a.done("stopped", was)
			return nil
		},
	}
}

type destroyOptions struct {
	yes bool
}

func newDestroy(a *app) *cobra.Command {
	var o destroyOptions
	c := &cobra.Command{
		Use:   "destroy",
		Short: "remove the machine and all data on it",
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := a.project()
			if err != nil {
				return err
			}
			if !o.yes {
				if err := a.confirm(c.Context(), fmt.Sprintf("remove the machine of %s, %s, and all data on it?", p.Config.Name, p.Config.Dir), "--yes"); err != nil {
					return err
				}
			}
			s := a.ui.Step("remove the machine")
			was, err := p.Destroy(c.Context(), a.ui)
			if err == nil {
				var left bool
				left, err = p.DestroyRehearsal(c.Context(), a.ui)
				was = was || left
			}
			if s.End(err, unless(was, "there was none")) != nil {
				return err
			}
			a.done("removed", was)
			return nil
		},
	}
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	return c
}

// unless is text where nothing had to be done.
func unless(changed bool, text string) string {
	if changed {
		return ""
	}
	return text
}

// done reports what became of the machine; changed is false if it was so before.
func (a *app) done(state string, changed bool) {
	if a.json {
		a.ui.Value(struct {
			Machine string `json:"machine"`
			Changed bool   `json:"changed"`
		}{state, changed})
	}
}

// confirm asks a person; without a terminal it refuses and names the flag.
func (a *app) confirm(ctx context.Context, question, flag string) error {
	if !a.canAsk() {
		return badInput{fmt.Errorf("%s give %s to say so without a terminal", question, flag)}
	}
	defer a.ui.Ask()()
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	return readYes(ctx, a.stdin)
}

var errNotConfirmed = errors.New("not confirmed; nothing was changed")

func readYes(ctx context.Context, in io.Reader) error {
	answer, err := readLine(ctx, in)
	if err != nil {
		return err
	}
	if strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes") {
		return nil
	}
	return errNotConfirmed
}

// readLine reads one line, byte by byte: what comes after it is for others. A
// Ctrl-C does not wait for it.
func readLine(ctx context.Context, in io.Reader) (string, error) {
	answered := make(chan string, 1)
	go func() {
		var line []byte
		one := make([]byte, 1)
		for {
			n, err := in.Read(one)
			if n == 0 && err != nil || n == 1 && one[0] == '\n' {
				break
			}
			line = append(line, one[:n]...)
		}
		answered <- strings.TrimSpace(string(line))
	}()
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case line := <-answered:
		return line, nil
	}
}
