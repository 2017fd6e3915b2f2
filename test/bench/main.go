// Command bench measures devbox on a machine of its own and writes what it
// found, with a chart, next to the targets. It is a benchmark, not a test: a
// missed target is written down and the exit code stays 0.
//
// It needs what `devbox up` with driver nspawn needs, that is root, and takes
// some minutes. Everything that it makes is removed again, also after Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type options struct {
	out     string
	devbox  string
	source  string
	rounds  int
	article int
	files   int
	idle    time.Duration
	only    string
}

func main() {
	var o options
	flag.StringVar(&o.out, "out", "bench/REPORT.md", "report to write; the chart goes beside it")
	flag.StringVar(&o.devbox, "devbox", "bin/devbox", "the devbox to measure")
	flag.StringVar(&o.source, "source", "examples/bowl", "the app to measure it with")
	flag.IntVar(&o.rounds, "rounds", 20, "samples of each figure")
	flag.IntVar(&o.article, "article-rounds", 5, "samples of the article's flow, which is slow")
	flag.IntVar(&o.files, "files", 100_000, "files of the big tree, 1 % of them watched")
	flag.DurationVar(&o.idle, "idle", time.Minute, "how long the big tree is watched without a change")
	flag.StringVar(&o.only, "only", "", "measure one part: saves, commands, air, article, deploys, buzzes or tree")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run measures everything on one machine and writes the report.
func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the machine is a systemd-nspawn container, which needs root")
	}
	r := report{options: o, Facts: facts(), Began: time.Now()}
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		say("clean up")
		err = errors.Join(err, b.close())
	}()

	if err := b.up(ctx); err != nil {
		return err
	}
	var failed error
	for _, part := range []struct {
		key, name string
		measure   func(context.Context, *report) error
	}{
		{"saves", "saves, and systemd by hand", b.measureSaves},
		{"commands", "the commands", b.measureCommands},
		{"air", "air", b.measureAir},
		{"article", "the article's flow", b.measureArticle},
		{"deploys", "deploys over a slow link", b.measureDeploys},
		{"buzzes", "buzzes", b.measureBuzzes},
		{"tree", "the big tree", b.measureTree},
	} {
		if o.only != "" && o.only != part.key {
			continue
		}
		say("measure %s", part.name)
		begin := time.Now()
		if err := part.measure(ctx, &r); err != nil {
			err = fmt.Errorf("measure %s: %w", part.name, err)
			if ctx.Err() != nil {
				return err
			}
			// What the others find is worth having.
			say("error: %v", err)
			failed = errors.Join(failed, fmt.Errorf("%s could not be measured", part.name))
			r.Failed = append(r.Failed, part.name)
		}
		say("  took %s", time.Since(begin).Round(time.Second))
	}
	r.LoadAfter, r.Took = loadAverage(), time.Since(r.Began)
	return errors.Join(failed, r.write(o.out))
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// absolute makes the paths independent of the working folder.
func (o options) absolute() (options, error) {
	for _, p := range []*string{&o.out, &o.devbox, &o.source} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return o, err
		}
		*p = abs
	}
	return o, nil
}
