package main

import (
	"devbox/internal/config"

	"github.com/spf13/cobra"
)

func newSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "print the JSON schema of devbox.yaml",
		Long: `schema prints the JSON schema of devbox.yaml, for editors: save it and name it in
the first line of devbox.yaml as "# yaml-language-server: $schema=FILE".`,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.stdout.Write(config.Schema())
			return err
		},
	}
}
