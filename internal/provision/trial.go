package provision

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"time"
)

//go:embed trial.sh
var trialScript string

// Trial is how long, and for whom, changes of what lets people in wait for a
// proof that it still does.
type Trial struct {
	// For is the time from the end of [Apply], and from a boot, in which [Keep]
	// must be called.
	For time.Duration
	// Users are whose authorized_keys are brought back too.
	Users []string
}

// args are those of apply.sh.
func (t *Trial) args() []string {
	if t == nil {
		return []string{"", "0", "", ""}
	}
	seconds := max(1, int(t.For/time.Second))
	return []string{strings.Join(base, " "), strconv.Itoa(seconds), trialScript, strings.Join(t.Users, " ")}
}

// UndoneError is a change that locked someone out and was undone.
type UndoneError struct {
	Why   string
	Lines []string // what was brought back
}

func (e *UndoneError) Error() string {
	if len(e.Lines) == 0 {
		return e.Why + "; undone: there was nothing to bring back"
	}
	return e.Why + "; undone:\n  " + strings.Join(e.Lines, "\n  ")
}

// Keep ends a trial well, and makes the record that the cloud-config is applied
// valid. It is false if the host had undone it by then.
func Keep(ctx context.Context, r Runner) (bool, error) {
	out, err := output(ctx, r, trialScript, nil, "keep")
	if err != nil {
		return false, fmt.Errorf("end the trial on the host: %w", err)
	}
	return string(bytes.TrimSpace(out)) == "kept", nil
}

// Undo ends a trial badly, now. It returns what was brought back, by it or by
// the host's timer before.
func Undo(ctx context.Context, r Runner) ([]string, error) {
	out, err := output(ctx, r, trialScript, nil, "undo")
	if err != nil {
		return nil, fmt.Errorf("undo on the host: %w", err)
	}
	return lastLines(string(out), 100), nil
}
