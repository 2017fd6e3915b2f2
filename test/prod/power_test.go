package prod

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
	"devbox/test/harness"
)

// A cut is one power cut in the middle of a change.
type cut struct {
	back  bool   // of a rollback, not of a deploy
	units bool   // unit files change, too
	bad   bool   // of a release that is not kept
	at    string // the step of internal/release at which it comes; "" is a random instant
	// again is the step of the next boot at which there is another one, or "random".
	again string
}

func (c cut) String() string {
	text := "deploy"
	if c.back {
		text = "rollback"
	}
	if c.bad {
		text += " of a release that does not start"
	}
	if c.units {
		text += " with unit files"
	}
	if c.at == "" {
		text += ", at random"
	} else {
		text += ", at " + c.at
	}
	if c.again != "" {
		text += ", and during the boot, at " + c.again
	}
	return text
}

// The steps at which a power cut can come, in order: those of every change,
// those of one with unit files among them, and those of a boot that undoes one.
var (
	steps = []string{
		"journal", "stopped", "env", "switched", "attached", "drop-ins", "reloaded", "sockets", "restarted", "trial", "healthy",
		"committed", "history", "dropped",
	}
	unitSteps = []string{"attached", "reloaded"}
	bootSteps = []string{"boot", "boot-back", "boot-files", "boot-image", "boot-reloaded"}
	// others have a line of their own below, are no part of a change, or are those of
	// data that comes back, which package release has.
	others = []string{"received", "gave-up", "prepared", "forgotten", "copied", "fetched", "swapping", "swapped", "put-aside"}
)

// cuts are n power cuts: each step of each kind of change, as far as n allows,
// and at least one in eight at a random instant.
func cuts(n int) []cut {
	all := []cut{{at: "received"}, {bad: true, units: true, at: "gave-up"}}
	for _, kind := range []cut{{units: true}, {back: true, units: true}} {
		for _, kind.at = range steps {
			all = append(all, kind)
		}
	}
	for _, at := range bootSteps {
		all = append(all, cut{units: true, at: "reloaded", again: at})
	}
	for _, kind := range []cut{{}, {back: true}} {
		for _, kind.at = range steps {
			if !slices.Contains(unitSteps, kind.at) {
				all = append(all, kind)
			}
		}
	}
	all = all[:min(n-n/8, len(all))]
	for i := 0; len(all) < n; i++ {
		c := cut{back: i%2 == 1, units: i/2%2 == 1}
		if i%8 == 7 {
			c.again = "random"
		}
		all = append(all, c)
	}
	return all
}

