package store

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Two stores on one file are what two processes are during a hand-over.
func TestPressesTakeOneOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "odd name ?#%.db")
	stores := []*Store{open(t, path), open(t, path)}
	const each = 25
	var mu sync.Mutex
	var ids []int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range each {
				p, err := stores[i%2].Press(t.Context(), "Ann", time.Now(), func(Press) {})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				ids = append(ids, p.ID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(ids)
	for i, id := range ids {
		if id != int64(i+1) {
			t.Fatalf("place %d was given as %d: places must be 1, 2, 3 … each once", i+1, id)
		}
	}
	if len(ids) != 8*each {
		t.Fatalf("%d presses were stored, want %d", len(ids), 8*each)
	}
}

func TestLatestAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bowl.db")
	at := time.Date(2026, 3, 1, 12, 0, 0, 123_456_789, time.FixedZone("", 3600))
	s := open(t, path)
	for _, name := range []string{"Ann", "Ben", "Cy"} {
		if _, err := s.Press(t.Context(), name, at, func(Press) {}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, path).Latest(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	stored := time.Date(2026, 3, 1, 11, 0, 0, 123_000_000, time.UTC)
	want := []Press{{2, "Ben", stored}, {3, "Cy", stored}}
	if !slices.Equal(got, want) {
		t.Errorf("latest = %v, want %v", got, want)
	}
}

func TestJournalIsWAL(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "bowl.db"))
	for name, want := range map[string]string{"journal_mode": "wal", "busy_timeout": "5000", "synchronous": "2"} {
		var got string
		if err := s.write.QueryRow("PRAGMA " + name).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
	if _, err := s.read.Exec("DELETE FROM press"); err == nil {
		t.Error("a reading connection wrote")
	}
}

func TestOldPressesGo(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "bowl.db"))
	if _, err := s.write.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < ?)
		INSERT INTO press (name, at) SELECT 'Ann', i FROM n`, kept); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.Press(t.Context(), "Ben", time.Now(), func(Press) {}); err != nil {
			t.Fatal(err)
		}
	}
	var rows, oldest int64
	if err := s.read.QueryRow("SELECT count(*), min(id) FROM press").Scan(&rows, &oldest); err != nil {
		t.Fatal(err)
	}
	if rows != kept || oldest != 4 {
		t.Errorf("%d presses from place %d on are kept, want %d from 4 on", rows, oldest, kept)
	}
}

// After a rollback the older app meets the newer schema and must start.
func TestNewerSchemaIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bowl.db")
	s := open(t, path)
	if _, err := s.write.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = open(t, path)
	if v, err := schemaVersion(t.Context(), s.write); err != nil || v != 99 {
		t.Errorf("schema version is %d (%v), want 99 as it was", v, err)
	}
}

func TestOpenNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "bowl.db")
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v does not name %s", err, path)
	}
}
