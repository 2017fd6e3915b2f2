package provision

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
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
	// ID tells it from those of others, on this computer and elsewhere.
	ID string
	// For is the time from the end of [Apply], and from a boot, in which [Keep]
	// must be called.
	For time.Duration
	// Users are whose authorized_keys and passwords are brought back too.
	Users []string
}

// args are those of apply.sh.
func (t *Trial) args() []string {
	if t == nil {
		return []string{"", "0", "", "", ""}
	}
	seconds := max(1, int(t.For/time.Second))
	return []string{strings.Join(base, " "), strconv.Itoa(seconds), trialScript, t.ID, strings.Join(t.Users, " ")}
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

// Keep ends the trial of that ID well, and makes the record that the
// cloud-config is applied valid. It is false if the host had undone it by then.
func Keep(ctx context.Context, r Runner, id string) (bool, error) {
	out, err := output(ctx, r, trialScript, nil, "keep", id)
	if err != nil {
		return false, fmt.Errorf("end the trial on the host: %w", err)
	}
	return string(bytes.TrimSpace(out)) == "kept", nil
}

var (
	// ErrAtWork is a trial that cannot be ended yet: what is applied on the host
	// has not ended.
	ErrAtWork = errors.New("what was begun there is still at work")
	// ErrPartly is a trial that is undone, but for what the host could not do.
	ErrPartly = errors.New("not all could be brought back, and the host tries it again every few seconds")
)

// Exit codes of undo.
const (
	undonePartly = 74
	undoneNot    = 75
)

// Undo ends the trial of that ID badly, now. It returns what was brought back,
// by it or by the host's timer before. Errors: [ErrAtWork], [ErrPartly].
func Undo(ctx context.Context, r Runner, id string) ([]string, error) {
	var out, errs bytes.Buffer
	exit, err := r.Run(ctx, Command{Script: trialScript, Args: []string{"undo", id}, Stdout: &out, Stderr: &errs})
	lines := lastLines(out.String(), 100)
	switch {
	case err != nil:
	case exit == undoneNot:
		err = ErrAtWork
	case exit == undonePartly:
		err = fmt.Errorf("%w:\n  %s", ErrPartly, strings.Join(lines, "\n  "))
	default:
		err = exitError(exit, errs.String())
	}
	if err != nil {
		return nil, fmt.Errorf("undo on the host: %w", err)
	}
	return lines, nil
}
