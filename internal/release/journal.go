package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"devbox/internal/protocol"
)

// state is what an app runs, as far as it is confirmed. It is replaced as a
// whole; that rename is the moment at which a release is committed.
type state struct {
	Current  *protocol.Release `json:"current,omitempty"`
	Previous *protocol.Release `json:"previous,omitempty"`
	Last     int               `json:"last"` // number of the newest release, kept or not
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
	if err != nil || !there {
		return nil, err
	}
	return &j, nil
}

// addHistory records how a release ended.
func (a *app) addHistory(r protocol.Release) error {
	if err := os.MkdirAll(a.releases(), 0o755); err != nil {
		return err
	}
	return writeJSON(filepath.Join(a.releases(), r.ID+".json"), r)
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
