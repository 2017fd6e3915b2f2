package rooms

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bowl/internal/game"
	"bowl/internal/store"
)

// fixture is a hub with a room on a file of its own.
type fixture struct {
	*Hub
	path string
	code string
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{path: filepath.Join(t.TempDir(), "bowl.db")}
	f.reopen(t)
	code, _, err := f.Create(t.Context(), game.PerTeam[string]{A: "Owls", B: "Foxes"})
	if err != nil {
		t.Fatal(err)
	}
	f.code = code
	return f
}

// reopen is what a restart is.
func (f *fixture) reopen(t testing.TB) {
	t.Helper()
	if f.Hub != nil {
		if err := f.db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	db, err := store.Open(t.Context(), f.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	f.Hub = New(db, slog.New(slog.DiscardHandler))
}

func (f *fixture) do(t *testing.T, c game.Command) game.Event {
	t.Helper()
	e, err := f.Do(t.Context(), f.code, c)
	if err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	return e
}

func (f *fixture) join(t *testing.T, n int) (ids []string) {
	t.Helper()
	for i := range n {
		p, err := f.Join(t.Context(), f.code, NewTicket(), fmt.Sprint("Player ", i), []game.Team{game.A, game.B}[i%2])
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, p.ID)
	}
	return ids
}

func (f *fixture) use(t *testing.T) *Room {
	t.Helper()
	r, err := f.Use(t.Context(), f.code)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Release)
	return r
}

// hold keeps the writer busy until the returned function is called, so that what comes meanwhile shares a transaction.
func (f *fixture) hold(t *testing.T) (release func()) {
	t.Helper()
	entered, gate := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = f.db.Write(context.Background(), func(*store.Tx) error { close(entered); <-gate; return nil }, nil)
	})
	<-entered
	return func() { close(gate); wg.Wait() }
}

// waitFor waits until n changes are in the queue.
func (f *fixture) waitFor(n int) {
	for f.db.Pending() < n {
		time.Sleep(time.Millisecond)
	}
}

// sql changes the file from outside of the app.
func (f *fixture) sql(t *testing.T, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+f.path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatal(err)
	}
}

func TestSimultaneousPressesTakeOneOrder(t *testing.T) {
	f := newFixture(t)
	ids := f.join(t, 50)
	f.do(t, game.Open{Question: 1})
	places := make([]int, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			for range 3 { // as browsers repeat a press whose answer was lost
				e, err := f.Do(t.Context(), f.code, game.Press{Player: id, Round: 1})
				if err != nil {
					t.Error(err)
					return
				}
				if places[i] != 0 && places[i] != e.Buzz.Place {
					t.Errorf("player %d has the places %d and %d", i, places[i], e.Buzz.Place)
				}
				places[i] = e.Buzz.Place
			}
		})
	}
	wg.Wait()
	state := f.use(t).State()
	for i, b := range state.Buzzes {
		if b.Place != i+1 || places[slices.Index(ids, b.Player)] != b.Place {
			t.Errorf("place %d is %+v, who was told %d", i+1, b, places[slices.Index(ids, b.Player)])
		}
	}
	if len(state.Buzzes) != len(ids) || state.Now.Floor != state.Buzzes[0].Player {
		t.Errorf("%d presses, %s has the floor", len(state.Buzzes), state.Now.Floor)
	}
	f.reopen(t)
	if again := f.use(t).State(); !slices.Equal(again.Buzzes, state.Buzzes) || again.Now != state.Now {
		t.Errorf("after a restart the room is\n%+v, and was\n%+v", again, state)
	}
}

// One command in a transaction that is refused or fails takes none of the others with it.
func TestOneTransaction(t *testing.T) {
	f := newFixture(t)
	ids := f.join(t, 4)
	f.do(t, game.Open{Question: 1})
	release := f.hold(t)
	results := make([]error, 6)
	commands := []game.Command{
		game.Press{Player: ids[0], Round: 1}, game.Judge{Round: 2}, game.Press{Player: "nobody", Round: 1},
		game.Press{Player: ids[1], Round: 1}, game.Judge{Round: 1}, game.Press{Player: ids[3], Round: 2},
	}
	var wg sync.WaitGroup
	for i, c := range commands {
		wg.Go(func() { _, results[i] = f.Do(t.Context(), f.code, c) })
		f.waitFor(i + 1) // the order in the queue
	}
	release()
	wg.Wait()
	want := []error{nil, game.ErrMovedOn, game.ErrNoPlayer, nil, nil, nil}
	for i := range want {
		if !errors.Is(results[i], want[i]) {
			t.Errorf("%+v: %v, want %v", commands[i], results[i], want[i])
		}
	}
	if s := f.use(t).State(); s.Now.Floor != ids[3] || s.Now.Round != 2 || s.Seq != 10 {
		t.Errorf("the room is %+v", s)
	}
}

