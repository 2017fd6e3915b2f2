package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Event is something that happened in a room.
type Event struct {
	Seq  int64 // its place among those of the room, from 1
	Kind string
	Data []byte // JSON, as it is shown
	At   time.Time
}

// ErrNoRoom says that there is no room with this code, or no more.
var ErrNoRoom = errors.New("there is no such room")

// Secret gives the random key called name. It is made once and stays with the data: sessions that were signed with it
// are good after a restart and after a restore.
func (s *Store) Secret(ctx context.Context, name string) ([]byte, error) {
	fresh := make([]byte, 32)
	if _, err := rand.Read(fresh); err != nil {
		return nil, fmt.Errorf("make secret %s: %w", name, err)
	}
	var key []byte
	err := s.Write(ctx, func(tx *Tx) error {
		if _, err := tx.exec("INSERT OR IGNORE INTO secret (name, value) VALUES (?, ?)", name, fresh); err != nil {
			return err
		}
		return tx.row("SELECT value FROM secret WHERE name = ?", name).Scan(&key)
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("read secret %s: %w", name, err)
	}
	return key, nil
}

// CreateRoom adds a room. It says false where the code is taken.
func (tx *Tx) CreateRoom(code string, moderator []byte) (bool, error) {
	n, err := tx.exec("INSERT OR IGNORE INTO room (code, moderator) VALUES (?, ?)", code, moderator)
	return n == 1, err
}

// Full says whether there are more than so many rooms, or the file has so many bytes in use.
func (tx *Tx) Full(rooms int, bytes int64) (full bool, err error) {
	err = tx.row(`SELECT (SELECT count(*) FROM room) > ? OR (page_count - freelist_count) * page_size >= ?
		FROM pragma_page_count, pragma_freelist_count, pragma_page_size`, rooms, bytes).Scan(&full)
	return full, err
}

// Evict removes the room that was quiet for the longest time: of those that nobody ever joined, if it was so since empty,
// else of the others, if it was so since quiet. It says false where there is none. The room called except stays.
func (tx *Tx) Evict(except string, empty, quiet time.Time) (bool, error) {
	n, err := tx.exec(`DELETE FROM room WHERE code = (
		SELECT code FROM (
			SELECT code,
				(SELECT at FROM event WHERE room = code ORDER BY seq DESC LIMIT 1) AS last,
				EXISTS (SELECT 1 FROM event WHERE room = code AND kind = 'joined') AS joined
			FROM room WHERE code <> ?
		) WHERE coalesce(last, 0) < iif(joined, ?, ?) ORDER BY joined, last LIMIT 1
	)`, except, quiet.UnixMilli(), empty.UnixMilli())
	return n == 1, err
}

// quietest are the rooms without an event since some moment, the longest quiet first.
const quietest = `SELECT code FROM (
	SELECT code, (SELECT at FROM event WHERE room = code ORDER BY seq DESC LIMIT 1) AS last FROM room
) WHERE coalesce(last, 0) < ? ORDER BY last`

// AppendEvent adds an event to a room.
func (tx *Tx) AppendEvent(room string, e Event) error {
	_, err := tx.exec("INSERT INTO event (room, seq, kind, data, at) VALUES (?, ?, ?, ?, ?)",
		room, e.Seq, e.Kind, string(e.Data), e.At.UnixMilli())
	if err != nil {
		return fmt.Errorf("store event %d of room %s: %w", e.Seq, room, err)
	}
	return nil
}

// RemoveRoom removes a room and its events, and says false where something has happened there since a moment.
func (tx *Tx) RemoveRoom(code string, since time.Time) (bool, error) {
	n, err := tx.exec("DELETE FROM room WHERE code = ? AND code IN ("+quietest+")", code, since.UnixMilli())
	return n == 1, err // the events go with it (ON DELETE CASCADE)
}

// QuietRooms are the codes of the rooms in which nothing happened since a moment.
func (s *Store) QuietRooms(ctx context.Context, since time.Time) ([]string, error) {
	codes, err := texts(ctx, s.read, quietest, since.UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("find quiet rooms: %w", err)
	}
	return codes, nil
}

// Room gives the hash of a room's moderator code.
func (s *Store) Room(ctx context.Context, code string) (moderator []byte, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT moderator FROM room WHERE code = ?", code).Scan(&moderator)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, ErrNoRoom
	case err != nil:
		return nil, fmt.Errorf("read room %s: %w", code, err)
	}
	return moderator, nil
}

// Events gives at most n events of a room that come after the one called after, in order.
func (s *Store) Events(ctx context.Context, room string, after int64, n int) ([]Event, error) {
	return events(ctx, s.read, room, after, n)
}

// Events is Store.Events, with what this transaction has written.
func (tx *Tx) Events(room string, after int64, n int) ([]Event, error) {
	return events(context.Background(), tx.conn, room, after, n)
}

type rowsQueryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func events(ctx context.Context, q rowsQueryer, room string, after int64, n int) ([]Event, error) {
	rows, err := q.QueryContext(ctx,
		"SELECT seq, kind, data, at FROM event WHERE room = ? AND seq > ? ORDER BY seq LIMIT ?", room, after, n)
	if err != nil {
		return nil, fmt.Errorf("read events of room %s: %w", room, err)
	}
	defer rows.Close()
	var all []Event
	for rows.Next() {
		var e Event
		var ms int64
		if err := rows.Scan(&e.Seq, &e.Kind, &e.Data, &ms); err != nil {
			return nil, fmt.Errorf("read events of room %s: %w", room, err)
		}
		e.At = time.UnixMilli(ms).UTC()
		all = append(all, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read events of room %s: %w", room, err)
	}
	return all, nil
}
