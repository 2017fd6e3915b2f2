// Package provision brings a running Debian host to what a cloud-config says,
// by cloud-init's own modules, and keeps devbox-host on it up to date.
//
// The same code serves a dev machine and a rented server: neither needs the
// cloud-config to be there at its first boot.
package provision

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"devbox/internal/hint"
)

// Version is part of the record on the host. It is raised when the same
// cloud-config must be applied again because devbox applies it differently.
const Version = 1

// limit bounds one Apply. Installing packages over a slow line takes minutes.
const limit = 30 * time.Minute

//go:embed apply.sh
var applyScript string

// Options say how to apply a cloud-config.
type Options struct {
	// Name is the file's name for messages: cloud-init/server.yaml.
	Name string
	// Force applies a file that the record says is applied.
	Force bool
	// Trial, if set, is for a server: what devbox needs and a bare Debian lacks
	// is installed, and what lets people in is undone by the host itself unless
	// [Keep] is called in time.
	Trial *Trial
	// OnStep, if set, is called when a step begins and when it has ended.
	OnStep func(Step)
}

// Waiting is the name of what is no step: another devbox sets the host up, or
// what it changed there is on trial.
const Waiting = "waiting for another devbox there"

// ErrBusy is a host that was waited for in vain. Nothing was changed there.
var ErrBusy = errors.New("another devbox is setting this host up, for 10 minutes now")

// Step is one part of applying a cloud-config.
type Step struct {
	Name string `json:"name"` // prepare, boot, schema, trial, or the name of cloud-init's module; [Waiting] is never in a Report
	// Skipped says that the host was there already, so nothing was run.
	Skipped  bool          `json:"skipped,omitempty"`
	Ended    bool          `json:"-"`    // false while it runs
	Took     time.Duration `json:"took"` // as seen from here
	Warnings []string      `json:"warnings,omitempty"`
}

// Report says what an Apply did.
type Report struct {
	// Changed is false if the host had been brought to this file before:
	// then nothing was run.
	Changed bool   `json:"changed"`
	Hash    string `json:"hash"` // SHA-256 of the file, hex
	Steps   []Step `json:"steps,omitempty"`
}

// StepError is a step that failed.
type StepError struct {
	Step    string
	Message string // cloud-init's own, or the failed command and what it said
}

func (e *StepError) Error() string { return e.Step + ": " + e.Message }

