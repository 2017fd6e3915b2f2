// Command devbox-host is devbox's side on a host. The deploy user may run it as
// root, and nothing else, so it trusts nothing that it is given.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/release"
	"devbox/internal/secret"
)

// version is set when devbox builds this program.
var version = "dev"

const usage = `devbox-host is devbox's side on a host; it runs as root.

  devbox-host serve                      talk to a devbox client on stdin and stdout
  devbox-host status [--json] [APP]      what runs
  devbox-host data APP                   what the app's own check says of its data, as JSON
  devbox-host recover [--boot] [APP]     undo or finish what was interrupted, start what is down
  devbox-host forget APP                 take an app off; its own data stays
  devbox-host logs APP [UNIT] [-f] [--lines N] [--cursor C] [--json]
  devbox-host secret set APP NAME [--json]    its value on stdin, encrypted for the app's units
  devbox-host secret list APP [--json]
  devbox-host secret rm APP NAME [--force]
  devbox-host facts APP [--updates]      what this host is, and has of the app, as JSON
  devbox-host version
`

func main() {
	// A connection that drops must not end an activation half-way.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	if os.Geteuid() == 0 {
		release.Note{Text: fmt.Sprintf("%q: %v", noted(os.Args[1:]), err), Outcome: release.Refused}.Write()
	}
	if cure := hint.Of(err); cure != "" {
		fmt.Fprintln(os.Stderr, "hint:", cure)
	}
	os.Exit(exitCode(err))
}

// noted are the arguments that the host's journal may have: a secret that was
// given as one, by mistake, is not to stay there.
func noted(args []string) []string {
	if len(args) > 2 && args[0] == "secret" {
		return append(slices.Clone(args[:2]), "…")
	}
	return args
}

// What this host's policy refuses, and what does not fit the secrets that are
// there; package deploy knows them.
const (
	exitPolicy  = 3
	exitRefused = 4
)

func exitCode(err error) int {
	var refused *release.CodedError
	switch {
	case errors.Is(err, errUsage):
		return 2
	case errors.As(err, &refused) && refused.Code == protocol.CodePolicy:
		return exitPolicy
	case errors.As(err, new(*secret.RefusedError)):
		return exitRefused
	}
	return 1
}

var errUsage = errors.New("wrong arguments")

func wrong(format string, args ...any) error {
	return hint.Wrap(fmt.Errorf("%w: %w", errUsage, fmt.Errorf(format, args...)), "run `devbox-host help`")
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return wrong("no command")
	}
	command, args := args[0], args[1:]
	switch command {
	case "help", "-h", "--help":
		_, err := io.WriteString(out, usage)
		return err
	case "version", "--version":
		_, err := fmt.Fprintln(out, version)
		return err
	case "serve", "status", "data", "recover", "forget", "logs", "secret", "facts":
	default:
		return wrong("there is no command %q", command)
	}
	if os.Geteuid() != 0 {
		return hint.Errorf("run it with sudo", "devbox-host runs as root")
	}
	if command == "logs" {
		return logs(args)
	}
	if command == "secret" {
		return secrets(ctx, "/", args, in, out)
	}
	if command == "facts" {
		return reportFacts(ctx, args, out)
	}
	systemd, err := release.Connect()
	if err != nil {
		return err
	}
	defer systemd.Close()
	host := release.New(systemd, "/")
	switch command {
	case "serve":
		if len(args) > 0 {
			return wrong("serve takes no arguments")
		}
		return host.Serve(ctx, in, out, version)
	case "status":
		return status(ctx, host, args, out)
	case "data":
		return data(ctx, host, args, out)
	case "recover":
		return recoverApps(ctx, host, args, out)
	default:
		return forget(ctx, host, args, out)
	}
}
