package prod

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
	"devbox/test/harness"
	"devbox/test/play"
	"devbox/test/vps"
)

// TestDisaster loses a server in the middle of a match, after it was rehearsed,
// and comes back by docs/disaster.md to the letter.
func TestDisaster(t *testing.T) {
	d := &disaster{site: project(t), whole: t, store: openStore(t), book: runbook(t)}
	for _, part := range []struct {
		name string
		run  func(*testing.T, *disaster)
	}{
		{"before", testBefore},
		{"rehearsed", testRehearsed},
		{"a moment not replicated", testNotReplicated},
		{"interrupted rehearsal", testInterruptedDrill},
		{"the server is gone", testGone},
		{"runbook", testRunbook},
		{"only the data is gone", testDataGone},
		{"old keys", testOldKeys},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, d) }) {
			return // each part goes on from the one before
		}
	}
}

// disaster is a site whose data is replicated to a store of somebody else's.
type disaster struct {
	*site
	whole    *testing.T // as long as servers are needed
	store    *store
	points   string // the address that the site's name leads to
	visitors *http.Client
	room     *play.Room
	told     *protocol.Data // what came back in the rehearsal without the server
	book     []chapter
}

// siteURL is known by its name alone, as a site is to its visitors.
const siteURL = "http://bowl.example:8080"

// testBefore is the production that will be lost: a server, a release, a match.
func testBefore(t *testing.T, d *disaster) {
	d.visitors = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, net.JoinHostPort(d.points, port))
	}}}
	if err := os.Symlink(filepath.Join(harness.Root(), "bin", "devbox"), filepath.Join(d.Home, "bin", "devbox")); err != nil {
		t.Fatal(err)
	}
	d.address, d.user = "not.yet.example", "debian"
	d.replica = fmt.Sprintf("{BOWL_REPLICA: s3://bowl/db, BOWL_REPLICA_ENDPOINT: %q, BOWL_REPLICA_REGION: us-east-1}", d.store.url)
	d.target(t)
	d.create(t, "vps", d.Must(t, "provision", "prod", "--user-data").Stdout)
	d.points = d.address
	d.Must(t, "provision", "prod", "--yes")
	d.WriteHome(t, "s3", d.store.credentials())
	if set := d.Feed(t, []byte(d.store.credentials()), "secret", "set", "prod", "s3"); set.Code != 0 {
		t.Fatal(set)
	}
	c := kept(t, d.deploy(t))
	t.Logf("deployed in %s: %v", c.Took.Round(time.Millisecond), c.Phases)

	var err error
	if d.room, err = play.NewRoom(t.Context(), d.visitors, siteURL, 6); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := d.question(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	d.press(t, "Hedy")
}

// create rents a server and writes down how to reach it.
func (d *disaster) create(t *testing.T, name, userData string) {
	t.Helper()
	before := d.address
	d.server = vps.New(d.whole, vps.Options{Name: name, UserData: []byte(userData), Authorized: []string{d.Key}})
	d.meet(t)
	d.Edit(t, "devbox.yaml", "    host: "+before, "    host: "+d.address)
}

// question is one of the match: all press, and the first is right.
func (d *disaster) question(ctx context.Context) error {
	if err := d.room.Open(ctx); err != nil {
		return err
	}
	for i := range d.room.Players {
		if err := d.room.Press(ctx, i); err != nil {
			return err
		}
	}
	return d.room.Right(ctx)
}

// press uses the buzzer of the front page.
func (d *disaster) press(t *testing.T, name string) {
	t.Helper()
	resp, err := d.visitors.PostForm(siteURL+"/press", url.Values{"name": {name}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), name) {
		t.Fatalf("%s's press is not on the page: %s, %v", name, resp.Status, err)
	}
}

