// Package game has the rules of a match, and nothing but the rules: Decide says what a command leads to, Apply what an
// event changes. Neither has an effect, so a room is whatever its events make of it, today and after a restore.
//
// A question is open in rounds. In each round the first press takes the floor. A wrong answer locks that player's team
// out of the question and opens a round to the other team. The numbers of rounds go on through the whole match and never
// come twice, so a press that names its round cannot count in another one.
package game

import (
	"slices"
	"time"
)

// Limits of a room.
const (
	MaxPlayers = 60
	MaxEvents  = 20_000 // a match has a few hundred
)

// Reward is what a right answer is worth (a toss-up of the National Science Bowl).
const Reward = 4

// Team is one of the two.
type Team string

// The teams.
const (
	A Team = "a"
	B Team = "b"
)

// Valid says whether it is one of them.
func (t Team) Valid() bool { return t == A || t == B }

// PerTeam is one of something for each team.
type PerTeam[T any] struct {
	A T `json:"a"`
	B T `json:"b"`
}

// Of is a team's own.
func (p *PerTeam[T]) Of(t Team) *T {
	if t == A {
		return &p.A
	}
	return &p.B
}

// Player is one who may press. The ID is random and public: that somebody is this player is for a session to show.
type Player struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Team   Team   `json:"team"`
	Seat   int    `json:"seat"` // 1, 2, 3 ... in the team, in the order of joining
	Points int    `json:"points"`

	last Buzz // the newest press, so that one that is repeated is known
}

// Buzz is a press and its place in its round.
type Buzz struct {
	Player   string  `json:"player"`
	Name     string  `json:"name"`
	Team     Team    `json:"team"`
	Round    int     `json:"round"`
	Place    int     `json:"place"`     // the first has the floor
	BehindMS float64 `json:"behind_ms"` // how long after the first
}

// Phase is what a room waits for.
type Phase string

// The phases.
const (
	Waiting   Phase = "waiting"   // for a question
	Armed     Phase = "armed"     // for a press
	Answering Phase = "answering" // for the moderator's word on the one who has the floor
	Over      Phase = "over"
)

// Now is the part of a state that most events change. It is sent with each event, so that a page needs no rules.
type Now struct {
	Phase    Phase         `json:"phase"`
	Question int           `json:"question"` // 0 before the first
	Round    int           `json:"round"`    // 0 before the first
	Floor    string        `json:"floor"`    // the player who has it
	Locked   PerTeam[bool] `json:"locked"`   // out of this question
	Scores   PerTeam[int]  `json:"scores"`
	Undo     int64         `json:"undo"` // the event that an undo would take back, 0 for none
}

// State is a room after an event. It is never changed: Apply makes a new one.
type State struct {
	Seq     int64           `json:"seq"` // of the newest event
	Teams   PerTeam[string] `json:"teams"`
	Now     Now             `json:"now"`
	Players []Player        `json:"players"`
	Buzzes  []Buzz          `json:"buzzes"` // of this round, by place

	rounds     int       // how many there were
	first      time.Time // when the floor was taken
	judgements []judgement
}

// judgement keeps what an undo brings back.
type judgement struct {
	seq    int64
	player string
	team   Team
	right  bool
	now    Now
	buzzes []Buzz
	first  time.Time
}

// Player finds a player.
func (s State) Player(id string) (Player, bool) {
	i := s.player(id)
	if i < 0 {
		return Player{}, false
	}
	return s.Players[i], true
}

func (s State) player(id string) int {
	return slices.IndexFunc(s.Players, func(p Player) bool { return p.ID == id })
}

// Kind says what happened.
type Kind string

// The kinds of events.
const (
	Created  Kind = "created"
	Joined   Kind = "joined"
	Left     Kind = "left"
	Opened   Kind = "opened"
	Pressed  Kind = "pressed"
	Judged   Kind = "judged"
	Undone   Kind = "undone"
	Skipped  Kind = "skipped"
	Rearmed  Kind = "rearmed"
	Ended    Kind = "ended"
	Reopened Kind = "reopened"
)

// Event is something that happened, as it is stored and shown. Which of the fields are there depends on the kind.
type Event struct {
	Seq    int64            `json:"seq"`
	Kind   Kind             `json:"kind"`
	At     time.Time        `json:"at"`
	Teams  *PerTeam[string] `json:"teams,omitempty"`  // created
	Player *Player          `json:"player,omitempty"` // joined, left; judged and undone: with the new points
	Buzz   *Buzz            `json:"buzz,omitempty"`   // pressed
	Right  bool             `json:"right,omitempty"`  // judged
	Buzzes []Buzz           `json:"buzzes,omitempty"` // undone: those of the round that is back
	Now    Now              `json:"now"`              // after it
}
