package store

import (
	"context"
	"database/sql"
	"fmt"
)

// migrations bring the schema from version i to i+1. Released ones are never edited. A release that is rolled back meets
// the newer schema, so each step must leave what the release before it reads and writes.
var migrations = []string{
	`CREATE TABLE press (
		id   INTEGER PRIMARY KEY AUTOINCREMENT,
		name TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 40),
		at   INTEGER NOT NULL -- milliseconds since 1970, UTC
	) STRICT`,

	// A room is its events: what a page shows is the fold of them, and what a stream sends is their data as it stands.
	// The key of event is also what refuses a second writer: of two that add an event 7, one fails.
	`CREATE TABLE secret (
		name  TEXT PRIMARY KEY,
		value BLOB NOT NULL
	) STRICT, WITHOUT ROWID;
	CREATE TABLE room (
		code      TEXT PRIMARY KEY CHECK (length(code) = 6),
		moderator BLOB NOT NULL -- hash of the moderator code
	) STRICT, WITHOUT ROWID;
	CREATE TABLE event (
		room TEXT    NOT NULL REFERENCES room ON DELETE CASCADE,
		seq  INTEGER NOT NULL CHECK (seq > 0), -- 1, 2, 3 ... in each room
		kind TEXT    NOT NULL,
		data TEXT    NOT NULL CHECK (json_valid(data)),
		at   INTEGER NOT NULL, -- milliseconds since 1970, UTC
		PRIMARY KEY (room, seq)
	) STRICT, WITHOUT ROWID`,
}

// migrate runs the steps that the file has not seen, all in one transaction. A schema newer than this binary knows is
// left alone: a rollback must start.
func migrate(ctx context.Context, db *sql.DB) error {
	have, err := schemaVersion(ctx, db)
	if err != nil || have >= len(migrations) {
		return err
	}
	return inTx(ctx, db, func(tx *sql.Tx) error {
		have, err := schemaVersion(ctx, tx) // again: another process may have been first
		if err != nil {
			return err
		}
		for i := have; i < len(migrations); i++ {
			if _, err := tx.ExecContext(ctx, migrations[i]); err != nil {
				return fmt.Errorf("migrate schema to version %d: %w", i+1, err)
			}
		}
		_, err = tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", max(have, len(migrations))))
		return err
	})
}

type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func schemaVersion(ctx context.Context, q queryer) (int, error) {
	var v int
	if err := q.QueryRowContext(ctx, "PRAGMA user_version").Scan(&v); err != nil {
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	return v, nil
}
