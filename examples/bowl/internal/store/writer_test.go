package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// hold keeps the writer busy until the returned function is called, so that what comes meanwhile shares a transaction.
func hold(t *testing.T, s *Store) (release func()) {
	t.Helper()
	entered, gate := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Write(context.Background(), func(*Tx) error { close(entered); <-gate; return nil }, nil); err != nil {
			t.Error(err)
		}
	})
	<-entered
	return func() { close(gate); wg.Wait() }
}

// waitFor waits until n changes are in the queue.
func waitFor(s *Store, n int) {
	for s.Pending() < n {
		time.Sleep(time.Millisecond)
	}
}

func insert(tx *Tx, name string) error {
	_, err := tx.exec("INSERT INTO press (name, at) VALUES (?, 0)", name)
	return err
}

func names(t *testing.T, s *Store) (all []string) {
	t.Helper()
	presses, err := s.Latest(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range presses {
		all = append(all, p.Name)
	}
	return all
}

// What waits shares a transaction in the order of its arrival; one that fails leaves nothing and takes nobody with it.
func TestGroupCommit(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "bowl.db"))
	refused := errors.New("refused")
	release := hold(t, s)
	var log []string // the writer's goroutine alone writes to it
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			want := error(nil)
			if i == 2 {
				want = refused
			}
			err := s.Write(t.Context(), func(tx *Tx) error {
				log = append(log, fmt.Sprint("do ", i))
				return errors.Join(insert(tx, fmt.Sprint(i)), want)
			}, func(err error) { log = append(log, fmt.Sprint("done ", i, err == nil)) })
			if !errors.Is(err, want) {
				t.Errorf("change %d: %v, want %v", i, err, want)
			}
		})
		waitFor(s, i+1) // the order in the queue
	}
	release()
	wg.Wait()
	want := []string{"do 0", "do 1", "do 2", "do 3", "do 4", "done 0 true", "done 1 true", "done 2 false", "done 3 true", "done 4 true"}
	if !slices.Equal(log, want) {
		t.Errorf("the writer did %q", log)
	}
	if got := names(t, s); !slices.Equal(got, []string{"0", "1", "3", "4"}) {
		t.Errorf("stored %q", got)
	}
}

// Where SQLite gives up the transaction, as on a full disk, all in it are told so, and none is stored.
func TestTransactionThatFails(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "bowl.db"))
	if _, err := s.write.Exec(`CREATE TRIGGER full BEFORE INSERT ON press WHEN new.name = '1'
		BEGIN SELECT raise(ROLLBACK, 'database or disk is full'); END`); err != nil {
		t.Fatal(err)
	}
	release := hold(t, s)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			told := false
			err := s.Write(t.Context(), func(tx *Tx) error { return insert(tx, fmt.Sprint(i)) }, func(err error) { told = err != nil })
			if err == nil || !strings.Contains(err.Error(), "disk is full") || !told {
				t.Errorf("change %d: %v, told %v", i, err, told)
			}
		})
		waitFor(s, i+1)
	}
	release()
	wg.Wait()
	if got := names(t, s); len(got) > 0 {
		t.Errorf("stored %q", got)
	}
	if err := s.Write(t.Context(), func(tx *Tx) error { return insert(tx, "after") }, nil); err != nil {
		t.Errorf("the next transaction: %v", err)
	}
}

// What is in the queue is made, though its visitor has left, and before the database closes.
func TestQueueIsEmptied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bowl.db")
	s := open(t, path)
	release := hold(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { left <- s.Write(ctx, func(tx *Tx) error { return insert(tx, "Ann") }, nil) }()
	waitFor(s, 1)
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("a visitor who left: %v", err)
	}
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	<-s.closing
	release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := s.Write(t.Context(), func(*Tx) error { return nil }, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("a change after the close: %v", err)
	}
	if got := names(t, open(t, path)); !slices.Equal(got, []string{"Ann"}) {
		t.Errorf("stored %q", got)
	}
}

// What was removed is free again, though the file stays as long as it was.
func TestFull(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "bowl.db"))
	full := func(do func(*Tx) error) (is bool) {
		t.Helper()
		err := s.Write(t.Context(), func(tx *Tx) (err error) {
			if err := do(tx); err != nil {
				return err
			}
			is, err = tx.Full(1, 1<<20)
			return err
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	fill := func(tx *Tx) error {
		_, err := tx.CreateRoom("BCDFGH", []byte{1})
		for seq := range int64(300) {
			err = errors.Join(err, tx.AppendEvent("BCDFGH", Event{Seq: seq + 1, Kind: "created", Data: fmt.Appendf(nil, "%4000d", 1)}))
		}
		return err
	}
	if full(func(*Tx) error { return nil }) || !full(fill) {
		t.Error("a MiB that is taken, or is not, makes no difference")
	}
	empty := func(tx *Tx) error { _, err := tx.Evict("", time.Now(), time.Time{}); return err }
	if full(empty) {
		t.Error("what was removed is not free")
	}
	for i := range 2 {
		got := full(func(tx *Tx) error { _, err := tx.CreateRoom(fmt.Sprint("BCDFG", i), []byte{1}); return err })
		if want := i == 1; got != want {
			t.Errorf("with %d rooms: %v", i+1, got)
		}
	}
}
