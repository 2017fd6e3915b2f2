package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode"
	"unicode/utf8"

	"devbox/internal/hint"
	"devbox/internal/secret"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// maxTyped is the longest value that may be typed, in bytes: terminals cut
// longer lines without a word, some at 1024.
const maxTyped = 1000

// secretValue asks for a value, or reads it from stdin.
func (a *app) secretValue(ctx context.Context, prompt string, raw bool) ([]byte, error) {
	if !term.IsTerminal(int(a.stdin.Fd())) {
		value, err := readAll(ctx, a.stdin, secret.MaxValue+1)
		if err == nil && !raw {
			value = trimLine(value)
		}
		if err == nil {
			err = secret.ValidValue(value)
		}
		return value, wrongValue(err)
	}
	value, err := a.readHidden(ctx, prompt)
	if err != nil {
		return nil, err
	}
	if dropTyped(a.stdin) || len(value) > maxTyped {
		return nil, badInput{hint.Errorf("put it in a file and give that: devbox secret set NAME < FILE",
			"a terminal gives one line of at most %d characters whole, and this was more; nothing was changed", maxTyped)}
	}
	return value, wrongValue(secret.ValidValue(value))
}

func wrongValue(err error) error {
	if err == nil {
		return nil
	}
	return badInput{fmt.Errorf("%w; nothing was changed", err)}
}

// dropTyped throws away what was typed or pasted behind the line that was read,
// and tells whether there was any: a shell would take it for a command, and
// keep it.
func dropTyped(in *os.File) bool {
	fd := int(in.Fd())
	if !readable(fd, 50) { // a paste comes in pieces
		return false
	}
	if state, err := unix.IoctlGetTermios(fd, termiosGet); err == nil {
		_ = unix.IoctlSetTermios(fd, termiosFlush, state) // it is their terminal; the refusal stands all the same
	}
	return true
}

// readable waits at most some ms until there is something to read.
func readable(fd, ms int) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, ms)
		if !errors.Is(err, unix.EINTR) { // a signal, such as the runtime's own, says nothing of it
			return err == nil && n > 0
		}
	}
}

// readAll reads to the end of in, at most limit bytes. A Ctrl-C does not wait
// for it.
func readAll(ctx context.Context, in io.Reader, limit int64) ([]byte, error) {
	type result struct {
		value []byte
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := io.ReadAll(io.LimitReader(in, limit))
		done <- result{value, err}
	}()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("read the value from stdin: %w", r.err)
		}
		return r.value, nil
	}
}

// trimLine takes the end of the line off a single line of text. What has more
// lines, such as a PEM file, or is not text, such as a random key, stays as it is.
func trimLine(value []byte) []byte {
	line, ok := bytes.CutSuffix(value, []byte("\n"))
	if !ok {
		return value
	}
	line, _ = bytes.CutSuffix(line, []byte("\r"))
	if !utf8.Valid(line) || bytes.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }) {
		return value
	}
	return line
}
