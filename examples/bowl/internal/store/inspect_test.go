package store

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// filled is a database with a press and two rooms, whose app still runs.
func filled(t *testing.T) (string, *Store) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bowl.db")
	s := open(t, path)
	if _, err := s.Press(t.Context(), "Ann", time.UnixMilli(1000), func(Press) {}); err != nil {
		t.Fatal(err)
	}
	err := s.Write(t.Context(), func(tx *Tx) error {
		for _, room := range []string{"BCDFGH", "CCCCCC"} {
			if _, err := tx.CreateRoom(room, []byte("hash")); err != nil {
				return err
			}
			for seq := range int64(3) {
				e := Event{seq + 1, "pressed", []byte(`{"n":1}`), time.UnixMilli(5000 - 1000*int64(room[0]-'B') + seq)}
				if err := tx.AppendEvent(room, e); err != nil {
					return err
				}
			}
		}
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return path, s
}

func TestInspect(t *testing.T) {
	path, s := filled(t)
	want := Report{
		Integrity: "ok", Schema: len(migrations), Newest: time.UnixMilli(5002).UTC(),
		Rows: map[string]int64{"press": 1, "room": 2, "event": 6, "secret": 0},
	}
	inspect := func(what, path string) {
		t.Helper()
		if got, err := Inspect(t.Context(), path); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v\nwant %+v", what, got, err, want)
		}
	}
	inspect("the app runs", path)
	_ = s.Close()
	inspect("the app has ended", path)

	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "copy")
	copied := filepath.Join(folder, "bowl.db")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, data, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o500); err != nil {
		t.Fatal(err)
	}
	inspect("a restored copy", copied)
	if entries, err := os.ReadDir(folder); len(entries) != 1 || err != nil {
		t.Errorf("it left %v, %v", entries, err)
	}
}

func TestInspectFirstRelease(t *testing.T) {
	got, err := Inspect(t.Context(), first(t))
	if err != nil || !got.OK() || got.Schema != 1 || got.Rows["press"] != 2 || got.Newest.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestInspectFindsDamage(t *testing.T) {
	path, s := filled(t)
	if _, err := s.write.Exec("DELETE FROM event WHERE room = 'CCCCCC' AND seq = 2"); err != nil {
		t.Fatal(err)
	}
	got, err := Inspect(t.Context(), path)
	if err != nil || got.Integrity != "room CCCCCC has a gap in its events" {
		t.Errorf("a gap: %+v, %v", got, err)
	}
	_ = s.Close()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for page := int64(1); page < 8; page++ {
		if _, err := file.WriteAt([]byte(strings.Repeat("x", 100)), page*4096); err != nil {
			t.Fatal(err)
		}
	}
	_ = file.Close()
	if got, err := Inspect(t.Context(), path); err == nil && got.OK() {
		t.Errorf("pages of x: %+v", got)
	}
	if err := os.WriteFile(path, []byte("this is no database"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Inspect(t.Context(), path); err == nil {
		t.Error("a file that is no database was inspected")
	}
	if _, err := Inspect(t.Context(), path+"x"); err == nil || !strings.Contains(err.Error(), path+"x") {
		t.Errorf("no file: %v", err)
	}
}
