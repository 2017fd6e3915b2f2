package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

func TestWhatARehearsalFinds(t *testing.T) {
	at := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	data := func(newest time.Time) *protocol.Data { return &protocol.Data{Integrity: "ok", Newest: newest} }
	for _, c := range []struct {
		name           string
		live, restored *protocol.Data
		lost           time.Duration
		err            string
	}{
		{"all is there", data(at), data(at), 0, ""},
		{"more than was asked for is there", data(at), data(at.Add(time.Second)), 0, ""},
		{"the last moments are not", data(at.Add(3 * time.Second)), data(at), 3 * time.Second, ""},
		{"the server is gone", nil, data(at), 0, ""},
		{"an app that has stored nothing", data(time.Time{}), data(time.Time{}), 0, ""},
		{"nothing came back", data(at), data(time.Time{}), 0, "nothing came back"},
		{"it is damaged", data(at), &protocol.Data{Integrity: "row 7 missing from index"}, 0, "not whole: row 7"},
		{"its check fails", data(at), &protocol.Data{Problem: "exit status 1"}, 0, "not well: exit status 1"},
	} {
		r := &rehearsal{Drill: Drill{Live: c.live, Restored: c.restored}}
		err := r.compare()
		if c.err == "" && (err != nil || r.Lost != c.lost) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || hint.Of(err) == "") {
			t.Errorf("%s: lost %v, %v", c.name, r.Lost, err)
		}
	}
}

func TestSecretsOfARehearsal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("a=b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := DrillSecrets([]string{"s3=" + file})
	if err != nil || len(all) != 1 || string(all["s3"]) != "a=b\n" {
		t.Errorf("%q, %v", all, err)
	}
	for _, bad := range []string{"s3", "../s3=" + file, "s3=" + file + ".none", "=" + file} {
		if _, err := DrillSecrets([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
