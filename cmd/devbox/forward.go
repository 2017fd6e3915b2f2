package main

import (
	"devbox/internal/deploy"
	"devbox/internal/forward"

	"github.com/spf13/cobra"
)

// newForward is the body of the process that `devbox up` leaves behind to keep
// the machine's ports open; nobody types it.
func newForward(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    deploy.ForwardCommand,
		Short:  "keep the machine's ports open",
		Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return forward.Child(c.Context(), a.stdin, a.stdout, a.stderr)
		},
	}
}