// A transaction that fails as a whole leaves nothing of itself in memory: those who watch have not seen it, and the next
// command meets the room as it was.
func TestFailedTransaction(t *testing.T) {
	f := newFixture(t)
	ids := f.join(t, 2)
	f.do(t, game.Open{Question: 1})
	f.sql(t, `CREATE TRIGGER full BEFORE INSERT ON press
		BEGIN SELECT raise(ROLLBACK, 'database or disk is full'); END`) // ends the transaction, as a full disk does
	release := f.hold(t)
	var wg sync.WaitGroup
	for i, do := range []func() error{
		func() error { _, err := f.Do(t.Context(), f.code, game.Press{Player: ids[0], Round: 1}); return err },
		func() error { _, err := f.db.Press(t.Context(), "Ann", time.Now(), nil); return err },
		func() error { _, err := f.Do(t.Context(), f.code, game.Press{Player: ids[1], Round: 1}); return err },
	} {
		wg.Go(func() {
			if err := do(); err == nil || !strings.Contains(err.Error(), "disk is full") {
				t.Errorf("change %d: %v", i, err)
			}
		})
		f.waitFor(i + 1)
	}
	release()
	wg.Wait()
	if s := f.use(t).State(); s.Seq != 4 || len(s.Buzzes) > 0 {
		t.Errorf("the room shows what is not on the disk: %+v", s)
	}
	if e := f.do(t, game.Press{Player: ids[1], Round: 1}); e.Buzz.Place != 1 || e.Seq != 5 {
		t.Errorf("the next press: %+v", e)
	}
}

// Another process on the same file, as a mistake in a hand-over would make it: no event is lost or stored twice.
func TestTwoProcesses(t *testing.T) {
	f := newFixture(t)
	ids := f.join(t, 2)
	f.do(t, game.Open{Question: 1})
	other := &fixture{path: f.path, code: f.code}
	other.reopen(t)
	reader := f.use(t).Read("")
	next(t, reader) // the state
	other.do(t, game.Press{Player: ids[1], Round: 1})
	if _, err := f.Do(t.Context(), f.code, game.Press{Player: ids[0], Round: 1}); err == nil {
		t.Error("a press was taken by a process that did not know the newest")
	}
	if e := f.do(t, game.Press{Player: ids[0], Round: 1}); e.Buzz.Place != 2 {
		t.Errorf("the press after that: %+v", e)
	}
	if got := strings.Join(next(t, reader), " "); got != "pressed pressed" {
		t.Errorf("who watches sees %s", got)
	}
}

func TestJoinAgain(t *testing.T) {
	f := newFixture(t)
	first, err := f.Join(t.Context(), f.code, "ticket", "Ann", game.A)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.Join(t.Context(), f.code, "ticket", "Ann", game.A)
	if err != nil || again != first {
		t.Errorf("the same ticket made %+v and %+v (%v)", first, again, err)
	}
	if _, err := f.Join(t.Context(), f.code, first.ID, "Ben", game.A); err != nil || len(f.use(t).State().Players) != 2 {
		t.Errorf("what is public of a player is no ticket to be that player: %v, %+v", err, f.use(t).State().Players)
	}
}

func TestModerator(t *testing.T) {
	f := newFixture(t)
	code, secret, err := f.Create(t.Context(), game.PerTeam[string]{})
	if err != nil {
		t.Fatal(err)
	}
	f.reopen(t)
	r, err := f.Use(t.Context(), code)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	written := strings.ToLower(secret[:4] + "-" + secret[4:8] + " " + secret[8:])
	if !r.Moderator(secret) || !r.Moderator(written) {
		t.Error("the moderator code was refused")
	}
	if r.Moderator("") || r.Moderator(secret[:11]) || f.use(t).Moderator(secret) {
		t.Error("another code was taken")
	}
}

