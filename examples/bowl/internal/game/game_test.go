package game

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// match is a room with players a1, a2, b1 and b2, and what has happened in it.
type match struct {
	state  State
	events []Event
	at     time.Time
}

func newMatch(t *testing.T) *match {
	m := &match{at: start}
	m.do(t, Create{PerTeam[string]{"Owls", "Foxes"}})
	for _, id := range []string{"a1", "a2", "b1", "b2"} {
		m.do(t, Join{ID: id, Name: strings.ToUpper(id), Team: Team(id[:1])})
	}
	return m
}

// do gives "ok", the code of a refusal, or "again" where nothing new happened. Each command comes 5 ms after the last.
func (m *match) do(t *testing.T, c Command) string {
	t.Helper()
	m.at = m.at.Add(5 * time.Millisecond)
	before := fmt.Sprintf("%+v", m.state)
	was := m.state
	e, next, err := Decide(m.state, c, m.at)
	if after := fmt.Sprintf("%+v", was); after != before {
		t.Fatalf("%+v changed the state that it was given:\n%s\n%s", c, before, after)
	}
	if err != nil {
		refusal, ok := errors.AsType[*Refusal](err)
		if !ok {
			t.Fatal(err)
		}
		return refusal.Code
	}
	m.state = next
	if e.Seq == 0 {
		return "again"
	}
	m.events = append(m.events, e)
	return "ok"
}

// text is a state in a line: phase, question.round, floor, locked teams, score, the order of buzzes.
func (m *match) text() string {
	now := m.state.Now
	locked := ""
	for _, t := range []Team{A, B} {
		if *now.Locked.Of(t) {
			locked += string(t)
		}
	}
	var order []string
	for _, b := range m.state.Buzzes {
		order = append(order, b.Player)
	}
	return fmt.Sprintf("%s %d.%d floor=%s locked=%s %d:%d [%s]", now.Phase, now.Question, now.Round, now.Floor, locked,
		now.Scores.A, now.Scores.B, strings.Join(order, " "))
}

