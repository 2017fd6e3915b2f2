package release

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// Data asks the running release's own check what there is to say of the app's
// data. It runs nothing but what that release names, by the settings that it was
// activated with. What is not well, or cannot be found out, is part of the answer.
func (h *Host) Data(ctx context.Context, name string) (protocol.Data, error) {
	a, err := h.open(name)
	if err != nil {
		return protocol.Data{}, err
	}
	st, err := a.readState()
	if err != nil {
		return protocol.Data{}, err
	}
	switch {
	case st.Current == nil:
		return protocol.Data{}, fmt.Errorf("nothing of %s runs here", name)
	case len(st.Current.Settings.State.Check) == 0:
		return protocol.Data{}, hint.Errorf("name a program that does, under state.check of devbox.yaml", "%s of %s has no check of its data", st.Current.ID, name)
	}
	d := a.data(ctx, *st.Current)
	_ = a.keepSchema(ctx, *st.Current, d) // a full disk does not make it less true
	return d, nil
}

// NoteSchema finds out which schema the data has on which the running release
// was kept, unless that is known: what an older one finds, should it come back,
// can be told then. It is done when the client has its answer.
func (h *Host) NoteSchema(ctx context.Context, name string) error {
	a, err := h.open(name)
	if err != nil {
		return err
	}
	st, err := a.readState()
	if err != nil || st.Current == nil || st.Current.Schema != nil || len(st.Current.Settings.State.Check) == 0 {
		return err
	}
	return a.keepSchema(ctx, *st.Current, a.data(ctx, *st.Current))
}

// keepSchema notes the schema of the data that r was kept on, unless that is
// known. Once another release was tried, it is too late: that one may have
// migrated the data.
func (a *app) keepSchema(ctx context.Context, r protocol.Release, d protocol.Data) error {
	if r.Schema != nil || d.Schema == nil {
		return nil
	}
	unlock, err := a.lock(ctx, "a note of its schema", 0)
	var busy *CodedError
	if errors.As(err, &busy) && busy.Code == protocol.CodeBusy {
		return nil // and about to change
	}
	if err != nil {
		return err
	}
	defer unlock()
	st, err := a.readState()
	if err != nil || st.Current == nil || st.Current.ID != r.ID || st.Last != number(r.ID) {
		return err
	}
	st.Current.Schema = d.Schema
	if err := writeJSON(a.place.state(), st); err != nil {
		return err
	}
	return a.addHistory(*st.Current)
}

// migration compares the data with what r was kept on; runs is the release whose
// check is asked.
func (a *app) migration(ctx context.Context, r, runs protocol.Release) *protocol.Migration {
	if r.Schema == nil || len(runs.Settings.State.Check) == 0 {
		return nil
	}
	is := a.data(ctx, runs).Schema
	if is == nil || *is == *r.Schema {
		return nil
	}
	return &protocol.Migration{Release: r.ID, From: *r.Schema, To: *is}
}

// migrated is migration of a release that is back already: whoever waits to hear
// that gets it without, where its check takes longer than a moment.
func (a *app) migrated(ctx context.Context, r protocol.Release) *protocol.Migration {
	ctx, cancel := context.WithTimeout(ctx, migratedTime)
	defer cancel()
	return a.migration(ctx, r, r)
}

const migratedTime = 2 * time.Second

// data runs the check of a release whose image is attached.
func (a *app) data(ctx context.Context, r protocol.Release) protocol.Data {
	out, err := a.probe(ctx, r)
	data, perr := parseData(out)
	var f *fault
	switch {
	case errors.As(err, &f):
		data.Problem, data.Log = f.cause, f.log
	case err != nil:
		data.Problem = err.Error()
	case perr != nil:
		data.Problem = fmt.Sprintf("the check %s %v", r.Settings.State.Check[0], perr)
	}
	if bad := data.Integrity; bad != "" && bad != "ok" {
		data.Problem = strings.TrimPrefix(data.Problem+"; ", "; ") + "integrity: " + bad
	}
	data.Problem = printable(data.Problem)
	return data
}

func (a *app) probe(ctx context.Context, r protocol.Release) ([]byte, error) {
	img, err := a.openImage(r.Digest)
	if err != nil {
		return nil, err
	}
	t, err := targetOf(img, a.name, r)
	img.Close()
	if err != nil {
		return nil, err
	}
	like, ok := t.keeper(a.name)
	if !ok {
		return nil, errors.New("no service of the app has a StateDirectory=")
	}
	return a.sys.Probe(ctx, Probe{Name: "devbox-data-" + a.name, Image: a.attached(), Like: like, Args: r.Settings.State.Check,
		Env: []string{versionVar + "=" + short(r.Digest), releaseVar + "=" + r.ID}})
}

// keeper is the service by which an app's data is looked at: the one that has
// the app's name, or else the first, of those with a StateDirectory=.
func (t target) keeper(app string) (string, bool) {
	name := ""
	for _, u := range t.Units {
		if u.Type != "service" || isTemplate(u.Name) || len(u.Words("Service", "StateDirectory")) == 0 {
			continue
		}
		if name = cmp.Or(name, u.Name); u.Name == app+".service" {
			name = u.Name
		}
	}
	return name, name != ""
}

// parseData reads what a check has printed: one JSON object, or nothing.
func parseData(out []byte) (protocol.Data, error) {
	if len(bytes.TrimSpace(out)) == 0 {
		return protocol.Data{}, errors.New("printed nothing")
	}
	var d struct { // what a check may set of protocol.Data
		Integrity string           `json:"integrity"`
		Schema    *int64           `json:"schema"`
		Rows      map[string]int64 `json:"rows"`
		Newest    time.Time        `json:"newest"`
	}
	dec := json.NewDecoder(bytes.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return protocol.Data{}, fmt.Errorf("did not print what is read here: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return protocol.Data{}, errors.New("printed more than one JSON object")
	}
	data := protocol.Data{Integrity: clip(d.Integrity), Schema: d.Schema, Newest: d.Newest}
	for table, n := range d.Rows {
		if n < 0 {
			return protocol.Data{}, fmt.Errorf("printed %d rows of %s", n, clip(table))
		}
		if data.Rows == nil {
			data.Rows = map[string]int64{}
		}
		data.Rows[clip(table)] = n
	}
	return data, nil
}

// checkable refuses a release whose image lacks the program that it names to
// look at its data.
func checkable(fsys fs.FS, s protocol.State) error {
	if len(s.Check) == 0 {
		return nil
	}
	program := s.Check[0]
	info, err := fs.Stat(fsys, strings.TrimPrefix(program, "/"))
	if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return hint.Errorf("name one of the image under state.check of devbox.yaml", "the image has no program %s to look at the data", program)
	}
	return nil
}