// Apply brings the host to the cloud-config. A file that was applied by this
// Version costs one round trip and changes nothing. Before anything is changed
// the file must pass [Check] here and cloud-init's schema on the host; from
// then on a failure leaves the host in between, and the next Apply starts over.
//
// Errors: [Problems] of the file, [*StepError] of the host, [ErrBusy], all with
// a cure.
func Apply(ctx context.Context, r Runner, cloudConfig []byte, o Options) (*Report, error) {
	if o.Name == "" {
		o.Name = "the cloud-config"
	}
	plan, problems := plan(cloudConfig)
	if len(problems) > 0 {
		for i := range problems {
			problems[i].File = o.Name
		}
		return nil, hint.Wrap(problems, "correct "+o.Name+"; nothing was changed")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not finished after %v", limit))
	defer cancel()
	a := &applying{report: &Report{Hash: Hash(cloudConfig)}, onStep: o.OnStep, file: o.Name}
	if a.onStep == nil {
		a.onStep = func(Step) {}
	}
	force := "no"
	if o.Force {
		force = "yes"
	}
	err := a.run(ctx, r, Command{
		Script: applyScript,
		Args: slices.Concat([]string{a.report.Hash, strconv.Itoa(Version), force, plan.packages},
			o.Trial.args(), []string{strings.Join(paths(cloudConfig), "\n")}, plan.steps),
		Stdin: bytes.NewReader(cloudConfig),
	})
	if err != nil {
		return a.report, fmt.Errorf("apply %s: %w", o.Name, err)
	}
	return a.report, nil
}

// paths are the files that write_files writes. A line of the record cannot hold
// a path with a line break; such a file is compared with its content alone.
func paths(cloudConfig []byte) (all []string) {
	for _, f := range readWanted(cloudConfig).files {
		if !strings.Contains(f.path, "\n") && !slices.Contains(all, f.path) {
			all = append(all, f.path)
		}
	}
	return all
}

// Hash is what identifies a cloud-config in [State].
func Hash(cloudConfig []byte) string {
	sum := sha256.Sum256(cloudConfig)
	return hex.EncodeToString(sum[:])
}

// applying follows the records of apply.sh.
type applying struct {
	report *Report
	onStep func(Step)
	file   string
	began  time.Time
}

func (a *applying) run(ctx context.Context, r Runner, c Command) error {
	lines, w := io.Pipe()
	var stderr bytes.Buffer
	c.Stdout, c.Stderr = w, &stderr
	ended := make(chan error, 1)
	go func() {
		exit, err := r.Run(ctx, c)
		if err == nil {
			err = exitError(exit, stderr.String())
		}
		w.Close()
		ended <- err
	}()
	final, err := a.follow(bufio.NewReaderSize(lines, 1<<16))
	lines.CloseWithError(io.ErrClosedPipe) // ends a host that goes on after an error
	if runErr := <-ended; runErr != nil && (err == nil || err == io.ErrUnexpectedEOF) {
		return runErr
	}
	if err == nil && !final {
		return errors.New("the host stopped answering before the end")
	}
	return err
}

// follow reads records until a final one, an error or their end.
func (a *applying) follow(in *bufio.Reader) (final bool, err error) {
	for {
		line, err := readLine(in)
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		rec, err := parseRecord(line)
		if err != nil {
			return false, err
		}
		if final, err := a.handle(rec); final || err != nil {
			return final, err
		}
	}
}

func (a *applying) handle(rec record) (final bool, err error) {
	switch rec.kind {
	case "same":
		return true, nil
	case "done":
		return true, nil
	case "waiting":
		a.onStep(Step{Name: Waiting})
	case "busy":
		return false, hint.Wrap(ErrBusy, "wait for it, or look for it there with `ps`")
	case "undone":
		return false, &UndoneError{Why: "applying it took longer than the host waits"}
	case "missing":
		return false, hint.Errorf("on the host: apt-get install cloud-init python3-jsonschema", "%s is not installed on the host", rec.name)
	case "skip":
		a.report.Changed = true
		a.add(Step{Name: rec.name, Skipped: true, Ended: true})
	case "begin":
		a.report.Changed = a.report.Changed || !slices.Contains([]string{"boot", "schema", "trial"}, rec.name)
		a.began = time.Now()
		a.onStep(Step{Name: rec.name})
	case "end":
		s := Step{Name: rec.name, Ended: true, Took: time.Since(a.began), Warnings: warnings(rec.log)}
		if rec.code != 0 {
			return false, a.failure(rec)
		}
		a.add(s)
	}
	return false, nil
}

func (a *applying) add(s Step) {
	a.report.Steps = append(a.report.Steps, s)
	a.onStep(s)
}

func (a *applying) failure(rec record) error {
	if rec.name == "schema" {
		if ps := schemaProblems(rec.output); len(ps) > 0 {
			for i := range ps {
				ps[i].File = a.file
			}
			done := "nothing was changed"
			if a.report.Changed {
				done = "nothing was changed but that cloud-init was installed"
			}
			return hint.Wrap(ps, "correct "+a.file+"; "+done)
		}
	}
	e := &StepError{Step: rec.name, Message: message(rec)}
	switch rec.name {
	case "prepare":
		return hint.Wrap(e, "see that apt works there: `apt-get update`, /etc/apt/sources.list.d; then run this again")
	case "trial":
		return hint.Wrap(e, "see what keeps the host from it, then run this again; of what is set up there nothing was changed")
	}
	return hint.Wrap(e, fmt.Sprintf("correct %s and run this again; /var/log/cloud-init.log on the host has the details", a.file))
}

// State is what a host says of itself.
type State struct {
	Hash    string    `json:"hash"`    // of the applied cloud-config; "" if none is, or not to its end
	Version int       `json:"version"` // of the devbox that applied it: see [Version]
	At      time.Time `json:"at"`      // when, by the host's clock
	Host    string    `json:"host"`    // SHA-256 of the devbox-host there, hex; "" if there is none, or its unit is not as it should be
}

// Current says whether a host in this state has the cloud-config applied.
func (s State) Current(cloudConfig []byte) bool {
	return s.Version == Version && s.Hash == Hash(cloudConfig)
}

// stateScript does not tell of a devbox-host without the unit that belongs to it.
var stateScript = `cat /var/lib/devbox/provision.json 2>/dev/null || echo '{}'
[ ` + recoverLink + ` -ef ` + recoverPath + ` ] && [ "$(sha256sum <` + recoverPath + `)" = "` + Hash([]byte(recoverUnit)) + `  -" ] || exit 0
sha256sum ` + HostPath + ` 2>/dev/null || true`

// ReadState asks the host, in one round trip.
func ReadState(ctx context.Context, r Runner) (State, error) {
	out, err := output(ctx, r, stateScript, nil)
	if err != nil {
		return State{}, fmt.Errorf("read what is set up on the host: %w", err)
	}
	return parseState(out), nil
}

// parseState reads the script's output. A record that is not well-formed is
// none: the cloud-config is then applied again.
func parseState(out []byte) State {
	first, rest, _ := bytes.Cut(out, []byte("\n"))
	var s State
	if err := json.Unmarshal(first, &s); err != nil {
		s = State{}
	}
	s.Host = ""
	sum, _, _ := bytes.Cut(rest, []byte(" "))
	if b, err := hex.DecodeString(string(sum)); err == nil && len(b) == sha256.Size {
		s.Host = string(sum)
	}
	return s
}
