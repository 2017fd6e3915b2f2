// Command bowl is a server of science bowls: rooms, buzzers, scores, one database file.
//
// Under systemd it takes its sockets, its data folder and its version from there; by itself it listens on -listen and
// keeps its data in ./data. "bowl check" reports on the data instead.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"bowl/internal/board"
	"bowl/internal/certs"
	"bowl/internal/rooms"
	"bowl/internal/serve"
	"bowl/internal/session"
	"bowl/internal/store"
	"bowl/internal/systemd"
	"bowl/internal/version"
	"bowl/internal/web"
)

// databaseFile is its name in the data folder.
const databaseFile = "bowl.db"

func main() {
	started := time.Now()
	log := newLog(os.Stderr, os.Getenv("JOURNAL_STREAM") != "")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the app at once
	var err error
	if len(os.Args) > 1 && os.Args[1] == "check" {
		err = check(ctx, os.Args[2:], os.Getenv, os.Stdout)
	} else {
		var o options
		if o, err = parse(os.Args[1:], os.Getenv); err == nil {
			err = run(ctx, o, log, started)
		}
	}
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		log.Error("bowl ends", "err", err)
		os.Exit(1)
	}
}

type options struct {
	listen   string // where to listen without socket activation
	share    string // folder with templates and static files
	data     string // folder of the database
	version  string
	greeting string
	certs    certs.Options // without a domain there is no TLS
	plain    bool          // visitors need no TLS even so, but on port 80
}

func parse(args []string, env func(string) string) (options, error) {
	o := options{version: version.Of(env("DEVBOX_VERSION")), greeting: cut(env("BOWL_GREETING"), 200)}
	o.plain = env("BOWL_PLAIN") == "open"
	o.certs = certs.Options{Domain: env("BOWL_DOMAIN"), Email: env("BOWL_ACME_EMAIL"), Directory: env("BOWL_ACME_DIRECTORY")}
	if dir := env("CREDENTIALS_DIRECTORY"); dir != "" {
		o.certs.Roots = filepath.Join(dir, "bowl.acme-ca")
	}
	flags := flag.NewFlagSet("bowl", flag.ContinueOnError)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8080", "`address` to listen on, unless systemd passes sockets")
	flags.StringVar(&o.share, "share", "share", "`folder` with templates and static files")
	flags.StringVar(&o.data, "data", dataHome(env), "`folder` of the database")
	if err := parseFlags(flags, args); err != nil {
		return options{}, err
	}
	return o, nil
}

// errUsage says that the command line was wrong; what is wrong has been said.
var errUsage = errors.New("wrong command line")

func parseFlags(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(flags.Output(), "unexpected argument %q\n", flags.Arg(0))
		return errUsage
	}
	return nil
}

// dataHome is the data folder that systemd made, else ./data.
func dataHome(env func(string) string) string {
	folder, _, _ := strings.Cut(env("STATE_DIRECTORY"), ":") // systemd.exec(5): a list if a unit has several
	if folder == "" {
		return "data"
	}
	return folder
}

// run serves until ctx ends, then stops without breaking a request.
func run(ctx context.Context, o options, log *slog.Logger, started time.Time) (err error) {
	sockets, err := systemd.Inherit()
	if err != nil {
		return err
	}
	assets, err := web.LoadAssets(os.DirFS(o.share))
	if err != nil {
		return fmt.Errorf("folder %s: %w", o.share, err)
	}
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	db, err := store.Open(ctx, filepath.Join(o.data, databaseFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	presses, err := board.New(ctx, db)
	if err != nil {
		return err
	}
	key, err := db.Secret(ctx, "session")
	if err != nil {
		return err
	}
	hub := rooms.New(db, log)
	listeners, err := sockets.Listen("http", o.listen)
	if err != nil {
		return err
	}

	ending := make(chan struct{})
	var handler http.Handler = web.New(web.Options{
		Board: presses, Rooms: hub, Sessions: session.New(key), Check: db.Check, Assets: assets,
		Version: o.version, Greeting: o.greeting, Log: log, Ending: ending,
	})
	if o.certs.Domain != "" {
		o.certs.Dir = filepath.Join(o.data, "certs")
		m, err := certs.New(o.certs)
		if err != nil {
			return err
		}
		handler = m.Handler(handler, o.plain)
		for i, l := range listeners {
			if a, ok := l.Addr().(*net.TCPAddr); ok && a.Port == 443 {
				listeners[i] = m.Listen(l)
			}
		}
	}
	server := serve.New(handler)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listeners...) }()
	go hub.Sweep(ctx)
	go systemd.Watchdog(ctx, db.Check, func(err error) { log.Error("watchdog", "err", err) })
	if err := systemd.Ready("version " + o.version); err != nil {
		log.Error("start", "err", err)
	}
	log.Info("serving", "version", o.version, "at", addresses(listeners), "ready_in", time.Since(started).Round(100*time.Microsecond))

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stopping := time.Now()
	if err := systemd.Stopping(); err != nil {
		log.Error("stop", "err", err)
	}
	close(ending)
	if cut := server.Stop(context.WithoutCancel(ctx), listeners...); cut > 0 {
		log.Warn("cut off clients that held the stop up", "connections", cut)
	}
	err = <-served
	log.Info("stopped", "version", o.version, "in", time.Since(stopping).Round(100*time.Microsecond))
	return err
}

func addresses(listeners []net.Listener) string {
	all := make([]string, len(listeners))
	for i, l := range listeners {
		all[i] = l.Addr().String()
	}
	return strings.Join(all, " ")
}

// newLog writes lines for people; the journal has its own time on each.
func newLog(to *os.File, journal bool) *slog.Logger {
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if journal && len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func cut(s string, runes int) string {
	if r := []rune(s); len(r) > runes {
		return string(r[:runes])
	}
	return s
}
