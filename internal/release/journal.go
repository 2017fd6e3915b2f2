package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// state is what an app runs, as far as it is confirmed. It is replaced as a
// whole; that rename is the moment at which a release is committed.
type state struct {
	Current  *protocol.Release `json:"current,omitempty"`
	Previous *protocol.Release `json:"previous,omitempty"`
	Last     int               `json:"last"`           // number of the newest release, kept or not
	Keep     int               `json:"keep,omitempty"` // how many releases keep their images, see [state.keepers]
}

// journal is the intent of an activation, on disk before its first step and
// until its last. With it alone an interrupted one can be undone.
type journal struct {
	From *protocol.Release `json:"from,omitempty"` // nil: nothing ran before
	To   protocol.Release  `json:"to"`
	// Before has, for each unit that ran, its invocation: one that is still the
	// same was not touched and need not be restarted to undo.
	Before map[string]string `json:"before,omitempty"`
	// Unwell are units that were neither up nor down, as one is that fails again
	// and again: their trouble is not the activation's.
	Unwell []string      `json:"unwell,omitempty"`
	Plan   protocol.Plan `json:"plan"`
	// Files are those of the app's units, nil if they are not to change: what to
	// go back to at boot, without portabled. Added are the units that were not there.
	Files []fileCopy `json:"files"`
	Added []string   `json:"added,omitempty"`
	Swap  *swap      `json:"swap,omitempty"` // nil: the data stays what it is
}

// undone is how the release ended, for the history, whose activation has been
// undone after it was cut. One that had failed before that did fail. err is why
// the release before is not well either.
func (j *journal) undone(err error) (r protocol.Release, outcome string) {
	r = j.To
	switch {
	case r.Cause == "":
		r.Cause = protocol.Interrupted
		return r, protocol.Interrupted
	case j.From == nil || err != nil:
		return r, protocol.Failed
	}
	return r, protocol.RolledBack
}

// number is N of release "rN".
func number(id string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(id, "r"))
	return n
}

func (a *app) readState() (state, error) {
	var s state
	_, err := readJSON(a.place.state(), &s)
	return s, err
}

func (a *app) readJournal() (*journal, error) {
	var j journal
	there, err := readJSON(a.place.journal(), &j)
	if err != nil {
		return nil, hint.Wrap(err, "look at what runs; to make it the release of state.json, delete that file and run `devbox-host recover`")
	}
	if !there {
		return nil, nil
	}
	return &j, nil
}

func readJSON(name string, v any) (there bool, err error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", name, err)
	}
	return true, nil
}

func writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeSynced(name, append(data, '\n'))
}
