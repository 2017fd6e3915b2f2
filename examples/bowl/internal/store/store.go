// Package store keeps presses and rooms in SQLite.
//
// One connection writes and a few read: SQLite has one writer anyway, and a queue in front of it waits more fairly than
// its busy handler. The journal is a WAL because Litestream replicates from it.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// Press is one press of the buzzer. ID is its place in the order of all presses: the database gives it, so the order is
// that of the commits and never that of some visitor's clock.
type Press struct {
	ID   int64     `json:"id"`
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// kept is how many presses stay in the database, so that a visitor cannot fill the disk.
const kept = 100_000

const (
	busyTimeout = 5 * time.Second
	readers     = 4
)

// Store is the database. Its methods may be called at once from many goroutines.
type Store struct {
	write *sql.DB
	read  *sql.DB

	queue   chan *change
	close   sync.Once
	closing chan struct{} // closed by Close
	stopped chan struct{} // closed by the writer, after its last transaction
}

// Open opens the database file at path, makes it where there is none, and brings its schema up to date.
func Open(ctx context.Context, path string) (*Store, error) {
	write, err := sql.Open("sqlite", dsn(path, "synchronous(FULL)", "foreign_keys(1)"))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", dsn(path, "query_only(1)"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), write.Close())
	}
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)

	if err := migrate(ctx, write); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), read.Close(), write.Close())
	}
	s := &Store{
		write: write, read: read,
		queue: make(chan *change, maxBatch), closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	go s.writeAll()
	return s, nil
}

// dsn names the file with the settings that a connection needs. The one that writes has synchronous=FULL: in WAL mode
// NORMAL loses the last transactions in a power cut, and a press that was answered must count.
func dsn(path string, pragmas ...string) string {
	q := url.Values{
		"_txlock": {"immediate"},
		"_pragma": append([]string{
			fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
			"journal_mode(WAL)",
		}, pragmas...),
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: q.Encode()}).String()
}

// Close makes the changes that are in the queue, then ends all connections.
func (s *Store) Close() error {
	s.close.Do(func() { close(s.closing) })
	<-s.stopped
	return errors.Join(s.read.Close(), s.write.Close())
}

// Press stores one press, says which place it took, and tells announce before the next press is stored.
func (s *Store) Press(ctx context.Context, name string, at time.Time, announce func(Press)) (Press, error) {
	p := Press{Name: name, At: at.UTC().Truncate(time.Millisecond)}
	err := s.Write(ctx, func(tx *Tx) error {
		if err := tx.row("INSERT INTO press (name, at) VALUES (?, ?) RETURNING id", p.Name, p.At.UnixMilli()).Scan(&p.ID); err != nil {
			return err
		}
		_, err := tx.exec("DELETE FROM press WHERE id <= ?", p.ID-kept)
		return err
	}, func(err error) {
		if err == nil {
			announce(p)
		}
	})
	if err != nil {
		return Press{}, fmt.Errorf("store press: %w", err)
	}
	return p, nil
}

// Latest gives the newest n presses, oldest first.
func (s *Store) Latest(ctx context.Context, n int) ([]Press, error) {
	rows, err := s.read.QueryContext(ctx,
		"SELECT id, name, at FROM (SELECT id, name, at FROM press ORDER BY id DESC LIMIT ?) ORDER BY id", n)
	if err != nil {
		return nil, fmt.Errorf("read presses: %w", err)
	}
	defer rows.Close()
	var all []Press
	for rows.Next() {
		var p Press
		var ms int64
		if err := rows.Scan(&p.ID, &p.Name, &ms); err != nil {
			return nil, fmt.Errorf("read presses: %w", err)
		}
		p.At = time.UnixMilli(ms).UTC()
		all = append(all, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read presses: %w", err)
	}
	return all, nil
}

// Check reads from the database, to show that it can be read.
func (s *Store) Check(ctx context.Context) error {
	var n int64
	if err := s.read.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) FROM press").Scan(&n); err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	return nil
}

// inTx runs f in one transaction that holds the write lock from its start (_txlock=immediate).
func inTx(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}
