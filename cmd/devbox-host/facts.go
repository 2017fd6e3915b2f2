package main

import (
	"context"
	"encoding/json"
	"flag"
	"io"

	"devbox/internal/facts"
	"devbox/internal/release"
)

// reportFacts prints what this host is and what it has of one app, as JSON.
// Whoever may touch the app may read it.
func reportFacts(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("facts", flag.ContinueOnError)
	updates := fs.Bool("updates", false, "")
	rest, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return wrong("facts takes one APP")
	}
	app := rest[0]
	host := release.New(nil, "/") // files, no systemd
	history, err := host.Releases(ctx, app)
	if err != nil {
		return err
	}
	apps, err := host.Apps()
	if err != nil {
		return err
	}
	units, err := host.Units(app)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(facts.Collect(ctx, facts.Options{App: app, Apps: apps, Units: units, History: history, Updates: *updates}))
}