// drill rehearses the loss of the server, and checks the exit code.
func (d *disaster) drill(t *testing.T, code int) (deploy.Drill, harness.Ran) {
	t.Helper()
	r := d.Run(t, "drill", "prod", "--secret", "s3="+filepath.Join(d.Home, "s3"), "--json")
	var told deploy.Drill
	if err := json.Unmarshal([]byte(r.Stdout), &told); err != nil || r.Code != code {
		t.Fatalf("%v, want exit code %d: %s", err, code, r)
	}
	if told.Restored == nil {
		t.Fatalf("it does not tell what came back: %s", r)
	}
	t.Logf("the rehearsal took %s: machine %s, image %s, restore and start %s; lost %s",
		r.Took.Round(time.Millisecond), told.Machine.Round(time.Millisecond), told.Ship.Round(time.Millisecond), told.Restore.Round(time.Millisecond), told.Lost)
	d.noRehearsal(t)
	return told, r
}

// noRehearsal checks that the machine of the rehearsal is gone.
func (d *disaster) noRehearsal(t *testing.T) {
	t.Helper()
	if left := d.Leftovers(t, "bowl-drill"); len(left) > 0 {
		t.Errorf("the rehearsal left\n%s", strings.Join(left, "\n"))
	}
}

func testRehearsed(t *testing.T, d *disaster) {
	d.store.settled(t)
	told, r := d.drill(t, 0)
	if told.Live == nil || told.Live.Rows["press"] == 0 || told.Live.Rows["event"] == 0 || !maps.Equal(told.Live.Rows, told.Restored.Rows) ||
		!told.Live.Newest.Equal(told.Restored.Newest) || told.Lost != 0 || told.Restored.Integrity != "ok" || told.Release == "" {
		t.Errorf("all was replicated: %s", r)
	}
}

// testNotReplicated has one press that only the server knows.
func testNotReplicated(t *testing.T, d *disaster) {
	d.sh(t, "systemctl stop bowl-litestream.service")
	d.press(t, "Radia")
	before := d.store.settled(t)
	told, r := d.drill(t, 0)
	if told.Live == nil || told.Restored.Rows["press"] != told.Live.Rows["press"]-1 || told.Lost <= 0 {
		t.Errorf("one press was not replicated: %s", r)
	}
	if now := d.store.files(t); now != before || before == "" {
		t.Errorf("the rehearsal wrote to the store:\n%s\nbefore:\n%s", now, before)
	}
	d.sh(t, "systemctl start bowl-litestream.service")
	d.store.settled(t)
}

func testInterruptedDrill(t *testing.T, d *disaster) {
	// What it needs is asked for before it makes a machine.
	if r := d.Run(t, "drill", "prod"); r.Code != 2 || !strings.Contains(r.Stderr, "--secret s3=FILE") || r.Took > 10*time.Second {
		t.Errorf("without the keys of the store: %s", r)
	}
	r := d.Interrupt(t, "✓ ship", "drill", "prod", "--secret", "s3="+filepath.Join(d.Home, "s3"))
	if r.Code != 130 || !strings.Contains(r.Stderr, "✓ remove the machine of the rehearsal") || !strings.Contains(r.Stderr, "nothing is left of this rehearsal") {
		t.Errorf("Ctrl-C: %s", r)
	}
	d.noRehearsal(t)
	if st := d.Status(t, "prod"); st.Code != 0 {
		t.Errorf("status exits with %d: %s", st.Code, st.Serving())
	}
}

// testGone takes the server away while a match is on, and rehearses what can
// still be done.
func testGone(t *testing.T, d *disaster) {
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		var err error
		for err == nil {
			err = d.question(ctx)
		}
		ended <- err
	}()
	time.Sleep(5 * time.Second)
	select {
	case err := <-ended:
		t.Fatalf("the match ended before the server: %v", err)
	default:
	}
	if err := d.server.PowerCut(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	<-ended
	d.visitors.CloseIdleConnections()
	if err := d.server.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	told, r := d.drill(t, 0)
	if told.Live != nil || told.Unreached == "" || told.Version == "" || told.Restored.Integrity != "ok" ||
		!strings.Contains(r.Stderr, "prod cannot be asked") {
		t.Errorf("without the server: %s", r)
	}
	d.told = told.Restored
	t.Log(r.Stderr)
}

