package release

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"devbox/internal/protocol"
)

// ofSchema is a check that says which schema the data has, and nothing of it
// where that is negative.
func ofSchema(n *int) func(Probe) ([]byte, error) {
	return func(Probe) ([]byte, error) {
		if *n < 0 {
			return []byte("{}"), nil
		}
		return fmt.Appendf(nil, `{"schema":%d}`, *n), nil
	}
}

// migrating runs r1, which was kept on data of the schema that is returned.
func migrating(t *testing.T) (*fake, *Host, *int) {
	f := newFake(t)
	h := New(f, f.root)
	schema := 2
	f.probe = ofSchema(&schema)
	if r, err := f.activate(h, f.put(h, "one", storing), checked()); err != nil || r.Outcome != protocol.Committed || r.Migration != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := h.NoteSchema(context.Background(), "bowl"); err != nil {
		t.Fatal(err)
	}
	return f, h, &schema
}

// schemas are those of the releases, newest first; -1 is none.
func schemas(t *testing.T, h *Host) []int64 {
	t.Helper()
	all, err := h.Releases(context.Background(), "bowl")
	if err != nil {
		t.Fatal(err)
	}
	var list []int64
	for _, r := range all {
		if r.Schema == nil {
			list = append(list, -1)
		} else {
			list = append(list, *r.Schema)
		}
	}
	return list
}

func TestTheSchemaThatAReleaseWasKeptOnIsNoted(t *testing.T) {
	f, h, schema := migrating(t)
	ctx := context.Background()
	note := func(want ...int64) {
		t.Helper()
		if err := h.NoteSchema(ctx, "bowl"); err != nil {
			t.Fatal(err)
		}
		if got := schemas(t, h); !reflect.DeepEqual(got, want) {
			t.Errorf("noted %v, want %v", got, want)
		}
	}
	*schema = 5
	note(2) // what it is later does not count
	two := f.put(h, "two", storing)
	if _, err := f.activate(h, two, checked()); err != nil {
		t.Fatal(err)
	}
	*schema = -1
	note(-1, 2)
	*schema = 3
	if _, err := h.Data(ctx, "bowl"); err != nil { // status asks
		t.Fatal(err)
	}
	note(3, 2)
	three := f.put(h, "three", storing)
	if _, err := f.activate(h, three, checked()); err != nil {
		t.Fatal(err)
	}
	// Of r3 it is not known, and r4, which fails, may have migrated.
	f.results["restart bowl.service"] = []string{"failed"}
	if r, err := f.activate(h, two, checked()); err != nil || r.Outcome != protocol.RolledBack || r.Migration != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	note(-1, -1, 3, 2)
}

// A session notes it by itself, after the answer.
func TestASessionNotesTheSchema(t *testing.T) {
	f, h, schema := migrating(t)
	*schema = 7
	settings, err := json.Marshal(checked())
	if err != nil {
		t.Fatal(err)
	}
	got := talk(t, h, fmt.Sprintf(`{"hello":{"protocol":%d,"app":"bowl"}}`+"\n"+`{"activate":{"app":"bowl","digest":"%s","settings":%s}}`+"\n",
		protocol.Version, f.put(h, "two", storing), settings))
	if last := got[len(got)-1]; last.Result == nil || last.Result.Outcome != protocol.Committed {
		t.Fatalf("%+v", last)
	}
	if got := schemas(t, h); !reflect.DeepEqual(got, []int64{7, 2}) {
		t.Errorf("noted %v", got)
	}
}

func TestAReleaseThatMigratedAndWasNotKept(t *testing.T) {
	f, h, schema := migrating(t)
	two := f.put(h, "two", storing)
	*schema = 3
	f.results["restart bowl.service"] = []string{"failed"}
	r, err := f.activate(h, two, checked())
	const text = "r1 was kept on data of schema 2, which has been migrated to 3 since"
	if err != nil || r.Outcome != protocol.RolledBack || !reflect.DeepEqual(r.Migration, &protocol.Migration{Release: "r1", From: 2, To: 3}) ||
		!strings.Contains(r.Failure.Cause, "exited with status 1; "+text) {
		t.Fatalf("%+v, %v", r, err)
	}
	if f.patience <= 0 || f.patience > migratedTime {
		t.Errorf("the answer waited for the check for up to %s", f.patience)
	}
	all, err := h.Releases(context.Background(), "bowl")
	if err != nil || !strings.Contains(all[0].Cause, text) {
		t.Errorf("history: %+v, %v", all[0], err)
	}
	if last := f.notes[len(f.notes)-1]; !strings.Contains(last.Text, text) {
		t.Errorf("noted: %+v", last)
	}
	// Back on its own schema, and where its check does not tell: nothing to say.
	for _, is := range []int{2, -1} {
		*schema = is
		f.results["restart bowl.service"] = []string{"failed"}
		if r, err := f.activate(h, two, checked()); err != nil || r.Migration != nil || strings.Contains(r.Failure.Cause, "schema") {
			t.Errorf("with schema %d: %+v, %v", is, r, err)
		}
	}
}

func TestARollbackToBeforeAMigration(t *testing.T) {
	f, h, schema := migrating(t)
	two := f.put(h, "two", storing)
	if _, err := f.activate(h, two, checked()); err != nil {
		t.Fatal(err)
	}
	*schema = 3
	want := &protocol.Migration{Release: "r1", From: 2, To: 3}
	for _, dry := range []bool{true, false} {
		var r protocol.Result
		err := h.Activate(context.Background(), protocol.Activate{App: "bowl", Release: protocol.Previous, DryRun: dry}, func(e protocol.Event) {
			if e.Result != nil {
				r = *e.Result
			}
		})
		if err != nil || !reflect.DeepEqual(r.Migration, want) || (r.Outcome == protocol.Planned) != dry || r.Failure != nil {
			t.Errorf("dry run %v: %+v, %v", dry, r, err)
		}
	}
	if last := f.notes[len(f.notes)-1]; last.Outcome != protocol.Committed || !strings.Contains(last.Text, want.String()) {
		t.Errorf("noted: %+v", last)
	}
}

func TestAnInterruptedReleaseThatMigrated(t *testing.T) {
	f, h, schema := migrating(t)
	a, st := opened(t, h)
	if err := writeJSON(a.journal(), journal{From: st.Current, To: protocol.Release{ID: "r2", Digest: st.Current.Digest}}); err != nil {
		t.Fatal(err)
	}
	*schema = 3
	text, err := h.Hello(context.Background(), "bowl")
	const want = "undid r2, which was interrupted; r1 runs; r1 was kept on data of schema 2, which has been migrated to 3 since"
	if err != nil || text != want || f.notes[len(f.notes)-1].Text != want {
		t.Errorf("%q, %v", text, err)
	}
	if f.patience <= 0 || f.patience > migratedTime {
		t.Errorf("the session waited for the check for up to %s", f.patience)
	}
	all, err := h.Releases(context.Background(), "bowl")
	if err != nil || all[0].Outcome != protocol.Interrupted || !strings.Contains(all[0].Cause, "migrated to 3") {
		t.Errorf("%+v, %v", all[0], err)
	}
}
