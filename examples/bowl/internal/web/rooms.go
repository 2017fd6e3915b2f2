package web

import (
	"errors"
	"net/http"
	"strconv"

	"bowl/internal/game"
	"bowl/internal/rooms"
	"bowl/internal/session"
)

const maxTeamName = 24 // in characters

// What a browser is in a room.
const (
	moderator = "moderator"
	player    = "player"
	spectator = "spectator"
)

// createRoom makes a room and its maker the moderator.
func (h *Handler) createRoom(w http.ResponseWriter, r *http.Request) {
	if !readForm(w, r) {
		return
	}
	teams := game.PerTeam[string]{A: "Team A", B: "Team B"}
	for _, t := range []game.Team{game.A, game.B} {
		name, ok := cleanText(r.PostForm.Get(string(t)), maxTeamName)
		if !ok {
			h.refuse(w, r, http.StatusUnprocessableEntity, "name", "A team's name has at most 24 characters, all of them printable.")
			return
		}
		if name != "" {
			*teams.Of(t) = name
		}
	}
	code, moderatorCode, err := h.Rooms.Create(r.Context(), teams)
	if err != nil {
		h.failInRoom(w, r, "create a room", err)
		return
	}
	h.Sessions.Take(w, r, session.Seat{Room: code, Moderator: moderatorCode})
	if wantsJSON(r) {
		writeJSON(w, http.StatusCreated, map[string]string{"room": code, "moderator_code": moderatorCode})
		return
	}
	http.Redirect(w, r, "/rooms/"+code, http.StatusSeeOther)
}

// findRoom leads from a join code as somebody typed it to the room.
func (h *Handler) findRoom(w http.ResponseWriter, r *http.Request) {
	code := rooms.Clean(r.URL.Query().Get("room"))
	if code == "" {
		h.refuse(w, r, http.StatusNotFound, "no-room", "A join code has six letters.")
		return
	}
	room, err := h.Rooms.Use(r.Context(), code)
	if err != nil {
		h.failInRoom(w, r, "find a room", err)
		return
	}
	room.Release()
	http.Redirect(w, r, "/rooms/"+code, http.StatusSeeOther)
}

// inRoom finds the room of the address and reads the form, if there is one.
func (h *Handler) inRoom(f func(http.ResponseWriter, *http.Request, *rooms.Room)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		code := rooms.Clean(r.PathValue("code"))
		if code == "" {
			h.failInRoom(w, r, "find a room", rooms.ErrNoRoom)
			return
		}
		if r.Method == http.MethodPost && !readForm(w, r) {
			return
		}
		room, err := h.Rooms.Use(r.Context(), code)
		if err != nil {
			h.failInRoom(w, r, "find a room", err)
			return
		}
		defer room.Release()
		f(w, r, room)
	}
}

// role is what the browser is in the room. A seat counts for as long as the room knows it: the session of a player who
// was removed, or who joined after the moment that the database was restored to, is that of a spectator.
func (h *Handler) role(r *http.Request, room *rooms.Room) (string, session.Seat) {
	seat := h.Sessions.Seat(r, room.Code)
	if seat.Moderator != "" && room.Moderator(seat.Moderator) {
		return moderator, seat
	}
	if _, ok := room.State().Player(seat.Player); ok {
		return player, seat
	}
	return spectator, seat
}

func (h *Handler) roomPage(w http.ResponseWriter, r *http.Request, room *rooms.Room) {
	if r.PathValue("code") != room.Code { // written by hand
		http.Redirect(w, r, "/rooms/"+room.Code, http.StatusSeeOther)
		return
	}
	if wantsJSON(r) {
		writeJSON(w, http.StatusOK, room.State())
		return
	}
	role, seat := h.role(r, room)
	v := roomView{Version: h.Version, Code: room.Code, Role: role, MaxName: maxName, State: room.State()}
	switch role {
	case moderator:
		v.ModeratorCode = seat.Moderator
	case player:
		v.Me, _ = v.State.Player(seat.Player)
	default:
		v.Ticket = rooms.NewTicket()
	}
	h.render(w, r, http.StatusOK, "room.html", v)
}

// join makes a player. The ticket comes from the page, so that a form that is sent again makes no second one.
func (h *Handler) join(w http.ResponseWriter, r *http.Request, room *rooms.Room) {
	name, ok := cleanText(r.PostForm.Get("name"), maxName)
	team := game.Team(r.PostForm.Get("team"))
	ticket := r.PostForm.Get("ticket")
	switch {
	case !ok || name == "":
		h.refuse(w, r, http.StatusUnprocessableEntity, "name", "A name has 1 to 40 characters, all of them printable.")
		return
	case !team.Valid():
		h.refuse(w, r, http.StatusUnprocessableEntity, "team", "Choose a team.")
		return
	case ticket == "":
		ticket = rooms.NewTicket()
	}
	if is, _ := h.role(r, room); is == moderator {
		h.refuse(w, r, http.StatusConflict, "moderator", "You moderate this room.")
		return
	}
	p, err := h.Rooms.Join(r.Context(), room.Code, ticket, name, team)
	if err != nil {
		h.failInRoom(w, r, "join", err)
		return
	}
	h.Sessions.Take(w, r, session.Seat{Room: room.Code, Player: p.ID})
	h.done(w, r, room, http.StatusCreated, p)
}

