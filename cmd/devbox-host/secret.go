package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"devbox/internal/release"
	"devbox/internal/secret"
)

// secrets are the commands secret set, list and rm. The value of a secret comes
// on stdin and goes to systemd-creds through a pipe: it is never in an argument
// list, an environment, a log or a file.
func secrets(ctx context.Context, root string, args []string, in io.Reader, out io.Writer) error {
	fs := flag.NewFlagSet("secret", flag.ContinueOnError)
	asJSON := fs.Bool("json", false, "")
	force := fs.Bool("force", false, "")
	rest, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return wrong("secret takes set, list or rm")
	}
	verb, rest := rest[0], rest[1:]
	switch want := map[string]int{"set": 2, "list": 1, "rm": 2}[verb]; {
	case want == 0:
		return wrong("secret takes set, list or rm")
	case len(rest) != want:
		return wrong("secret %s takes %s, and a value on stdin alone", verb, []string{1: "an APP", 2: "an APP and a NAME"}[want])
	case *force && verb != "rm":
		return wrong("--force is for secret rm")
	}
	store, err := openSecrets(root, rest[0])
	if err != nil {
		return err
	}
	switch verb {
	case "set":
		return setSecret(ctx, store, rest[0], rest[1], in, out, *asJSON)
	case "list":
		return listSecrets(store, out, *asJSON)
	}
	if err := store.Remove(ctx, rest[1], *force); err != nil {
		return err
	}
	return audit("removed", rest[0], rest[1])
}

// openSecrets opens the secrets of an app, if the host's policy lets the user
// who asks touch it.
func openSecrets(root, app string) (*secret.Store, error) {
	units, err := release.New(nil, root).Units(app) // files, no systemd
	if err != nil {
		return nil, err
	}
	return secret.Open(root, app, units)
}

func setSecret(ctx context.Context, store *secret.Store, app, name string, in io.Reader, out io.Writer, asJSON bool) error {
	if err := secret.ValidName(name); err != nil {
		return err // before the value is waited for
	}
	read := readValue
	if asJSON {
		read = readInput
	}
	value, err := read(in)
	if err != nil {
		return err
	}
	defer clear(value)
	if err := store.Set(ctx, name, value); err != nil {
		return err
	}
	logged := audit("set", app, name)
	e, err := store.Entry(name)
	switch {
	case err != nil:
	case asJSON:
		err = json.NewEncoder(out).Encode(e)
	default:
		_, err = fmt.Fprintf(out, "%s of %s is set: %d bytes%s\n", name, app, len(value), stale(e))
	}
	return errors.Join(err, logged)
}

func stale(e secret.Entry) string {
	if len(e.Stale) == 0 {
		return ""
	}
	return "; until it restarts, what runs has the value before: " + strings.Join(e.Stale, ", ")
}

// readValue takes all that comes, byte for byte.
func readValue(in io.Reader) ([]byte, error) {
	value, err := io.ReadAll(io.LimitReader(in, secret.MaxValue+1))
	if err != nil {
		return nil, fmt.Errorf("read the value: %w", err)
	}
	return value, secret.ValidValue(value)
}

// readInput takes a [secret.Input], which a connection that ends early cannot
// make pass for a shorter value.
func readInput(in io.Reader) ([]byte, error) {
	var v secret.Input
	if err := json.NewDecoder(io.LimitReader(in, 2*secret.MaxValue)).Decode(&v); err != nil {
		// What was read is not repeated: it may be the value.
		return nil, errors.New("the value did not come whole; nothing was changed")
	}
	return v.Value, secret.ValidValue(v.Value)
}

func listSecrets(store *secret.Store, out io.Writer, asJSON bool) error {
	all, err := store.List()
	if err != nil {
		return err
	}
	if asJSON {
		for _, e := range all {
			if err := json.NewEncoder(out).Encode(e); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, e := range all {
		set := "not set"
		if !e.Missing() {
			set = e.Set.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%s\t%s\t%s%s\n", e.Name, set, strings.Join(e.Units, ", "), stale(e))
	}
	return w.Flush()
}

// noteSecrets says which secrets of an app that was taken off are still there:
// what it stored may be of no use without them, and nobody could make them again.
func noteSecrets(root, app string, out io.Writer) error {
	store, err := openSecrets(root, app)
	if err != nil {
		return err
	}
	all, err := store.List()
	for _, e := range all {
		fmt.Fprintf(out, "its secret %s stays: devbox-host secret rm %s %s\n", e.Name, app, e.Name)
	}
	return err
}

// audit tells the host's journal what was done to a secret, and who did it.
func audit(what, app, name string) error {
	who := os.Getenv("SUDO_USER") // sudo sets it, whatever the caller's environment has
	if who == "" {
		who = "root"
	}
	log, err := syslog.New(syslog.LOG_NOTICE|syslog.LOG_AUTHPRIV, "devbox-host")
	if err == nil {
		defer log.Close()
		err = log.Notice(fmt.Sprintf("secret %s of %s was %s by %s", name, app, what, who))
	}
	if err != nil {
		return fmt.Errorf("the secret %s of %s was %s, but the journal could not be told: %w", name, app, what, err)
	}
	return nil
}
