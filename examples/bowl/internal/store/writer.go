package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// maxBatch bounds one transaction, and with it how long the first of its changes waits.
const maxBatch = 256

// ErrClosed is the answer to a change that came after Close.
var ErrClosed = errors.New("the database is closed")

// Tx is the writer's transaction, as one change sees it.
type Tx struct{ conn *sql.Conn }

func (tx *Tx) exec(query string, args ...any) (int64, error) {
	r, err := tx.conn.ExecContext(context.Background(), query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (tx *Tx) row(query string, args ...any) *sql.Row {
	return tx.conn.QueryRowContext(context.Background(), query, args...)
}

// change is something to write, on its way through the queue.
type change struct {
	do       func(*Tx) error
	done     func(error)
	err      error
	finished chan struct{}
}

// Write puts a change into the queue and waits until it is on the disk. Changes are made in the order of the queue, and
// all that wait share one transaction: its cost is the sync to the disk, which one pays for all.
//
// do runs in that transaction; its error undoes what do did and nothing else. Then, in the same order and before the next
// transaction, done is told how it ended: after nil, the change survives a power cut. An error that is not do's own means
// that the whole transaction failed. Both run in the writer's goroutine, one at a time. When ctx ends, Write no longer
// waits; what is in the queue is still made.
func (s *Store) Write(ctx context.Context, do func(*Tx) error, done func(error)) error {
	c := &change{do: do, done: done, finished: make(chan struct{})}
	select {
	case s.queue <- c:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return ErrClosed
	}
	select {
	case <-c.finished:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped:
	}
	select {
	case <-c.finished: // by the last transaction
		return c.err
	default:
		return ErrClosed
	}
}

// Pending is how many changes wait in the queue.
func (s *Store) Pending() int { return len(s.queue) }

// writeAll is the writer's goroutine.
func (s *Store) writeAll() {
	defer close(s.stopped)
	for {
		select {
		case c := <-s.queue:
			s.commit(s.waiting(c))
			continue
		default:
		}
		select {
		case c := <-s.queue:
			s.commit(s.waiting(c))
		case <-s.closing:
			return
		}
	}
}

// waiting is the first change and those that are in the queue by now.
func (s *Store) waiting(first *change) []*change {
	batch := []*change{first}
	for len(batch) < maxBatch {
		select {
		case c := <-s.queue:
			batch = append(batch, c)
		default:
			return batch
		}
	}
	return batch
}

func (s *Store) commit(batch []*change) {
	if err := s.transact(batch); err != nil {
		for _, c := range batch {
			c.err = fmt.Errorf("write to the database: %w", err)
		}
	}
	for _, c := range batch {
		if c.done != nil {
			c.done(c.err)
		}
		close(c.finished)
	}
}

// transact makes all changes in one transaction. The statements are plain ones, because a COMMIT that fails may leave the
// transaction open, and database/sql would put the connection back as it is.
func (s *Store) transact(batch []*change) (err error) {
	ctx := context.Background() // a change in the queue is made, whoever still waits for it
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	tx := &Tx{conn}
	if _, err := tx.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for _, c := range batch {
		if err := tx.change(c); err != nil {
			_, _ = tx.exec("ROLLBACK") // SQLite may have done so itself
			return err
		}
	}
	if _, err := tx.exec("COMMIT"); err != nil {
		_, _ = tx.exec("ROLLBACK")
		return err
	}
	return nil
}

// change makes one change or none of it. It fails only if the transaction cannot go on: after some errors (a full disk)
// SQLite ends it by itself, and the savepoint is gone.
func (tx *Tx) change(c *change) error {
	if _, err := tx.exec("SAVEPOINT change"); err != nil {
		return err
	}
	if c.err = c.do(tx); c.err != nil {
		if _, err := tx.exec("ROLLBACK TO change"); err != nil {
			return errors.Join(c.err, err)
		}
	}
	_, err := tx.exec("RELEASE change")
	return err
}