// becomeModerator lets a moderator back in who has lost the browser.
func (h *Handler) becomeModerator(w http.ResponseWriter, r *http.Request, room *rooms.Room) {
	code := r.PostForm.Get("code")
	if !room.Moderator(code) {
		h.refuse(w, r, http.StatusForbidden, "code", "That is not the moderator code of this room.")
		return
	}
	h.Sessions.Take(w, r, session.Seat{Room: room.Code, Moderator: code})
	h.done(w, r, room, http.StatusOK, map[string]string{"role": moderator})
}

func (h *Handler) pressInRoom(w http.ResponseWriter, r *http.Request, room *rooms.Room) {
	is, seat := h.role(r, room)
	if is != player {
		h.refuse(w, r, http.StatusForbidden, "not-player", "Only players of this room may press.")
		return
	}
	h.do(w, r, room, game.Press{Player: seat.Player, Round: number(r, "round")})
}

// moderate does what a moderator's button says.
func (h *Handler) moderate(w http.ResponseWriter, r *http.Request, room *rooms.Room) {
	if is, _ := h.role(r, room); is != moderator {
		h.refuse(w, r, http.StatusForbidden, "not-moderator", "Only the moderator of this room may do this.")
		return
	}
	var c game.Command
	round := number(r, "round")
	do := r.PostForm.Get("do")
	leaver := r.PostForm.Get("remove") // that button says whom
	if leaver != "" {
		do = "remove"
	}
	switch do {
	case "open":
		c = game.Open{Question: number(r, "question")}
	case "right":
		c = game.Judge{Round: round, Right: true}
	case "wrong":
		c = game.Judge{Round: round}
	case "skip":
		c = game.Skip{Round: round}
	case "rearm":
		c = game.Rearm{Round: round}
	case "undo":
		c = game.Undo{Seq: int64(number(r, "undo"))}
	case "end":
		c = game.End{}
	case "reopen":
		c = game.Reopen{}
	case "remove":
		c = game.Remove{Player: leaver}
	default:
		h.refuse(w, r, http.StatusUnprocessableEntity, "do", "There is no such thing to do.")
		return
	}
	h.do(w, r, room, c)
}

// number is a number of the form, 0 where there is none: no round and no question has that.
func number(r *http.Request, name string) int {
	n, err := strconv.Atoi(r.PostForm.Get(name))
	if err != nil {
		return 0
	}
	return n
}

func (h *Handler) do(w http.ResponseWriter, r *http.Request, room *rooms.Room, c game.Command) {
	e, err := h.Rooms.Do(r.Context(), room.Code, c)
	if err != nil {
		h.failInRoom(w, r, "do in a room", err)
		return
	}
	h.done(w, r, room, http.StatusOK, e)
}

func (h *Handler) done(w http.ResponseWriter, r *http.Request, room *rooms.Room, status int, v any) {
	if wantsJSON(r) {
		writeJSON(w, status, v)
		return
	}
	http.Redirect(w, r, "/rooms/"+room.Code, http.StatusSeeOther)
}

func (h *Handler) failInRoom(w http.ResponseWriter, r *http.Request, doing string, err error) {
	if refusal, ok := errors.AsType[*game.Refusal](err); ok {
		h.refuse(w, r, http.StatusConflict, refusal.Code, refusal.Text)
		return
	}
	switch {
	case errors.Is(err, rooms.ErrNoRoom):
		h.refuse(w, r, http.StatusNotFound, "no-room", "There is no such room, or no more.")
	case errors.Is(err, rooms.ErrBusy):
		w.Header().Set("Retry-After", "60")
		h.refuse(w, r, http.StatusServiceUnavailable, "busy", "Too many rooms are in use. Please try again later.")
	default:
		h.fail(w, r, doing, err)
	}
}

// refuse says why something was not done.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, status int, code, text string) {
	if wantsJSON(r) {
		writeJSON(w, status, map[string]string{"code": code, "error": text})
		return
	}
	back := "/"
	if code := rooms.Clean(r.PathValue("code")); code != "" && status != http.StatusNotFound {
		back = "/rooms/" + code
	}
	h.render(w, r, status, "problem.html", struct{ Text, Back string }{text, back})
}
