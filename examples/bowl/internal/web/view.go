package web

import (
	"fmt"
	"strings"

	"bowl/internal/game"
)

// roomView is a room for room.html. What it says is said again by room.js when something changes.
type roomView struct {
	Version       string
	Code          string
	Role          string
	Me            game.Player // if it is a player's
	ModeratorCode string      // if it is the moderator's
	Ticket        string      // if it is a spectator's, who may join
	MaxName       int
	State         game.State
}

type teamView struct {
	Key     game.Team
	Name    string
	Score   int
	Locked  bool
	Players []game.Player
}

// Sides are the two teams.
func (v roomView) Sides() []teamView {
	var sides []teamView
	for _, t := range []game.Team{game.A, game.B} {
		side := teamView{Key: t, Name: *v.State.Teams.Of(t), Score: *v.State.Now.Scores.Of(t), Locked: *v.State.Now.Locked.Of(t)}
		for _, p := range v.State.Players {
			if p.Team == t {
				side.Players = append(side.Players, p)
			}
		}
		sides = append(sides, side)
	}
	return sides
}

// Seat is how a moderator calls a player: B2 is the second of team B.
func (v roomView) Seat(p game.Player) string {
	return fmt.Sprint(strings.ToUpper(string(p.Team)), p.Seat)
}

// Open says whether presses are taken.
func (v roomView) Open() bool {
	return v.State.Now.Phase == game.Armed || v.State.Now.Phase == game.Answering
}

// Next is the number of the question that comes.
func (v roomView) Next() int { return v.State.Now.Question + 1 }

// Title says which question it is about.
func (v roomView) Title() string {
	now := v.State.Now
	switch {
	case now.Phase == game.Over:
		return "The match is over"
	case now.Question == 0:
		return "No question yet"
	}
	return fmt.Sprintf("Question %d", now.Question)
}

// Says is what happens now.
func (v roomView) Says() string {
	now := v.State.Now
	switch now.Phase {
	case game.Armed:
		if now.Locked.A || now.Locked.B {
			return "Buzzers are open for the other team."
		}
		return "Buzzers are open."
	case game.Answering:
		p, _ := v.State.Player(now.Floor)
		return fmt.Sprintf("%s has the floor (%s).", p.Name, *v.State.Teams.Of(p.Team))
	case game.Over:
		return v.result()
	}
	return "Waiting for the next question."
}

func (v roomView) result() string {
	a, b := v.State.Now.Scores.A, v.State.Now.Scores.B
	switch {
	case a > b:
		return v.State.Teams.A + " wins."
	case b > a:
		return v.State.Teams.B + " wins."
	}
	return "A draw."
}
