package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"bowl/internal/game"
	"bowl/internal/session"
)

// browser keeps cookies and asks as our scripts do, unless plain is set: then as a browser that runs none.
type browser struct {
	app
	cookies []*http.Cookie
	plain   bool
}

func (a app) browser() *browser { return &browser{app: a} }

func (b *browser) ask(method, path string, form url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if !b.plain {
		r.Header.Set("Accept", "application/json")
	}
	for _, c := range b.cookies {
		r.AddCookie(c)
	}
	w := b.do(r)
	if set := w.Result().Cookies(); len(set) > 0 {
		b.cookies = set
	}
	return w
}

// post gives the status and, of a refusal, its code.
func (b *browser) post(path string, fields ...string) string {
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	w := b.ask("POST", path, form)
	var refused struct{ Code string }
	_ = json.Unmarshal(w.Body.Bytes(), &refused)
	return strings.TrimSpace(fmt.Sprint(w.Code, " ", refused.Code))
}

// match is a room with its moderator and a player of each team.
type match struct {
	app
	room         string // its address
	code         string // the moderator code
	moderator    *browser
	ann, ben     *browser
	annID, benID string
	spectator    *browser
}

func newMatch(t testing.TB) *match {
	t.Helper()
	m := &match{app: newApp(t, nil)}
	m.moderator, m.ann, m.ben, m.spectator = m.browser(), m.browser(), m.browser(), m.browser()
	var created struct {
		Room string
		Code string `json:"moderator_code"`
	}
	w := m.moderator.ask("POST", "/rooms", url.Values{"a": {"Owls"}, "b": {" <i>Foxes "}})
	if err := json.Unmarshal(w.Body.Bytes(), &created); err != nil || w.Code != http.StatusCreated {
		t.Fatalf("create: %d %s", w.Code, w.Body)
	}
	m.room, m.code = "/rooms/"+created.Room, created.Code
	for b, id := range map[*browser]*string{m.ann: &m.annID, m.ben: &m.benID} {
		name, team := "Ann", "a"
		if b == m.ben {
			name, team = "Ben", "b"
		}
		w := b.ask("POST", m.room+"/players", url.Values{"name": {name}, "team": {team}})
		var p game.Player
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusCreated {
			t.Fatalf("join: %d %s", w.Code, w.Body)
		}
		*id = p.ID
	}
	return m
}

func (m *match) press(b *browser, round string) string {
	return b.post(m.room+"/press", "round", round)
}

func (m *match) moderate(do string, fields ...string) string {
	return m.moderator.post(m.room+"/moderate", append([]string{"do", do}, fields...)...)
}

