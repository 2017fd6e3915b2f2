package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"

	"bowl/internal/store"
)

// check is the command "bowl check": it reports on the database to out, in JSON, and fails where something is wrong with
// it. It changes nothing, so it may be asked of a database that is in use and of a copy.
func check(ctx context.Context, args []string, env func(string) string, out io.Writer) error {
	flags := flag.NewFlagSet("bowl check", flag.ContinueOnError)
	data := flags.String("data", dataHome(env), "`folder` of the database")
	if err := parseFlags(flags, args); err != nil {
		return err
	}
	report, err := store.Inspect(ctx, filepath.Join(*data, databaseFile))
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(report); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if !report.OK() {
		return errors.New("something is wrong with the database, see the report")
	}
	return nil
}