// testRunbook does what docs/disaster.md says: its commands as they stand, and
// by hand what it has a person do.
func testRunbook(t *testing.T, d *disaster) {
	begin := time.Now()
	type hand struct {
		before, after func()
	}
	byHand := map[string]hand{
		"1. A new server": {after: func() { d.create(t, "anew", d.Read(t, "user-data")) }},
		"2. The machine is set up": {before: func() {
			if todo := d.provisioned(t, "--dry-run").Changes; len(todo) != 1 || todo[0].Kind != "devbox-host" {
				t.Errorf("the page says that this installs devbox-host and nothing else: %v", todo)
			}
		}},
		"3. Its secrets": {before: func() {
			d.store.newKeys(t)
			d.Write(t, "s3-credentials", d.store.credentials())
		}},
		"4. The release": {},
		"5. Look":        {after: func() { d.points = d.address }},
	}
	for _, c := range d.book {
		if c.title == onlyData {
			continue
		}
		hand, known := byHand[c.title]
		if !known {
			t.Fatalf("the page has a section %q, of which this test does not know what to do by hand", c.title)
		}
		if hand.before != nil {
			hand.before()
		}
		for _, commands := range c.blocks {
			d.enter(t, commands)
		}
		if hand.after != nil {
			hand.after()
		}
	}
	t.Logf("back after %s", time.Since(begin).Round(time.Second))

	st := d.Status(t, "prod")
	if st.Code != 0 || st.Data == nil || st.Data.Integrity != "ok" || !maps.Equal(st.Data.Rows, d.told.Rows) || !st.Data.Newest.Equal(d.told.Newest) {
		t.Fatalf("the new server has %+v, and the rehearsal %+v: %s", st.Data, d.told, st.Serving())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	shown := d.room.Replay(ctx, d.visitors)
	for _, bad := range shown.Bad {
		t.Error(bad)
	}
	var newest time.Time
	lost := 0
	for buzz, at := range d.room.Answered() {
		switch n := shown.Buzzes[buzz]; {
		case n > 1 || n == 0 && !at.After(st.Data.Newest):
			t.Errorf("%+v was answered %s before the newest change that came back, and is there %d times", buzz, st.Data.Newest.Sub(at), n)
		case n == 0:
			lost++
		}
		if at.After(newest) {
			newest = at
		}
	}
	risk := max(newest.Sub(st.Data.Newest), 0)
	t.Logf("of %d presses that were answered the last %d are lost, with the last %s before the power was cut", d.room.Acknowledged(), lost, risk.Round(time.Millisecond))
	if risk > 4*time.Second {
		t.Errorf("Litestream looks once a second")
	}
}

// testDataGone is the page's section on a server that lives.
func testDataGone(t *testing.T, d *disaster) {
	d.press(t, "Barbara")
	d.store.settled(t)
	was := d.Status(t, "prod").Data
	for _, c := range d.book {
		if c.title == onlyData {
			for _, commands := range c.blocks {
				d.enter(t, commands)
			}
		}
	}
	if st := d.Status(t, "prod"); st.Code != 0 || !maps.Equal(st.Data.Rows, was.Rows) || !st.Data.Newest.Equal(was.Newest) {
		t.Errorf("the server has %+v, and had %+v: %s", st.Data, was, st.Serving())
	}
	d.sh(t, "test -s /var/lib/private/bowl.damaged/bowl.db")
}

// testOldKeys rehearses with keys that the store knows no more.
func testOldKeys(t *testing.T, d *disaster) {
	r := d.Run(t, "drill", "prod", "--secret", "s3="+filepath.Join(d.Home, "s3"))
	if r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, "error: the release does not come up on a new machine: ") ||
		!strings.Contains(r.Stderr, "hint: `devbox drill prod --keep` keeps the machine to look at") {
		t.Errorf("with the keys from before: %s", r)
	}
	d.noRehearsal(t)
}

// onlyData is the section of the page for a server that lives.
const onlyData = "Only the data is gone"