// The steps above are those of the code.
func TestSteps(t *testing.T) {
	var inCode, here []string
	files, err := filepath.Glob(filepath.Join(harness.Root(), "internal/release/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`crashpoint\("([^"]+)"\)`).FindAllStringSubmatch(string(text), -1) {
			inCode = append(inCode, m[1])
		}
	}
	here = slices.Concat(steps, bootSteps, others)
	slices.Sort(inCode)
	slices.Sort(here)
	if !slices.Equal(slices.Compact(inCode), here) {
		t.Errorf("internal/release stops at\n%q, this test cuts at\n%q", inCode, here)
	}
}

// testPowerCuts cuts the power in the middle of deploys and rollbacks, and looks
// at what the next boot makes of it without a hand. DEVBOX_TEST_CUTS says how
// often, and DEVBOX_TEST_TORTURE names a file for the result.
func testPowerCuts(t *testing.T, s *site) {
	n := 40
	if text := os.Getenv("DEVBOX_TEST_CUTS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := seed(t)
	p := &powerless{site: s, random: rand.New(rand.NewPCG(seed, 0)), text: map[string]string{}, ended: map[string]string{}}
	defer s.Undo(t, page, units+"bowl.service")()
	s.hostUnderTest(t)
	defer s.hostAsBuilt(t)
	p.begin(t)
	result := newTorture(t)
	all := append(cuts(n), cut{})
	p.forth(t, "forth", all[0])
	for i, c := range all[:n] {
		t.Run(fmt.Sprintf("%d %s", i, c), func(t *testing.T) {
			var ended string
			// Written each time: whoever stops a long run has what there was.
			defer func() { result.count(c, ended, t.Failed()); result.write(t, seed) }()
			ended = p.cut(t, i, c)
			p.forth(t, fmt.Sprintf("%d forth", i), all[i+1])
		})
	}
}

// seed is what a test's random instants come from; DEVBOX_TEST_SEED repeats a run's.
func seed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("DEVBOX_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("DEVBOX_TEST_SEED=%d", seed)
	return seed
}

// powerless is a server that loses its power, and what its releases are known by.
type powerless struct {
	*site
	random *rand.Rand
	// text is the mark of each version, on its page and in its unit.
	text map[string]string
	// ended is how each release of the history ended.
	ended map[string]string
	// length of a deploy on this computer, with unit files and without: until
	// the server begins to change something, and to its end.
	idle, long map[bool]time.Duration
}

var marks = regexp.MustCompile(`<i>mark [^<]*</i>`)

// edit puts a mark on the page, and where unit is true into a unit file, and
// returns what a release of it is known by.
func (p *powerless) edit(t testing.TB, mark string, unit bool) (text string) {
	t.Helper()
	p.Write(t, page, marks.ReplaceAllString(p.Read(t, page), "")+"<i>mark "+mark+"</i>")
	unitMark := "as before"
	if unit {
		unitMark = mark
		p.Write(t, units+"bowl.service", regexp.MustCompile(`(?m)^# mark .*\n`).ReplaceAllString(p.Read(t, units+"bowl.service"), "")+"# mark "+mark+"\n")
	} else if m := regexp.MustCompile(`(?m)^# mark (.*)$`).FindStringSubmatch(p.Read(t, units+"bowl.service")); m != nil {
		unitMark = m[1]
	}
	return "page " + mark + ", unit " + unitMark
}

// build is edit, and returns the version that this makes.
func (p *powerless) build(t testing.TB, mark string, unit bool) (version string) {
	t.Helper()
	text := p.edit(t, mark, unit)
	version = p.version(t)
	p.text[version] = text
	return version
}

// bring is edit, and deploys that.
func (p *powerless) bring(t testing.TB, mark string, unit bool) deploy.Cycle {
	t.Helper()
	text := p.edit(t, mark, unit)
	c := kept(t, p.deploy(t))
	p.text[c.Version] = text
	return c
}

// begin makes two releases to go between and measures how long that takes.
func (p *powerless) begin(t *testing.T) {
	p.idle, p.long = map[bool]time.Duration{}, map[bool]time.Duration{}
	for i, unit := range []bool{true, false, true, false} {
		c := p.bring(t, fmt.Sprintf("begin %d", i), unit)
		p.long[unit], p.idle[unit] = c.Took, 0
		for _, phase := range c.Phases {
			if slices.Contains([]string{"build", "stage", "pack", "digest"}, phase.Name) {
				p.idle[unit] += phase.Took
			}
		}
	}
	t.Logf("deploys take %v, of which the server is idle for %v", p.long, p.idle)
}

// Where devbox-host is told at which step to stop, and where it says that it
// has. stopNext is on the disk: it is for the next boot.
const (
	stopAt   = "run/devbox-host.stop-at"
	stopped  = "run/devbox-host.stopped"
	stopNext = "etc/devbox-host.stop-at"
)

// cut begins a change, cuts the power, boots, and checks. It returns which
// release answers afterwards, "old" or "new".
func (p *powerless) cut(t *testing.T, i int, c cut) string {
	old := p.answers(t)
	var want string
	args := []string{"deploy", "prod", "--yes", "--allow-unproven", "--json"}
	switch {
	case c.back:
		want = p.sh(t, `tr -d '\n' </var/lib/devbox/bowl/state.json | sed 's/.*"previous"[^}]*"digest": "\(............\).*/\1/'`)
		args = []string{"rollback", "prod", "--yes", "--json"}
	case c.bad:
		defer p.Undo(t, page)()
		p.edit(t, strconv.Itoa(i), c.units)
		p.Write(t, page, "{{ nothing ends this")
		want = "none"
	default:
		want = p.build(t, strconv.Itoa(i), c.units)
	}
	p.know(t)
	if c.at != "" {
		p.sh(t, "rm -f /"+stopped+"; echo "+c.at+" >/"+stopAt)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := p.Command(ctx, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	begin := time.Now()
	if c.at == "" {
		time.Sleep(p.instant(c))
	} else {
		p.waitForStop(t, ended, &out)
	}
	after := time.Since(begin)
	if err := p.server.PowerCut(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel() // nobody helps
	<-ended
	if c.again != "" {
		p.cutAgain(t, c)
	}
	if err := p.server.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	version := p.answers(t)
	t.Logf("cut after %s, %s answers after %s", after.Round(time.Millisecond), version, (time.Since(begin) - after).Round(time.Millisecond))
	which := map[string]string{old: "old", want: "new"}[version]
	if which == "" {
		t.Errorf("%s answers, neither %s nor %s", version, old, want)
	}
	p.whole(t, version)
	if r := p.Run(t, "status", "prod"); r.Code != 0 || strings.Contains(r.Stderr, "undid") || strings.Contains(r.Stderr, "put ") {
		t.Errorf("the boot left something to do: %s", r)
	}
	return which
}

// cutAgain boots and cuts the power once more, before the server is up.
func (p *powerless) cutAgain(t *testing.T, c cut) {
	t.Helper()
	if err := p.server.Mount(t.Context()); err != nil {
		t.Fatal(err)
	}
	arm := filepath.Join(p.server.Root(), stopNext)
	if err := os.WriteFile(arm, []byte(c.again+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { _ = p.server.Boot(ctx); close(ended) }()
	if c.again == "random" {
		time.Sleep(200*time.Millisecond + time.Duration(p.random.Int64N(int64(2*time.Second))))
	} else {
		for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if out, err := p.server.Run(t.Context(), "cat /"+stopped); err == nil && out == c.again {
				break
			}
			if time.Since(begin) > 30*time.Second {
				t.Errorf("the boot does not come to %s", c.again)
				break
			}
		}
	}
	cancel()
	<-ended
	if err := p.server.PowerCut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.server.Mount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(arm); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// know remembers how each release of the history ended.
func (p *powerless) know(t testing.TB) {
	t.Helper()
	for _, r := range p.recorded(t) {
		p.ended[r.ID] = r.Outcome
	}
}

// recorded is the history as it lies on the disk.
func (p *powerless) recorded(t testing.TB) (all []protocol.Release) {
	t.Helper()
	in := json.NewDecoder(strings.NewReader(p.sh(t, "cat /var/lib/devbox/bowl/releases/*.json")))
	for in.More() {
		var r protocol.Release
		if err := in.Decode(&r); err != nil {
			t.Errorf("a record of the history: %v", err)
			return all
		}
		all = append(all, r)
	}
	return all
}

// instant is a moment from the first that the server has a part in to a little
// after the last.
func (p *powerless) instant(c cut) time.Duration {
	idle, long := p.idle[c.units], p.long[c.units]
	if c.back {
		long, idle = long-idle, 0
	}
	return idle + time.Duration(p.random.Int64N(int64(long-idle+300*time.Millisecond)))
}

// waitForStop waits until devbox-host has stopped where it was told to.
func (p *powerless) waitForStop(t *testing.T, ended <-chan struct{}, out *bytes.Buffer) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < time.Minute; {
		over := false
		select {
		case <-ended: // devbox has its answer before devbox-host drops old images
			over = true
		default:
		}
		if p.sh(t, "for i in $(seq 50); do test -e /"+stopped+" && exit; sleep 0.01; done; echo no") == "" {
			return
		}
		if over {
			t.Fatalf("it ended without coming there:\n%s", out)
		}
	}
	t.Fatalf("it does not come there:\n%s", out)
}

// look is what lies on the server's disk and runs there, asked of the system
// alone: devbox-host would put things right.
const look = `cd /var/lib/devbox/bowl
echo "image $(find images -name '*.raw' -samefile /var/lib/portables/bowl.raw)"
echo "env $(sed -n 's/^DEVBOX_VERSION=//p' release.env) $(sed -n 's/^DEVBOX_RELEASE=//p' release.env)"
echo "unit $(sed -n 's/^# mark //p' /etc/systemd/system.attached/bowl.service)"
echo "up $(systemctl is-active bowl.socket bowl.service bowl-litestream.service | tr '\n' ' ')"
echo "enabled $(systemctl is-enabled bowl.socket bowl.service bowl-litestream.service | tr '\n' ' ')"
echo "reload $(systemctl show -P NeedDaemonReload bowl.socket bowl.service bowl-litestream.service bowl-restore.service | grep . | sort -u)"
for u in bowl.service bowl-restore.service bowl-litestream.service; do
	for f in /etc/systemd/system.attached/$u /etc/systemd/system.attached/$u.d/10-profile.conf /etc/systemd/system.attached/$u.d/20-portable.conf /etc/systemd/system/$u.d/50-devbox.conf; do
		test -s $f || echo "missing $f"
	done
done
test ! -e journal.json || echo "journal $(cat journal.json)"
flock -n lock true || echo "locked $(cat lock)"
systemctl --failed --no-legend --plain | sed 's/^/failed /'`

// whole checks that the server is wholly of the release of version, that
// nothing is left of the change, and that the history is true.
func (p *powerless) whole(t *testing.T, version string) {
	t.Helper()
	var st struct{ Current protocol.Release }
	if err := json.Unmarshal([]byte(p.sh(t, "cat /var/lib/devbox/bowl/state.json")), &st); err != nil {
		t.Fatal(err)
	}
	_, unit, _ := strings.Cut(p.text[version], ", unit ")
	want := fmt.Sprintf("image images/bowl_%s.raw\nenv %s %s\nunit %s\nup active active active \nenabled enabled enabled enabled \nreload no",
		version, version, st.Current.ID, unit)
	got := p.sh(t, look)
	// What systemd starts after the app may need its time yet.
	for begin := time.Now(); got != want && time.Since(begin) < 15*time.Second; got = p.sh(t, look) {
		time.Sleep(200 * time.Millisecond)
	}
	if got != want {
		t.Errorf("the server has\n%s\nnot\n%s", got, want)
	}
	if short := st.Current.Digest[:min(12, len(st.Current.Digest))]; short != version {
		t.Errorf("state.json names %s", short)
	}
	body, err := p.fetch("/")
	if mark, _, _ := strings.Cut(strings.TrimPrefix(p.text[version], "page "), ","); err != nil || !strings.Contains(body, "<i>mark "+mark+"</i>") {
		t.Errorf("%v: the page of %s is not %s", err, version, p.text[version])
	}
	p.history(t, st.Current.ID)
}

// number is N of release rN.
func number(t *testing.T, id string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimPrefix(id, "r"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// history checks that every release of before is told of as before, and that
// of the new ones only the running one is told to be kept.
func (p *powerless) history(t *testing.T, current string) {
	t.Helper()
	known := map[string]bool{}
	for _, r := range p.recorded(t) {
		known[r.ID] = true
		before, old := p.ended[r.ID]
		switch {
		case old && r.Outcome != before:
			t.Errorf("%s ended as %s, and now as %s", r.ID, before, r.Outcome)
		case !old && (r.Outcome == protocol.Committed) != (r.ID == current):
			t.Errorf("%s ended as %s, and %s runs", r.ID, r.Outcome, current)
		}
	}
	// docs/host.md promises the last 200, and those that one can go back to.
	oldest := 0
	if len(known) >= 200 {
		var numbers []int
		for id := range known {
			numbers = append(numbers, number(t, id))
		}
		slices.Sort(numbers)
		oldest = numbers[len(numbers)-200]
	}
	for id := range p.ended {
		if !known[id] && number(t, id) > oldest {
			t.Errorf("%s is gone from the history of %d releases", id, len(known))
		}
	}
	if !known[current] {
		t.Errorf("%s, which runs, is not in the history", current)
	}
}

// forth checks that the next deploy works, and makes with it what next needs: a
// rollback of unit files needs a release before that has others.
func (p *powerless) forth(t *testing.T, mark string, next cut) {
	t.Helper()
	p.know(t)
	want := p.bring(t, mark, next.back && next.units).Version
	if now := p.answers(t); now != want {
		t.Errorf("after the next deploy %s answers, not %s", now, want)
	}
	p.whole(t, want)
}
