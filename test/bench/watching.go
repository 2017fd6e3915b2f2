package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	"devbox/internal/deploy"
)

// watching is a running `devbox watch --json`.
type watching struct {
	cmd    *exec.Cmd
	began  time.Time
	events chan deploy.WatchEvent // closed when it ends
	errors *bytes.Buffer
}

func (b *bench) watch(ctx context.Context, dir string) (*watching, error) {
	// It outlives ctx: stop ends it in order.
	w := &watching{cmd: b.command(context.WithoutCancel(ctx), dir, b.devbox, "watch", "--json", "--quiet"),
		events: make(chan deploy.WatchEvent, 100), errors: &bytes.Buffer{}}
	w.cmd.Stderr = w.errors
	stdin, err := w.cmd.StdinPipe() // stays open: the end of the input would not be a person's
	if err != nil {
		return nil, err
	}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.began = time.Now()
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(w.events)
		defer stdin.Close()
		in := bufio.NewScanner(stdout)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			var e deploy.WatchEvent
			if json.Unmarshal(in.Bytes(), &e) == nil {
				w.events <- e
			}
		}
		_, _ = io.Copy(io.Discard, stdout)
	}()
	return w, nil
}

// next waits for an event that take accepts.
func (w *watching) next(ctx context.Context, take func(deploy.WatchEvent) bool) (deploy.WatchEvent, error) {
	timeout := time.After(answerTime)
	for {
		select {
		case e, ok := <-w.events:
			if !ok {
				return e, fmt.Errorf("devbox watch ended: %s", w.errors)
			}
			if take(e) {
				return e, nil
			}
		case <-ctx.Done():
			return deploy.WatchEvent{}, context.Cause(ctx)
		case <-timeout:
			return deploy.WatchEvent{}, fmt.Errorf("devbox watch told nothing for %s", answerTime)
		}
	}
}

// cycle waits for the end of a cycle that went well.
func (w *watching) cycle(ctx context.Context) (*deploy.Cycle, error) {
	e, err := w.next(ctx, func(e deploy.WatchEvent) bool { return e.Cycle != nil })
	if err != nil {
		return nil, err
	}
	if e.Cycle.Error != "" {
		return nil, fmt.Errorf("devbox watch: %s: %s", e.Cycle.Outcome, e.Cycle.Error)
	}
	return e.Cycle, nil
}

// stop ends it as Ctrl-C does and waits for that.
func (w *watching) stop() {
	_ = w.cmd.Process.Signal(syscall.SIGINT)
	kill := time.AfterFunc(30*time.Second, func() { _ = syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL) })
	defer kill.Stop()
	for range w.events {
	}
	_ = w.cmd.Wait()
}
