package game

import (
	"math"
	"slices"
	"strings"
	"time"
)

// Refusal is the answer to a command that the rules do not allow now.
type Refusal struct {
	Code string // for programs
	Text string // for people
}

func (r *Refusal) Error() string { return r.Text }

// The refusals.
var (
	ErrMovedOn   = &Refusal{"moved-on", "The room has moved on."}
	ErrNotOpen   = &Refusal{"not-open", "No question is open."}
	ErrLocked    = &Refusal{"locked", "Your team has answered this question already."}
	ErrNoPlayer  = &Refusal{"no-player", "There is no such player in this room."}
	ErrNameTaken = &Refusal{"name-taken", "Somebody in this room has that name already."}
	ErrCrowded   = &Refusal{"crowded", "This room has as many players as it can take."}
	ErrHasFloor  = &Refusal{"has-floor", "This player has the floor: judge the answer first."}
	ErrFull      = &Refusal{"full", "This room can take no more: create a new one."}
)

// Command is something that somebody wants to happen. Who may want it is not decided here.
type Command interface {
	decide(s State, e *Event) error
}

// The commands. Those that answer to something on a page name what they saw there: a repeated one, or one that crossed
// another on the way, then finds that the room has moved on and changes nothing.
type (
	Create struct{ Teams PerTeam[string] }
	// Join repeated with the same ID gives the player that is there.
	Join struct {
		ID, Name string
		Team     Team
	}
	Remove struct{ Player string }
	Open   struct{ Question int } // the next one
	// Press repeated in its round gives the place that it has.
	Press struct {
		Player string
		Round  int
	}
	Judge struct {
		Round int
		Right bool
	}
	Undo   struct{ Seq int64 } // of the newest judgement
	Skip   struct{ Round int } // closes the question
	Rearm  struct{ Round int } // forgets the presses of the round
	End    struct{}
	Reopen struct{}
)

// Decide says what a command leads to: an event and the state after it. The event of a command that was done before has
// no Seq: it says again what came of it, and the state stays as it is.
func Decide(s State, c Command, at time.Time) (Event, State, error) {
	e := Event{Seq: s.Seq + 1, At: at.UTC().Truncate(time.Microsecond)}
	if err := c.decide(s, &e); err != nil {
		return Event{}, s, err
	}
	if e.Seq == 0 {
		e.Now = s.Now
		return e, s, nil
	}
	if e.Seq > MaxEvents {
		return Event{}, s, ErrFull
	}
	next := Apply(s, e)
	e.Now = next.Now
	return e, next, nil
}

func (c Create) decide(s State, e *Event) error {
	if s.Seq != 0 {
		return ErrMovedOn
	}
	e.Kind, e.Teams = Created, &c.Teams
	return nil
}

func (c Join) decide(s State, e *Event) error {
	if p, ok := s.Player(c.ID); ok {
		e.Seq, e.Kind, e.Player = 0, Joined, &p
		return nil
	}
	if len(s.Players) >= MaxPlayers {
		return ErrCrowded
	}
	p := Player{ID: c.ID, Name: c.Name, Team: c.Team, Seat: 1}
	for _, other := range s.Players {
		if strings.EqualFold(other.Name, p.Name) {
			return ErrNameTaken
		}
		if other.Team == p.Team {
			p.Seat = max(p.Seat, other.Seat+1)
		}
	}
	e.Kind, e.Player = Joined, &p
	return nil
}

func (c Remove) decide(s State, e *Event) error {
	p, ok := s.Player(c.Player)
	switch {
	case !ok:
		return ErrNoPlayer
	case s.Now.Floor == c.Player:
		return ErrHasFloor
	}
	e.Kind, e.Player = Left, &p
	return nil
}

func (c Open) decide(s State, e *Event) error {
	if s.Now.Phase != Waiting || c.Question != s.Now.Question+1 {
		return ErrMovedOn
	}
	e.Kind = Opened
	return nil
}

func (c Press) decide(s State, e *Event) error {
	p, ok := s.Player(c.Player)
	if !ok {
		return ErrNoPlayer
	}
	e.Kind = Pressed
	same := func(b Buzz) bool { return b.Player == c.Player && b.Round == c.Round }
	if i := slices.IndexFunc(s.Buzzes, same); i >= 0 {
		e.Seq, e.Buzz = 0, &s.Buzzes[i]
		return nil
	}
	if same(p.last) {
		e.Seq, e.Buzz = 0, &p.last
		return nil
	}
	switch {
	case c.Round != s.Now.Round:
		return ErrMovedOn
	case s.Now.Phase != Armed && s.Now.Phase != Answering:
		return ErrNotOpen
	case *s.Now.Locked.Of(p.Team):
		return ErrLocked
	}
	b := Buzz{Player: p.ID, Name: p.Name, Team: p.Team, Round: c.Round, Place: len(s.Buzzes) + 1}
	if n := len(s.Buzzes); n > 0 { // the order is that of arrival here, so a clock that is set back must not seem to change it
		ms := float64(e.At.Sub(s.first).Microseconds()) / 1000
		b.BehindMS = max(s.Buzzes[n-1].BehindMS, math.Round(ms*10)/10)
	}
	e.Buzz = &b
	return nil
}

