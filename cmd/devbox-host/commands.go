package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"text/tabwriter"
	"time"

	"devbox/internal/protocol"
	"devbox/internal/release"
)

// parse takes flags from anywhere among the arguments and returns the rest.
func parse(fs *flag.FlagSet, args []string) ([]string, error) {
	fs.SetOutput(io.Discard)
	var rest []string
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			return nil, wrong("%w", err)
		}
		if args = fs.Args(); len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	return rest, nil
}

// apps are the one named in args, or all.
func apps(host *release.Host, args []string) ([]string, error) {
	switch len(args) {
	case 0:
		return host.Apps()
	case 1:
		return args, nil
	}
	return nil, wrong("at most one APP")
}

func status(ctx context.Context, host *release.Host, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("status", flag.ContinueOnError)
	asJSON := fs.Bool("json", false, "")
	rest, err := parse(fs, args)
	if err != nil {
		return err
	}
	names, err := apps(host, rest)
	if err != nil {
		return err
	}
	for _, name := range names {
		st, err := host.Status(ctx, name)
		if err != nil {
			return err
		}
		if *asJSON {
			err = json.NewEncoder(out).Encode(st)
		} else {
			err = printStatus(out, st)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func printStatus(out io.Writer, st protocol.Status) error {
	fmt.Fprint(out, st.App)
	if r := st.Current; r != nil {
		fmt.Fprintf(out, "  %s  image %.12s  since %s", r.ID, r.Digest, r.At.Local().Format("2006-01-02 15:04:05"))
		if r.By != "" {
			fmt.Fprintf(out, "  by %s", r.By)
		}
	} else {
		fmt.Fprint(out, "  nothing runs")
	}
	fmt.Fprintln(out)
	if st.Problem != "" {
		fmt.Fprintln(out, "problem:", st.Problem)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, u := range st.Units {
		since := ""
		if !u.Since.IsZero() {
			since = time.Since(u.Since).Round(time.Second).String()
		}
		fmt.Fprintf(w, "  %s\t%s (%s)\t%s\t%s\n", u.Unit, u.Active, u.Sub, since, u.Problem)
	}
	return w.Flush()
}

func recoverApps(ctx context.Context, host *release.Host, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("recover", flag.ContinueOnError)
	boot := fs.Bool("boot", false, "")
	rest, err := parse(fs, args)
	if err != nil {
		return err
	}
	names, err := apps(host, rest)
	if err != nil {
		return err
	}
	when := release.Online
	if *boot {
		when = release.AtBoot
	}
	var errs []error
	for _, name := range names {
		done, err := host.Recover(ctx, name, when)
		for _, text := range done {
			fmt.Fprintf(out, "%s: %s\n", name, text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func forget(ctx context.Context, host *release.Host, args []string) error {
	if len(args) != 1 {
		return wrong("forget takes one APP")
	}
	return host.Forget(ctx, args[0])
}

// cursor is journald's: name=hex pairs (systemd.journal-fields(7)).
var cursor = regexp.MustCompile(`^[a-z0-9=;]{1,256}$`)

// logs becomes journalctl, with arguments that show the app's units only.
func logs(args []string) error {
	fs := flag.NewFlagSet("logs", flag.ContinueOnError)
	follow := fs.Bool("f", false, "")
	lines := fs.Int("lines", 100, "")
	after := fs.String("cursor", "", "")
	asJSON := fs.Bool("json", false, "")
	rest, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(rest) < 1 || len(rest) > 2 {
		return wrong("logs takes an APP and at most one UNIT")
	}
	if *lines < 0 {
		return wrong("--lines is a number from 0")
	}
	argv, err := logArgs(rest, *follow, *lines, *after, *asJSON)
	if err != nil {
		return err
	}
	path, err := exec.LookPath("journalctl")
	if err != nil {
		return err
	}
	return syscall.Exec(path, append([]string{"journalctl"}, argv...), []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8"})
}

func logArgs(names []string, follow bool, lines int, after string, asJSON bool) ([]string, error) {
	argv := []string{"--no-pager", "--quiet", "--output=short-iso-precise"}
	if asJSON {
		argv[2] = "--output=json"
	}
	if follow {
		argv = append(argv, "--follow")
	}
	switch {
	case after == "":
		argv = append(argv, "--lines="+strconv.Itoa(lines))
	case cursor.MatchString(after):
		argv = append(argv, "--after-cursor="+after, "--lines=all")
	default:
		return nil, wrong("%q is no cursor of journald", after)
	}
	units := names[1:]
	if len(units) == 0 {
		var err error
		// No systemd is needed to see which unit files there are.
		if units, err = release.New(nil, "/").Units(names[0]); err != nil {
			return nil, err
		}
	}
	for _, unit := range units {
		if err := protocol.ValidUnit(names[0], unit); err != nil {
			return nil, err
		}
		argv = append(argv, "--unit="+unit)
	}
	return argv, nil
}
