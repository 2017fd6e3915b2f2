package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Report is what Inspect finds in a database file.
type Report struct {
	File string `json:"file"`
	// OK says that the integrity check is, and that there is no other problem.
	OK             bool     `json:"ok"`
	IntegrityCheck []string `json:"integrity_check"` // SQLite's words: "ok" or what is wrong
	Problems       []string `json:"problems"`        // what else is
	Schema         int      `json:"schema"`
	// Rows are counted in every table, so that two copies can be compared.
	Rows        map[string]int64 `json:"rows"`
	NewestAt    *time.Time       `json:"newest_at"`    // the newest change, null where there is none
	NewestPress *Press           `json:"newest_press"` // of the front page
	NewestEvent *NewestEvent     `json:"newest_event"` // of the rooms
}

// NewestEvent is the event that was stored last in all rooms. Its data has the score after it.
type NewestEvent struct {
	Room string          `json:"room"`
	Seq  int64           `json:"seq"`
	Kind string          `json:"kind"`
	At   time.Time       `json:"at"`
	Data json.RawMessage `json:"data"`
}

// Inspect reads a database file, also one that an app has open, and changes nothing in it. All that it reports is of one
// moment. A file that is damaged is a report; one that cannot be read at all is an error.
func Inspect(ctx context.Context, path string) (Report, error) {
	r := Report{File: path, Problems: []string{}, Rows: map[string]int64{}}
	db, err := openToInspect(path)
	if err != nil {
		return r, fmt.Errorf("inspect %s: %w", path, err)
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return r, fmt.Errorf("inspect %s: %w", path, err)
	}
	defer func() { _ = tx.Rollback() }()
	if r.Schema, err = schemaVersion(ctx, tx); err != nil {
		return r, fmt.Errorf("inspect %s: %w", path, err)
	}
	if r.IntegrityCheck, err = texts(ctx, tx, "PRAGMA integrity_check"); err == nil {
		err = r.read(ctx, tx)
	}
	if err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	r.OK = slices.Equal(r.IntegrityCheck, []string{"ok"}) && len(r.Problems) == 0
	return r, nil
}

// openToInspect opens the file so that nothing is written beside it either: where there is no WAL no app has the file
// open, and SQLite is told that it need not watch for one. (A copy may lie in a folder where nothing can be written.)
func openToInspect(path string) (*sql.DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	q := url.Values{"mode": {"ro"}, "_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()), "query_only(1)"}}
	if _, err := os.Stat(path + "-wal"); errors.Is(err, fs.ErrNotExist) {
		q.Set("immutable", "1")
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

func (r *Report) read(ctx context.Context, tx *sql.Tx) error {
	tables, err := texts(ctx, tx, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name")
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, table := range tables {
		var n int64
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM "`+strings.ReplaceAll(table, `"`, `""`)+`"`).Scan(&n); err != nil {
			return fmt.Errorf("count rows of %s: %w", table, err)
		}
		r.Rows[table] = n
	}
	if _, ok := r.Rows["press"]; ok {
		if err := r.newestPress(ctx, tx); err != nil {
			return fmt.Errorf("read the newest press: %w", err)
		}
	}
	if _, ok := r.Rows["event"]; ok {
		gaps, err := texts(ctx, tx, "SELECT 'room ' || room || ' has a gap in its events' FROM event GROUP BY room HAVING count(*) <> max(seq)")
		if err != nil {
			return fmt.Errorf("look for gaps: %w", err)
		}
		r.Problems = append(r.Problems, gaps...)
		if err := r.newestEvent(ctx, tx); err != nil {
			return fmt.Errorf("read the newest event: %w", err)
		}
	}
	return nil
}

func (r *Report) newestPress(ctx context.Context, tx *sql.Tx) error {
	var p Press
	var ms int64
	err := tx.QueryRowContext(ctx, "SELECT id, name, at FROM press ORDER BY id DESC LIMIT 1").Scan(&p.ID, &p.Name, &ms)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	p.At = r.newer(ms)
	r.NewestPress = &p
	return err
}

func (r *Report) newestEvent(ctx context.Context, tx *sql.Tx) error {
	var e NewestEvent
	var ms int64
	err := tx.QueryRowContext(ctx, "SELECT room, seq, kind, at, data FROM event ORDER BY at DESC, seq DESC LIMIT 1").
		Scan(&e.Room, &e.Seq, &e.Kind, &ms, (*[]byte)(&e.Data))
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	e.At = r.newer(ms)
	r.NewestEvent = &e
	return err
}

// newer is a time, noted if it is the newest so far.
func (r *Report) newer(ms int64) time.Time {
	at := time.UnixMilli(ms).UTC()
	if r.NewestAt == nil || at.After(*r.NewestAt) {
		r.NewestAt = &at
	}
	return at
}

// texts are the rows of a query of one column.
func texts(ctx context.Context, q rowsQueryer, query string, args ...any) ([]string, error) {
	all := []string{}
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return all, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return all, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}