func (c Judge) decide(s State, e *Event) error {
	if s.Now.Phase != Answering || c.Round != s.Now.Round {
		return ErrMovedOn
	}
	p := s.Players[s.player(s.Now.Floor)] // who has the floor cannot leave
	if c.Right {
		p.Points += Reward
	}
	e.Kind, e.Player, e.Right = Judged, &p, c.Right
	return nil
}

func (c Undo) decide(s State, e *Event) error {
	if c.Seq == 0 || c.Seq != s.Now.Undo {
		return ErrMovedOn
	}
	last := s.judgements[len(s.judgements)-1]
	p, ok := s.Player(last.player)
	if !ok { // has left since: nobody is there to have the floor again
		return ErrNoPlayer
	}
	if last.right {
		p.Points -= Reward
	}
	e.Kind, e.Player, e.Buzzes = Undone, &p, last.buzzes
	return nil
}

func (c Skip) decide(s State, e *Event) error {
	e.Kind = Skipped
	return s.open(c.Round)
}

func (c Rearm) decide(s State, e *Event) error {
	e.Kind = Rearmed
	return s.open(c.Round)
}

// open says whether this round runs.
func (s State) open(round int) error {
	if s.Now.Phase != Armed && s.Now.Phase != Answering || round != s.Now.Round {
		return ErrMovedOn
	}
	return nil
}

func (End) decide(s State, e *Event) error {
	if s.Now.Phase != Waiting {
		return ErrMovedOn
	}
	e.Kind = Ended
	return nil
}

func (Reopen) decide(s State, e *Event) error {
	if s.Now.Phase != Over {
		return ErrMovedOn
	}
	e.Kind = Reopened
	return nil
}

// Apply is the state after an event that Decide gave for the state before. It reads from the event only what was decided,
// and makes Now by itself: the sum is always that of the stored judgements.
func Apply(s State, e Event) State {
	s.Seq = e.Seq
	switch e.Kind {
	case Created:
		s.Teams, s.Now.Phase, s.Players, s.Buzzes = *e.Teams, Waiting, []Player{}, []Buzz{} // in JSON, nobody is [] and not null
	case Joined:
		s.Players = append(slices.Clone(s.Players), *e.Player)
	case Left:
		s.Players = slices.Delete(slices.Clone(s.Players), s.player(e.Player.ID), s.player(e.Player.ID)+1)
	case Opened:
		s.Now.Question++
		s.Now.Locked = PerTeam[bool]{}
		s.arm()
	case Pressed:
		s.press(e)
	case Judged:
		s.judge(e)
	case Undone:
		s.undo()
	case Skipped:
		s.Now.Phase, s.Now.Floor = Waiting, ""
	case Rearmed:
		s.arm()
	case Ended:
		s.Now.Phase = Over
	case Reopened:
		s.Now.Phase = Waiting
	}
	return s
}

// arm opens a round.
func (s *State) arm() {
	s.rounds++
	s.Now.Phase, s.Now.Round, s.Now.Floor, s.Buzzes = Armed, s.rounds, "", []Buzz{}
}

func (s *State) press(e Event) {
	s.Buzzes = append(slices.Clone(s.Buzzes), *e.Buzz)
	s.Players = slices.Clone(s.Players)
	s.Players[s.player(e.Buzz.Player)].last = *e.Buzz
	if e.Buzz.Place == 1 {
		s.Now.Phase, s.Now.Floor, s.first = Answering, e.Buzz.Player, e.At
	}
}

func (s *State) judge(e Event) {
	team := e.Player.Team
	s.judgements = append(slices.Clone(s.judgements),
		judgement{e.Seq, e.Player.ID, team, e.Right, s.Now, s.Buzzes, s.first})
	s.sum()
	if e.Right {
		s.Now.Phase, s.Now.Floor = Waiting, ""
		return
	}
	*s.Now.Locked.Of(team) = true
	if s.Now.Locked.A && s.Now.Locked.B {
		s.Now.Phase, s.Now.Floor = Waiting, ""
		return
	}
	s.arm()
}

// undo brings back the moment before the newest judgement. Rounds that were opened since are void, and their numbers used.
func (s *State) undo() {
	last := s.judgements[len(s.judgements)-1]
	s.judgements = s.judgements[:len(s.judgements)-1]
	s.Now, s.Buzzes, s.first = last.now, last.buzzes, last.first
	s.sum()
}

// sum makes all points from the judgements.
func (s *State) sum() {
	s.Now.Scores, s.Now.Undo = PerTeam[int]{}, 0
	s.Players = slices.Clone(s.Players)
	for i := range s.Players {
		s.Players[i].Points = 0
	}
	for _, j := range s.judgements {
		s.Now.Undo = j.seq
		if !j.right {
			continue
		}
		*s.Now.Scores.Of(j.team) += Reward
		if i := s.player(j.player); i >= 0 {
			s.Players[i].Points += Reward
		}
	}
}
