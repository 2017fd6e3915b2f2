package main

import (
	"runtime"

	"devbox/internal/protocol"

	"github.com/spf13/cobra"
)

// version is set by the Makefile from git.
var version = "dev"

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print devbox's version",
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				a.ui.Value(struct {
					Version  string `json:"version"`
					Go       string `json:"go"`
					Platform string `json:"platform"`
					Protocol int    `json:"protocol"`
				}{version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, protocol.Version})
				return nil
			}
			a.ui.Result("devbox %s (%s, %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
