// Command devbox gives one person with one server the whole way from a saved
// file to production: a machine at home like the one outside, and every save
// built, shipped and running on it.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"devbox/internal/hint"
)

func main() {
	os.Exit(run())
}

// run is main with an exit code. The first Ctrl-C ends the context, so that
// every command stops in order; the second one kills devbox at once.
func run() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		cancel(errInterrupted)
		signal.Stop(signals)
	}()

	a := newApp(os.Stdin, os.Stdout, os.Stderr)
	err := newRoot(a).ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	err = interruption(ctx, err, a.again)
	if !errors.As(err, new(silent)) {
		a.ui.Error(err)
	}
	return exitCode(err)
}

// interruption is err, or where Ctrl-C is all that was wrong, that alone: what
// was under way at the time is not to blame, and its cure none. A release that
// was waited for has an error of its own.
func interruption(ctx context.Context, err error, again string) error {
	if !errors.Is(context.Cause(ctx), errInterrupted) || !errors.Is(err, context.Canceled) && !errors.Is(err, errInterrupted) {
		return err
	}
	return hint.Wrap(errInterrupted, again)
}