func TestRules(t *testing.T) {
	type step struct {
		do   Command
		want string // what do gives
	}
	press := func(who string, round int) Press { return Press{who, round} }
	for _, c := range []struct {
		name  string
		steps []step
		want  string
	}{
		{"nobody presses before a question", []step{{press("a1", 0), "not-open"}, {press("a1", 1), "moved-on"}},
			"waiting 0.0 floor= locked= 0:0 []"},
		{"the first press has the floor, later ones a place", []step{
			{Open{1}, "ok"}, {press("b1", 1), "ok"}, {press("a1", 1), "ok"}, {press("b2", 1), "ok"},
		}, "answering 1.1 floor=b1 locked= 0:0 [b1 a1 b2]"},
		{"a repeated press keeps its place", []step{
			{Open{1}, "ok"}, {press("b1", 1), "ok"}, {press("a1", 1), "ok"}, {press("b1", 1), "again"}, {press("a1", 1), "again"},
		}, "answering 1.1 floor=b1 locked= 0:0 [b1 a1]"},
		{"right closes the question", []step{
			{Open{1}, "ok"}, {press("a1", 1), "ok"}, {Judge{1, true}, "ok"}, {press("b1", 1), "not-open"}, {press("a1", 1), "again"},
		}, "waiting 1.1 floor= locked= 4:0 [a1]"},
		{"wrong opens a round to the other team", []step{
			{Open{1}, "ok"}, {press("a1", 1), "ok"}, {press("b1", 1), "ok"}, {Judge{1, false}, "ok"},
			{press("a2", 2), "locked"}, {press("b2", 1), "moved-on"}, {press("b1", 1), "again"}, {press("b2", 2), "ok"},
		}, "answering 1.2 floor=b2 locked=a 0:0 [b2]"},
		{"both wrong closes", []step{
			{Open{1}, "ok"}, {press("a1", 1), "ok"}, {Judge{1, false}, "ok"}, {press("b1", 2), "ok"}, {Judge{2, false}, "ok"},
		}, "waiting 1.2 floor= locked=ab 0:0 [b1]"},
		{"the next question unlocks", []step{
			{Open{1}, "ok"}, {press("a1", 1), "ok"}, {Judge{1, false}, "ok"}, {Skip{2}, "ok"}, {Open{2}, "ok"}, {press("a2", 3), "ok"},
		}, "answering 2.3 floor=a2 locked= 0:0 [a2]"},
		{"a judgement counts once", []step{
			{Open{1}, "ok"}, {press("a1", 1), "ok"}, {Judge{1, false}, "ok"}, {Judge{1, false}, "moved-on"}, {press("b1", 2), "ok"},
			{Judge{1, true}, "moved-on"}, {Judge{2, true}, "ok"}, {Judge{2, true}, "moved-on"},
		}, "waiting 1.2 floor= locked=a 0:4 [b1]"},
		{"nobody to judge", []step{{Judge{0, true}, "moved-on"}, {Open{1}, "ok"}, {Judge{1, true}, "moved-on"}},
			"armed 1.1 floor= locked= 0:0 []"},
		{"a question opens once and in turn", []step{{Open{2}, "moved-on"}, {Open{1}, "ok"}, {Open{1}, "moved-on"}, {Open{2}, "moved-on"}},
			"armed 1.1 floor= locked= 0:0 []"},
		{"reset forgets the presses and keeps the lock", []step{
			{Open{1}, "ok"}, {press("a1", 1), "ok"}, {Judge{1, false}, "ok"}, {press("b1", 2), "ok"}, {Rearm{1}, "moved-on"},
			{Rearm{2}, "ok"}, {press("b1", 2), "again"}, {press("b2", 3), "ok"}, {press("a1", 3), "locked"},
		}, "answering 1.3 floor=b2 locked=a 0:0 [b2]"},
		{"skip", []step{{Skip{0}, "moved-on"}, {Open{1}, "ok"}, {press("a1", 1), "ok"}, {Skip{1}, "ok"}, {Skip{1}, "moved-on"}},
			"waiting 1.1 floor= locked= 0:0 [a1]"},
		{"undo of right", []step{
			{Open{1}, "ok"}, {press("a1", 1), "ok"}, {press("b1", 1), "ok"}, {Judge{1, true}, "ok"},
			{Undo{0}, "moved-on"}, {Undo{9}, "ok"}, {Undo{9}, "moved-on"},
		}, "answering 1.1 floor=a1 locked= 0:0 [a1 b1]"},
		{"undo of wrong makes the round after it void", []step{
			{Open{1}, "ok"}, {press("a1", 1), "ok"}, {Judge{1, false}, "ok"}, {press("b1", 2), "ok"}, {Undo{8}, "ok"},
			{press("b1", 2), "again"}, {press("b1", 1), "ok"}, {press("b1", 1), "again"}, {Judge{1, false}, "ok"}, {press("b2", 3), "ok"},
		}, "answering 1.3 floor=b2 locked=a 0:0 [b2]"},
		{"undo after the next question was opened", []step{
			{Open{1}, "ok"}, {press("a1", 1), "ok"}, {Judge{1, true}, "ok"}, {Open{2}, "ok"}, {press("b1", 2), "ok"}, {Undo{8}, "ok"},
			{Judge{1, false}, "ok"}, {Skip{3}, "ok"}, {Open{2}, "ok"},
		}, "armed 2.4 floor= locked= 0:0 []"},
		{"undo one after the other", []step{
			{Open{1}, "ok"}, {press("a1", 1), "ok"}, {Judge{1, true}, "ok"}, {Open{2}, "ok"}, {press("b1", 2), "ok"}, {Judge{2, true}, "ok"},
			{Undo{8}, "moved-on"}, {Undo{11}, "ok"}, {Undo{8}, "ok"},
		}, "answering 1.1 floor=a1 locked= 0:0 [a1]"},
		{"the end, and on with it", []step{
			{Open{1}, "ok"}, {End{}, "moved-on"}, {Skip{1}, "ok"}, {End{}, "ok"}, {Open{2}, "moved-on"}, {press("a1", 1), "not-open"},
			{End{}, "moved-on"}, {Reopen{}, "ok"}, {Reopen{}, "moved-on"}, {Open{2}, "ok"},
		}, "armed 2.2 floor= locked= 0:0 []"},
		{"who is not there cannot press", []step{{Open{1}, "ok"}, {press("x", 1), "no-player"}}, "armed 1.1 floor= locked= 0:0 []"},
		{"who has the floor cannot be removed", []step{
			{Open{1}, "ok"}, {press("a1", 1), "ok"}, {Remove{"a1"}, "has-floor"}, {Remove{"x"}, "no-player"}, {Judge{1, true}, "ok"},
			{Remove{"a1"}, "ok"}, {press("a1", 1), "no-player"}, {Undo{8}, "no-player"}, {Join{"a9", "A1", A}, "ok"},
		}, "waiting 1.1 floor= locked= 4:0 [a1]"},
		{"names are one person's", []step{{Join{"a5", "b1", A}, "name-taken"}, {Join{"a1", "Other", B}, "again"}},
			"waiting 0.0 floor= locked= 0:0 []"},
		{"a room is created once", []step{{Create{}, "moved-on"}}, "waiting 0.0 floor= locked= 0:0 []"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMatch(t)
			for i, s := range c.steps {
				if got := m.do(t, s.do); got != s.want {
					t.Fatalf("step %d, %+v: %s, want %s; the room is %s", i+1, s.do, got, s.want, m.text())
				}
			}
			if got := m.text(); got != c.want {
				t.Errorf("the room is\n%s, want\n%s", got, c.want)
			}
			m.isWhatItsEventsSay(t)
		})
	}
}

