package remote

import (
	"context"
	"errors"
	"fmt"
	"time"

	"devbox/internal/hint"
)

// Wait says how long DialWait tries.
type Wait struct {
	For       time.Duration // whole deadline; 0: that of the context alone
	RetryAuth bool          // the host may not have the key or the user yet
	// Report hears of each try that did not work; may be nil.
	Report func(tries int, elapsed time.Duration, err error)
}

// DialWait dials until it gets in, as for a machine that boots. What cannot
// change by waiting ends it at once. The pace is gentle: sshd counts each
// connection that leaves before it has authenticated against the address.
func DialWait(ctx context.Context, e Endpoint, o Options, w Wait) (*Conn, error) {
	begin := time.Now()
	if w.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.For)
		defer cancel()
	}
	var last error
	for tries := 1; ; tries++ {
		conn, err := Dial(ctx, e, o)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if ctx.Err() == nil && !Retryable(err) && !(w.RetryAuth && errors.Is(err, ErrAuth)) {
			return nil, err
		}
		if ctx.Err() == nil {
			if w.Report != nil {
				w.Report(tries, time.Since(begin), err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause(err, tries)):
			}
		}
		if ctx.Err() != nil {
			return nil, hint.Wrap(fmt.Errorf("wait for ssh on %s: %w after %v and %d tries, the last one: %w",
				e.Host, context.Cause(ctx), time.Since(begin).Round(100*time.Millisecond), tries, last), hint.Of(last))
		}
	}
}

// pause is how long to wait after a try. Nothing counts refused connections;
// a sshd that was reached does, by default 1 s for each that did not
// authenticate and 5 s for each that failed to (PerSourcePenalties).
func pause(err error, tries int) time.Duration {
	switch {
	case errors.Is(err, ErrAuth):
		return 6 * time.Second
	case errors.Is(err, ErrRefused), errors.Is(err, ErrUnreachable):
		return min(200*time.Millisecond<<min(tries-1, 4), 2*time.Second)
	}
	return min(time.Second<<min(tries-1, 3), 5*time.Second)
}
