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
	"strings"
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

// data prints what the running release's own check says of the app's data.
func data(ctx context.Context, host *release.Host, args []string, out io.Writer) error {
	if len(args) != 1 {
		return wrong("data takes one APP")
	}
	d, err := host.Data(ctx, args[0])
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(d)
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

func forget(ctx context.Context, host *release.Host, args []string, out io.Writer) error {
	if len(args) != 1 {
		return wrong("forget takes one APP")
	}
	if err := host.Forget(ctx, args[0]); err != nil {
		return err
	}
	return noteSecrets("/", args[0], out)
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
	q := logQuery{app: rest[0], follow: *follow, lines: *lines, after: *after, json: *asJSON}
	host := release.New(nil, "/") // files, no systemd
	if len(rest) == 2 {
		q.unit, err = rest[1], host.OwnUnit(q.app, rest[1])
	} else {
		q.attached, err = host.Units(q.app)
	}
	if err != nil {
		return err
	}
	argv, err := q.args()
	if err != nil {
		return err
	}
	path, err := exec.LookPath("journalctl")
	if err != nil {
		return err
	}
	return syscall.Exec(path, append([]string{"journalctl"}, argv...), []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8"})
}

// logQuery is which entries of the journal to show.
type logQuery struct {
	app      string
	unit     string   // "" is all of the app's
	attached []string // the app's units on this host, where unit is ""
	follow   bool
	lines    int
	after    string // a cursor: from there on, instead of the last lines
	json     bool
}

// args are journalctl's.
func (q logQuery) args() ([]string, error) {
	argv := []string{"--no-pager", "--quiet", "--output=short-iso-precise"}
	if q.json {
		argv[2] = "--output=json"
	}
	if q.follow {
		argv = append(argv, "--follow")
	}
	switch {
	case q.after == "":
		argv = append(argv, "--lines="+strconv.Itoa(q.lines))
	case cursor.MatchString(q.after):
		argv = append(argv, "--after-cursor="+q.after, "--lines=all")
	default:
		return nil, wrong("%q is no cursor of journald", q.after)
	}
	if q.unit != "" {
		if err := protocol.ValidUnit(q.app, q.unit); err != nil {
			return nil, err
		}
		return append(argv, "--unit="+q.unit), nil
	}
	return q.all(argv)
}

// all adds what matches every unit of the app. A list of names, and a pattern
// too, is what there is when journalctl starts. The field that portabled has
// added to all that a service of the image logs, and that systemd logs of it,
// also finds a service that comes while one follows. Other kinds of units have
// no such field.
func (q logQuery) all(argv []string) ([]string, error) {
	if err := protocol.ValidApp(q.app); err != nil {
		return nil, err
	}
	argv = append(argv, "PORTABLE="+q.app+".raw")
	for _, unit := range q.attached {
		if !strings.HasSuffix(unit, ".service") {
			argv = append(argv, "+", "UNIT="+unit, "_PID=1")
		}
	}
	return argv, nil
}