// isWhatItsEventsSay folds the events as they are stored, and compares what each says with the state after it.
func (m *match) isWhatItsEventsSay(t *testing.T) {
	t.Helper()
	var s State
	for _, e := range m.events {
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var again Event
		if err := json.Unmarshal(data, &again); err != nil {
			t.Fatal(err)
		}
		s = Apply(s, again)
		if s.Now != e.Now {
			t.Errorf("event %d says that now is %+v, and its fold %+v", e.Seq, e.Now, s.Now)
		}
	}
	if !reflect.DeepEqual(s, m.state) {
		t.Errorf("the events make\n%+v, and the room is\n%+v", s, m.state)
	}
}

func TestPoints(t *testing.T) {
	m := newMatch(t)
	for question, who := range []string{"a1", "b1", "a1", "a2"} {
		m.do(t, Open{question + 1})
		m.do(t, Press{who, m.state.Now.Round})
		m.do(t, Judge{m.state.Now.Round, who != "b1"})
		if who == "b1" {
			m.do(t, Skip{m.state.Now.Round})
		}
	}
	points := func() (all []int) {
		for _, p := range m.state.Players {
			all = append(all, p.Points)
		}
		return all
	}
	if got := points(); !reflect.DeepEqual(got, []int{8, 4, 0, 0}) || m.state.Now.Scores != (PerTeam[int]{12, 0}) {
		t.Errorf("points %v, scores %v", got, m.state.Now.Scores)
	}
	m.do(t, Undo{m.state.Now.Undo})
	if got := points(); !reflect.DeepEqual(got, []int{8, 0, 0, 0}) || m.state.Now.Scores != (PerTeam[int]{8, 0}) {
		t.Errorf("after an undo: points %v, scores %v", got, m.state.Now.Scores)
	}
	if last := m.events[len(m.events)-1]; last.Player.Points != 0 || len(last.Buzzes) != 1 {
		t.Errorf("the undo says %+v", last)
	}
}

func TestBehind(t *testing.T) {
	m := newMatch(t)
	m.do(t, Open{1})
	m.do(t, Press{"a1", 1})
	m.do(t, Press{"b1", 1})
	m.at = start // the clock is set back
	m.do(t, Press{"a2", 1})
	want := []Buzz{
		{"a1", "A1", A, 1, 1, 0}, {"b1", "B1", B, 1, 2, 5}, {"a2", "A2", A, 1, 3, 5},
	}
	if !reflect.DeepEqual(m.state.Buzzes, want) {
		t.Errorf("buzzes %+v, want %+v", m.state.Buzzes, want)
	}
}

func TestLimits(t *testing.T) {
	m := newMatch(t)
	for i := len(m.state.Players); i < MaxPlayers; i++ {
		if got := m.do(t, Join{fmt.Sprint("p", i), fmt.Sprint("P", i), A}); got != "ok" {
			t.Fatal(got)
		}
	}
	if got := m.do(t, Join{"more", "More", A}); got != "crowded" {
		t.Errorf("one player too many: %s", got)
	}
	seats := map[string]bool{}
	for _, p := range m.state.Players {
		seats[fmt.Sprint(p.Team, p.Seat)] = true
	}
	if len(seats) != MaxPlayers {
		t.Errorf("%d players have %d seats", MaxPlayers, len(seats))
	}
	m.state.Seq = MaxEvents
	if got := m.do(t, Open{1}); got != "full" {
		t.Errorf("one event too many: %s", got)
	}
}

// Whatever is asked in whatever order, the room stays what its events make of it, and one player at most has the floor.
func FuzzMatch(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 8, 2, 9, 10, 11, 12, 13})
	f.Fuzz(func(t *testing.T, do []byte) {
		m := newMatch(t)
		for _, b := range do[:min(len(do), 200)] {
			now := m.state.Now
			who := []string{"a1", "a2", "b1", "b2"}[b>>6]
			round := now.Round - int(b>>5&1)
			commands := []Command{
				Open{now.Question + 1}, Press{who, round}, Press{who, round}, Judge{round, true}, Judge{round, false},
				Undo{now.Undo}, Skip{round}, Rearm{round}, End{}, Reopen{}, Remove{who}, Join{who, who, A},
			}
			m.do(t, commands[int(b&31)%len(commands)])
			if now := m.state.Now; (now.Floor != "") != (now.Phase == Answering) || now.Phase == Answering && m.state.Buzzes[0].Player != now.Floor {
				t.Fatalf("after %+v: %s", m.events[len(m.events)-1], m.text())
			}
		}
		m.isWhatItsEventsSay(t)
	})
}