func TestQuietRoomsGo(t *testing.T) {
	f := newFixture(t)
	now := time.Now()
	f.now = func() time.Time { return now }
	old := f.code
	now = now.Add(Quiet - time.Hour)
	f.do(t, game.Open{Question: 1})
	now = now.Add(2 * time.Hour)
	quiet, _, err := f.Create(t.Context(), game.PerTeam[string]{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.sweep(t.Context()); n != 0 || err != nil {
		t.Fatalf("%d rooms removed, %v", n, err)
	}
	watched := f.use(t)
	if removed, err := f.remove(t.Context(), old, now.Add(-3*time.Hour)); removed || err != nil { // found quiet a moment too early
		t.Fatalf("removed %v, %v", removed, err)
	}
	f.do(t, game.Skip{Round: 1})
	if got := watched.State().Now.Phase; got != game.Waiting {
		t.Errorf("who watches the room sees it %s", got)
	}
	now = now.Add(Quiet + time.Hour)
	if _, err := f.Do(t.Context(), quiet, game.Open{Question: 1}); err != nil {
		t.Fatal(err)
	}
	if n, err := f.sweep(t.Context()); n != 1 || err != nil {
		t.Fatalf("%d rooms removed, %v", n, err)
	}
	if _, err := f.Use(t.Context(), old); !errors.Is(err, ErrNoRoom) {
		t.Errorf("the old room: %v", err)
	}
	if _, err := f.Do(t.Context(), old, game.Skip{Round: 1}); !errors.Is(err, ErrNoRoom) {
		t.Errorf("a command for it: %v", err)
	}
	if left, err := f.db.Events(t.Context(), old, 0, 10); len(left) > 0 || err != nil {
		t.Errorf("its events: %v, %v", left, err)
	}
	f.code = quiet
	f.use(t)
}

// With all places taken, a new room takes that of one that nobody joined, or else of the one that was quiet for the longest
// time, if that is long enough.
func TestRoomsAreBounded(t *testing.T) {
	f := newFixture(t)
	f.join(t, 1)
	now := time.Now().Add(time.Second) // after the fixture made its room
	f.now = func() time.Time { return now }
	f.sql(t, fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 100000 UNION ALL SELECT i+1 FROM n WHERE i < %d)
		INSERT INTO room SELECT i, x'' FROM n`, 100000+MaxRooms-2))
	f.sql(t, fmt.Sprintf(`INSERT INTO event SELECT code, 1, 'created', '{}', %d FROM room WHERE code < 'A'`, now.UnixMilli()))
	if _, _, err := f.Create(t.Context(), game.PerTeam[string]{}); !errors.Is(err, ErrBusy) {
		t.Fatalf("one room too many: %v", err)
	}
	watched := f.use(t) // the room of the fixture is older by a second, and loaded
	now = now.Add(emptyFor + time.Second)
	if _, _, err := f.Create(t.Context(), game.PerTeam[string]{}); err != nil {
		t.Fatalf("in the place of a room that nobody joined: %v", err)
	}
	f.sql(t, `UPDATE event SET kind = 'joined' WHERE seq = 1`)
	if _, _, err := f.Create(t.Context(), game.PerTeam[string]{}); !errors.Is(err, ErrBusy) {
		t.Fatalf("one room too many, all joined: %v", err)
	}
	now = now.Add(quietDay)
	if _, _, err := f.Create(t.Context(), game.PerTeam[string]{}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Do(t.Context(), f.code, game.Open{Question: 1}); err == nil {
		t.Error("a room that was removed went on")
	}
	if _, err := f.Do(t.Context(), f.code, game.Open{Question: 1}); !errors.Is(err, ErrNoRoom) {
		t.Errorf("a room that was removed: %v", err)
	}
	if got := watched.State().Seq; got != 2 {
		t.Errorf("who is in it sees event %d", got)
	}
}

// With all bytes taken, a room that is in use goes on as long as others are not.
func TestBytesAreBounded(t *testing.T) {
	f := newFixture(t)
	f.join(t, 1)
	empty, _, err := f.Create(t.Context(), game.PerTeam[string]{})
	if err != nil {
		t.Fatal(err)
	}
	f.maxBytes = 1
	if _, _, err := f.Create(t.Context(), game.PerTeam[string]{}); !errors.Is(err, ErrBusy) {
		t.Errorf("a new room: %v", err)
	}
	if _, err := f.Do(t.Context(), f.code, game.Open{Question: 1}); !errors.Is(err, ErrBusy) {
		t.Errorf("one event more: %v", err)
	}
	now := time.Now().Add(emptyFor + time.Second)
	f.now = func() time.Time { return now }
	f.do(t, game.Open{Question: 1})
	if _, err := f.db.Room(t.Context(), empty); !errors.Is(err, ErrNoRoom) {
		t.Errorf("the room that nobody joined: %v", err)
	}
	if _, err := f.Do(t.Context(), f.code, game.Skip{Round: 1}); !errors.Is(err, ErrBusy) {
		t.Errorf("where no other room is left: %v", err)
	}
	f.maxBytes = maxBytes
	f.do(t, game.Skip{Round: 1})
}

func TestMemoryIsBounded(t *testing.T) {
	f := newFixture(t)
	for i := range maxLoaded - 1 {
		f.rooms[fmt.Sprint(i)] = &Room{users: 1}
	}
	f.use(t)
	other, _, err := f.Create(t.Context(), game.PerTeam[string]{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Use(t.Context(), other); !errors.Is(err, ErrBusy) {
		t.Errorf("one room too many in use: %v", err)
	}
	f.rooms["7"].users = 0
	r, err := f.Use(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	r.Release()
	if f.rooms["7"] != nil || len(f.rooms) != maxLoaded {
		t.Errorf("%d rooms are in memory", len(f.rooms))
	}
	third, _, err := f.Create(t.Context(), game.PerTeam[string]{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err = f.Use(t.Context(), third); err != nil {
		t.Fatalf("nobody uses %s any more, but it stays in memory: %v", other, err)
	}
	r.Release()
}