// chapter is a section of docs/disaster.md with its commands.
type chapter struct {
	title  string
	blocks []string
}

// runbook reads docs/disaster.md.
func runbook(t *testing.T) []chapter {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "disaster.md"))
	if err != nil {
		t.Fatal(err)
	}
	var book []chapter
	indented := false
	for line := range strings.Lines(string(text)) {
		title, isTitle := strings.CutPrefix(line, "## ")
		command, isCommand := strings.CutPrefix(line, "    ")
		switch {
		case isTitle:
			book = append(book, chapter{title: strings.TrimSpace(title)})
		case isCommand && len(book) == 0:
			t.Fatalf("docs/disaster.md has a command before its first section: %s", line)
		case isCommand && indented:
			c := &book[len(book)-1]
			c.blocks[len(c.blocks)-1] += command
		case isCommand:
			c := &book[len(book)-1]
			c.blocks = append(c.blocks, command)
		}
		indented = isCommand
	}
	return book
}

// enter gives commands of the page to a shell in the project's folder.
func (d *disaster) enter(t *testing.T, commands string) {
	t.Helper()
	cmd := exec.Command("sh", "-eu", "-c", commands)
	cmd.Dir, cmd.Env = d.Dir, d.Env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := cmd.Run()
	t.Logf("after %s:\n$ %s%s", time.Since(begin).Round(time.Millisecond), commands, &out)
	if err != nil {
		t.Fatalf("%v: %s", err, commands)
	}
}

// store is an S3 store that checks keys, on a server of its own.
type store struct {
	server *vps.Server
	url    string
	keys   int // how many were made so far
}

// openStore has a bucket named bowl.
func openStore(t *testing.T) *store {
	t.Helper()
	s := &store{server: vps.New(t, vps.Options{Name: "store"})}
	for _, dir := range harness.Tools(t) {
		if filepath.Base(filepath.Dir(dir)) == "versitygw" {
			harness.Output(t, "cp", filepath.Join(dir, "linux_"+arch, "versitygw"), filepath.Join(s.server.Root(), "usr/local/bin"))
		}
	}
	address, err := s.server.Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + address + ":7070"
	s.sh(t, "mkdir -p /srv/store/bowl")
	s.newKeys(t)
	return s
}

func (s *store) sh(t *testing.T, command string) string {
	t.Helper()
	out, err := s.server.Run(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// newKeys ends what the keys before them may do.
func (s *store) newKeys(t *testing.T) {
	t.Helper()
	s.keys++
	s.sh(t, fmt.Sprintf(`systemctl stop store.service 2>/dev/null || true
systemd-run --quiet --unit=store.service --setenv=ROOT_ACCESS_KEY_ID=key%d --setenv=ROOT_SECRET_ACCESS_KEY=secret%[1]d \
	/usr/local/bin/versitygw --quiet --port :7070 posix --nometa /srv/store`, s.keys))
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(s.url)
		if err == nil {
			resp.Body.Close()
			return
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("the store does not answer: %v\n%s", err, s.sh(t, "journalctl --no-pager -u store.service"))
		}
	}
}

// credentials are the keys as in ~/.aws/credentials.
func (s *store) credentials() string {
	return fmt.Sprintf("[default]\naws_access_key_id = key%d\naws_secret_access_key = secret%[1]d\n", s.keys)
}

// files are all that the store has.
func (s *store) files(t *testing.T) string {
	t.Helper()
	return s.sh(t, "cd /srv/store/bowl && find . -type f -printf '%p %s %T@\\n' | sort")
}

// settled waits until nothing new comes to the store: Litestream, which looks
// once a second, has brought all. It returns the files.
func (s *store) settled(t *testing.T) string {
	t.Helper()
	last := s.files(t)
	for begin := time.Now(); time.Since(begin) < time.Minute; {
		time.Sleep(3 * time.Second)
		now := s.files(t)
		if now == last {
			return now
		}
		last = now
	}
	t.Fatalf("the store does not come to rest:\n%s", last)
	return ""
}
