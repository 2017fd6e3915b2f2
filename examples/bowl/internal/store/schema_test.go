package store

import (
	"bytes"
	"database/sql"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// first is a database as the first release made it, with its own words: schema version 1 and two presses.
func first(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bowl.db")
	db := asFirstRelease(t, path)
	for _, query := range []string{
		`CREATE TABLE press (
		id   INTEGER PRIMARY KEY AUTOINCREMENT,
		name TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 40),
		at   INTEGER NOT NULL -- milliseconds since 1970, UTC
	) STRICT`,
		"PRAGMA user_version = 1",
		"INSERT INTO press (name, at) VALUES ('Ann', 1000), ('Ben', 2000)",
	} {
		if _, err := db.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func asFirstRelease(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path, "synchronous(NORMAL)"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1)
	return db
}

// pressAsFirstRelease does what that release does for a press.
func pressAsFirstRelease(db *sql.DB, name string) (id int64, err error) {
	err = db.QueryRow("INSERT INTO press (name, at) VALUES (?, ?) RETURNING id", name, 3000).Scan(&id)
	if err == nil {
		_, err = db.Exec("DELETE FROM press WHERE id <= ?", id-kept)
	}
	return id, err
}

// A rollback to the release before the rooms works on as it did, and the release after it finds what both have written.
func TestFirstRelease(t *testing.T) {
	path := first(t)
	s := open(t, path)
	if got := names(t, s); !slices.Equal(got, []string{"Ann", "Ben"}) {
		t.Fatalf("after the migration there are the presses %q", got)
	}
	if v, err := schemaVersion(t.Context(), s.read); v != len(migrations) || err != nil {
		t.Fatalf("schema version %d, %v", v, err)
	}
	key, err := s.Secret(t.Context(), "session")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := s.Press(t.Context(), "Cy", time.UnixMilli(2500), func(Press) {}); p.ID != 3 || err != nil {
		t.Fatalf("press %+v, %v", p, err)
	}
	err = s.Write(t.Context(), func(tx *Tx) error {
		if _, err := tx.CreateRoom("BCDFGH", []byte("hash")); err != nil {
			return err
		}
		return tx.AppendEvent("BCDFGH", Event{1, "created", []byte("{}"), time.UnixMilli(2600)})
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()

	old := asFirstRelease(t, path)
	if v, err := schemaVersion(t.Context(), old); v < 1 || err != nil { // it leaves a newer one alone
		t.Fatalf("schema version %d, %v", v, err)
	}
	if id, err := pressAsFirstRelease(old, "Dee"); id != 4 || err != nil {
		t.Fatalf("the first release gives place %d, %v", id, err)
	}
	var n int
	if err := old.QueryRow("SELECT count(*) FROM (SELECT id, name, at FROM press ORDER BY id DESC LIMIT ?)", 20).Scan(&n); n != 4 || err != nil {
		t.Fatalf("the first release sees %d presses, %v", n, err)
	}
	_ = old.Close()

	s = open(t, path)
	if got := names(t, s); !slices.Equal(got, []string{"Ann", "Ben", "Cy", "Dee"}) {
		t.Errorf("presses %q", got)
	}
	if again, err := s.Secret(t.Context(), "session"); !bytes.Equal(again, key) || len(key) != 32 || err != nil {
		t.Errorf("the session key is another one: %v", err)
	}
	if events, err := s.Events(t.Context(), "BCDFGH", 0, 10); len(events) != 1 || err != nil {
		t.Errorf("events %v, %v", events, err)
	}
}

// All steps are one transaction: one that fails leaves the database as the release before left it.
func TestMigrationIsAllOrNothing(t *testing.T) {
	path := first(t)
	if _, err := asFirstRelease(t, path).Exec("CREATE TABLE event (mine TEXT)"); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(t.Context(), path); err == nil {
		_ = s.Close()
		t.Fatal("a migration over a table of somebody else went through")
	}
	db := asFirstRelease(t, path)
	tables, err := texts(t.Context(), db, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name")
	if err != nil || !slices.Equal(tables, []string{"event", "press"}) {
		t.Errorf("tables %q, %v", tables, err)
	}
	if v, err := schemaVersion(t.Context(), db); v != 1 || err != nil {
		t.Errorf("schema version %d, %v", v, err)
	}
}
