package store

import (
	"context"
	"database/sql"
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

// Report is what Inspect finds in a database file, in the form that devbox reads: see state.check of devbox.yaml.
type Report struct {
	Integrity string `json:"integrity"` // "ok", or what is wrong
	Schema    int    `json:"schema"`
	// Rows are counted in every table, so that two copies can be compared.
	Rows   map[string]int64 `json:"rows"`
	Newest time.Time        `json:"newest,omitzero"` // when something was written last
}

// OK says that nothing is wrong.
func (r Report) OK() bool { return r.Integrity == "ok" }

// Inspect reads a database file, also one that an app has open, and changes nothing in it. All that it reports is of one
// moment. A file that is damaged is a report; one that cannot be read at all is an error.
func Inspect(ctx context.Context, path string) (Report, error) {
	r := Report{Rows: map[string]int64{}}
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
	wrong, err := texts(ctx, tx, "PRAGMA integrity_check")
	if slices.Equal(wrong, []string{"ok"}) {
		wrong = nil
	}
	if err == nil {
		var gaps []string
		gaps, err = r.read(ctx, tx)
		wrong = append(wrong, gaps...)
	}
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	if r.Integrity = strings.Join(wrong, "; "); r.Integrity == "" {
		r.Integrity = "ok"
	}
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

// read counts rows and looks for what SQLite does not know to be wrong.
func (r *Report) read(ctx context.Context, tx *sql.Tx) (gaps []string, err error) {
	tables, err := texts(ctx, tx, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_litestream%' ESCAPE '\\' ORDER BY name")
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	for _, table := range tables {
		var n int64
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM "`+strings.ReplaceAll(table, `"`, `""`)+`"`).Scan(&n); err != nil {
			return nil, fmt.Errorf("count rows of %s: %w", table, err)
		}
		r.Rows[table] = n
	}
	for _, table := range []string{"press", "event"} {
		if r.Rows[table] == 0 {
			continue
		}
		var ms int64
		if err := tx.QueryRowContext(ctx, "SELECT max(at) FROM "+table).Scan(&ms); err != nil {
			return nil, fmt.Errorf("read the newest %s: %w", table, err)
		}
		if at := time.UnixMilli(ms).UTC(); at.After(r.Newest) {
			r.Newest = at
		}
	}
	if r.Rows["event"] > 0 {
		gaps, err = texts(ctx, tx, "SELECT 'room ' || room || ' has a gap in its events' FROM event GROUP BY room HAVING count(*) <> max(seq)")
		if err != nil {
			return nil, fmt.Errorf("look for gaps: %w", err)
		}
	}
	return gaps, nil
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