func (m *match) state(t *testing.T) (s game.State) {
	t.Helper()
	if err := json.Unmarshal(m.spectator.ask("GET", m.room, nil).Body.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMatch(t *testing.T) {
	m := newMatch(t)
	for i, step := range []struct{ got, want string }{
		{m.press(m.ann, "1"), "409 moved-on"},
		{m.moderate("open", "question", "1"), "200"},
		{m.press(m.ben, "1"), "200"},
		{m.press(m.ann, "1"), "200"},
		{m.press(m.ann, "1"), "200"},
		{m.moderate("wrong", "round", "1"), "200"},
		{m.press(m.ben, "2"), "409 locked"},
		{m.press(m.ann, "2"), "200"},
		{m.moderate("right", "round", "2"), "200"},
		{m.moderate("right", "round", "2"), "409 moved-on"},
		{m.moderate("undo", "undo", "8"), "409 moved-on"},
		{m.moderate("undo", "undo", "9"), "200"},
		{m.moderate("right", "round", "2"), "200"},
		{m.moderate("open", "question", "2"), "200"},
		{m.moderate("rearm", "round", "3"), "200"},
		{m.moderate("skip", "round", "4"), "200"},
		{m.moderate("end"), "200"},
		{m.moderate("reopen"), "200"},
		{m.moderate("", "remove", m.benID), "200"},
		{m.moderate("nothing"), "422 do"},
	} {
		if step.got != step.want {
			t.Errorf("step %d: %s, want %s", i+1, step.got, step.want)
		}
	}
	s := m.state(t)
	if s.Now.Scores != (game.PerTeam[int]{A: 4}) || s.Now.Phase != game.Waiting || len(s.Players) != 1 || s.Teams.B != "<i>Foxes" {
		t.Errorf("the room is %+v", s)
	}
	if got := m.press(m.ben, "4"); got != "403 not-player" {
		t.Errorf("a player who was removed: %s", got)
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	m := newMatch(t)
	m.moderate("open", "question", "1")
	other := newMatch(t) // of another app, with another key
	elsewhere := m.browser()
	if got := elsewhere.post("/rooms"); got != "201" {
		t.Fatal(got)
	}
	forged := m.browser()
	forged.cookies = []*http.Cookie{{Name: "bowl", Value: tamper(m.ann.cookies[0].Value)}}
	unknown := m.browser() // signed, but by a server whose database has been restored to a moment before: other people are here
	w := httptest.NewRecorder()
	m.Sessions.Take(w, httptest.NewRequest("GET", "/", nil),
		session.Seat{Room: strings.TrimPrefix(m.room, "/rooms/"), Player: "BBBBBBBBBB", Moderator: other.code})
	unknown.cookies = w.Result().Cookies()
	foreign := m.browser()
	foreign.cookies = other.moderator.cookies
	before := m.state(t)
	for who, b := range map[string]*browser{
		"a spectator": m.spectator, "a moderator of another room": elsewhere, "a forged cookie": forged, "a foreign cookie": foreign,
		"somebody of a lost moment": unknown,
	} {
		if got := m.press(b, "1"); got != "403 not-player" {
			t.Errorf("%s presses: %s", who, got)
		}
		for _, do := range []string{"skip", "rearm", "right", "end"} {
			if got := b.post(m.room+"/moderate", "do", do, "round", "1"); got != "403 not-moderator" {
				t.Errorf("%s moderates: %s", who, got)
			}
		}
		if got := b.post(m.room+"/moderator", "code", other.code); got != "403 code" {
			t.Errorf("%s comes with another moderator code: %s", who, got)
		}
	}
	if got := m.press(m.moderator, "1"); got != "403 not-player" {
		t.Errorf("the moderator presses: %s", got)
	}
	if got := m.ann.post(m.room+"/moderate", "do", "skip", "round", "1"); got != "403 not-moderator" {
		t.Errorf("a player moderates: %s", got)
	}
	if got := m.ann.post(m.room+"/press", "round", "1", "player", m.benID); got != "200" {
		t.Error(got)
	}
	after := m.state(t)
	if len(after.Buzzes) != 1 || after.Buzzes[0].Player != m.annID {
		t.Errorf("a player who names another: %+v", after.Buzzes)
	}
	if after.Seq != before.Seq+1 {
		t.Errorf("%d events came of what was refused", after.Seq-before.Seq-1)
	}
	if got := m.moderator.post(m.room+"/players", "name", "Mo", "team", "a"); got != "409 moderator" {
		t.Errorf("the moderator joins: %s", got)
	}
}

// tamper changes one letter in the middle.
func tamper(s string) string {
	b := []byte(s)
	i := len(b) / 4
	b[i] = map[bool]byte{true: 'A', false: 'B'}[b[i] != 'A']
	return string(b)
}

func TestModeratorComesBack(t *testing.T) {
	m := newMatch(t)
	phone := m.browser()
	if got := phone.post(m.room+"/moderator", "code", strings.ToLower(m.code[:6]+" "+m.code[6:])); got != "200" {
		t.Fatal(got)
	}
	if got := phone.post(m.room+"/moderate", "do", "open", "question", "1"); got != "200" {
		t.Error(got)
	}
}

func TestRoomInput(t *testing.T) {
	m := newMatch(t)
	for _, c := range []struct {
		path   string
		fields []string
		want   string
	}{
		{"/rooms", []string{"a", strings.Repeat("é", maxTeamName+1)}, "422 name"},
		{"/rooms", []string{"b", "a\x00b"}, "422 name"},
		{"/rooms", []string{"a", strings.Repeat("x", maxBody)}, "413"},
		{m.room + "/players", []string{"name", " ", "team", "a"}, "422 name"},
		{m.room + "/players", []string{"name", strings.Repeat("é", maxName+1), "team", "a"}, "422 name"},
		{m.room + "/players", []string{"name", "Cy", "team", "c"}, "422 team"},
		{m.room + "/players", []string{"name", "ann", "team", "a"}, "409 name-taken"},
		{m.room + "/players", []string{"name", strings.Repeat("x", maxBody)}, "413"},
		{m.room + "/press", []string{"round", strings.Repeat("1", maxBody)}, "413"},
		{m.room + "/moderate", []string{"do", strings.Repeat("x", maxBody)}, "413"},
		{"/rooms/BBBBBB/players", []string{"name", "Cy", "team", "a"}, "404 no-room"},
		{"/rooms/nonsense/press", nil, "404 no-room"},
	} {
		if got := m.spectator.post(c.path, c.fields...); got != c.want {
			t.Errorf("%s %.40q: %s, want %s", c.path, c.fields, got, c.want)
		}
	}
	cross := httptest.NewRequest("POST", m.room+"/press", strings.NewReader("round=1"))
	cross.Header.Set("Sec-Fetch-Site", "cross-site")
	if w := m.do(cross); w.Code != http.StatusForbidden {
		t.Errorf("from another site: %d", w.Code)
	}
}

// The whole game with forms and links alone.
func TestWithoutScript(t *testing.T) {
	m := newMatch(t)
	for _, b := range []*browser{m.moderator, m.ann, m.ben, m.spectator} {
		b.plain = true
	}
	code := strings.TrimPrefix(m.room, "/rooms/")
	for typed, want := range map[string]string{
		"/join?room=" + strings.ToLower(code[:3]+"-"+code[3:]): m.room, "/rooms/" + strings.ToLower(code): m.room,
	} {
		if w := m.spectator.ask("GET", typed, nil); w.Code != http.StatusSeeOther || w.Header().Get("Location") != want {
			t.Errorf("%s: %d %s", typed, w.Code, w.Header().Get("Location"))
		}
	}
	for _, typed := range []string{"/join?room=BBBBBB", "/join?room=x", "/join", "/rooms/BBBBBB"} {
		if w := m.spectator.ask("GET", typed, nil); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), `href="/"`) {
			t.Errorf("%s: %d %s", typed, w.Code, w.Body)
		}
	}
	page := m.spectator.ask("GET", m.room, nil).Body.String()
	ticket := regexp.MustCompile(`name="ticket" value="([^"]+)"`).FindStringSubmatch(page)
	if ticket == nil {
		t.Fatal("the page of a spectator has no form to join")
	}
	for range 2 { // a form that is sent again
		if got := m.spectator.post(m.room+"/players", "name", "<b>Cy", "team", "b", "ticket", ticket[1]); got != "303" {
			t.Fatal(got)
		}
	}
	buttons := regexp.MustCompile(`<input type="hidden" name="(\w+)" value="(\d+)">`)
	click := func(do string) string {
		fields := []string{"do", do}
		for _, f := range buttons.FindAllStringSubmatch(m.moderator.ask("GET", m.room, nil).Body.String(), -1) {
			fields = append(fields, f[1], f[2])
		}
		return m.moderator.post(m.room+"/moderate", fields...)
	}
	buzz := func(b *browser) string {
		f := buttons.FindStringSubmatch(b.ask("GET", m.room, nil).Body.String())
		return b.post(m.room+"/press", f[1], f[2])
	}
	for i, got := range []string{
		click("open"), buzz(m.ann), buzz(m.spectator), click("wrong"), buzz(m.spectator), click("right"), click("open"), buzz(m.ben),
	} {
		if got != "303" {
			t.Errorf("step %d: %s", i+1, got)
		}
	}
	if w := m.ann.ask("POST", m.room+"/moderate", url.Values{"do": {"right"}}); w.Code != http.StatusForbidden ||
		!strings.Contains(w.Body.String(), `href="`+m.room+`"`) || !strings.Contains(w.Body.String(), "Only the moderator") {
		t.Errorf("a refusal: %d %s", w.Code, w.Body)
	}
	page = m.spectator.ask("GET", m.room, nil).Body.String()
	for _, want := range []string{
		`data-role="player"`, `data-phase="answering"`, `<h2 id="question">Question 2</h2>`, `Ben has the floor (&lt;i&gt;Foxes).`,
		`<span class="unseen">Score of Owls: </span><span class="score">0</span>`,
		`<span class="unseen">Score of &lt;i&gt;Foxes: </span><span class="score">4</span>`,
		`<span class="seat">B2</span> <span class="name">&lt;b&gt;Cy</span> <span class="points">4</span>`, `data-player="` + m.benID + `" data-place="1"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if strings.Contains(page, m.code) || !strings.Contains(m.moderator.ask("GET", m.room, nil).Body.String(), m.code) {
		t.Error("the moderator code is for the moderator alone")
	}
}

func TestWhatAPageSays(t *testing.T) {
	ann := game.Player{ID: "P", Name: "Ann", Team: game.B}
	for _, c := range []struct {
		now         game.Now
		title, says string
	}{
		{game.Now{Phase: game.Waiting}, "No question yet", "Waiting for the next question."},
		{game.Now{Phase: game.Armed, Question: 2}, "Question 2", "Buzzers are open."},
		{game.Now{Phase: game.Armed, Question: 2, Locked: game.PerTeam[bool]{B: true}}, "Question 2", "Buzzers are open for the other team."},
		{game.Now{Phase: game.Answering, Question: 2, Floor: "P"}, "Question 2", "Ann has the floor (Foxes)."},
		{game.Now{Phase: game.Over, Scores: game.PerTeam[int]{A: 4}}, "The match is over", "Owls wins."},
		{game.Now{Phase: game.Over, Scores: game.PerTeam[int]{B: 4}}, "The match is over", "Foxes wins."},
		{game.Now{Phase: game.Over}, "The match is over", "A draw."},
	} {
		v := roomView{State: game.State{Teams: game.PerTeam[string]{A: "Owls", B: "Foxes"}, Now: c.now, Players: []game.Player{ann}}}
		if v.Title() != c.title || v.Says() != c.says {
			t.Errorf("%+v: %q, %q", c.now, v.Title(), v.Says())
		}
	}
}

func FuzzForms(f *testing.F) {
	for _, body := range []string{
		"do=open&question=1&round=1", "round=1", "name=Ann&team=a&ticket=x", "code=BCDF", "a=x&b=y", "%zz", "name=%ff&team=b", "do=undo&undo=-9223372036854775808",
	} {
		f.Add(body)
	}
	m := newMatch(f)
	m.moderate("open", "question", "1")
	f.Fuzz(func(t *testing.T, body string) {
		for _, b := range []*browser{m.moderator, m.ann, m.spectator} {
			for _, path := range []string{m.room + "/players", m.room + "/moderator", m.room + "/press", m.room + "/moderate"} {
				r := httptest.NewRequest("POST", path, strings.NewReader(body))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				for _, c := range b.cookies {
					r.AddCookie(c)
				}
				if w := m.do(r); w.Code >= 500 {
					t.Errorf("%s with %q: %d\n%s", path, body, w.Code, m.log)
				}
			}
		}
	})
}
