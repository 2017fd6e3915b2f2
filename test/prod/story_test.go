package prod

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
	"devbox/test/harness"
)

const arch = runtime.GOARCH

// testStory is how a person comes to an app in production.
func testStory(t *testing.T, s *site) {
	r := s.provision(t)
	t.Logf("provision of a bare server took %s", r.Took.Round(time.Millisecond))
	if p := s.provisioned(t, "--dry-run"); p.Outcome != "unchanged" {
		t.Errorf("a second provision: %+v", p)
	}

	if r := s.Run(t, "rollback", "prod", "--yes"); r.Code != 2 || !strings.Contains(r.Stderr, "`devbox deploy prod` makes the first release") {
		t.Errorf("a rollback of nothing: %s", r)
	}
	one := kept(t, s.deploy(t))
	if v := s.answers(t); one.Release != "r1" || v != one.Version {
		t.Errorf("the first deploy is %s of %s, and %s answers", one.Release, one.Version, v)
	}
	if body, err := s.fetch("/"); err != nil || !strings.Contains(body, "This is production.") {
		t.Errorf("the page lacks the greeting of the target's env: %v\n%s", err, body)
	}
	if c := kept(t, s.deploy(t)); c.Outcome != protocol.Unchanged || c.Wire != 0 {
		t.Errorf("the same once more: %s, %d bytes sent", c.Outcome, c.Wire)
	}

	s.Edit(t, page, "<h1>Science Bowl</h1>", "<h1>Second Bowl</h1>")
	planned := s.deploy(t, "--dry-run").Cycle(t)
	if got := unitsOf(planned.Restart); got != "bowl.service" || planned.Outcome != protocol.Planned {
		t.Errorf("the plan (%s) of a changed template restarts %q", planned.Outcome, got)
	}
	if v := s.answers(t); v != one.Version {
		t.Errorf("a plan has changed what answers to %s", v)
	}
	const sockets = "systemctl show -P InvocationID -P ActiveEnterTimestamp bowl.socket"
	socket := s.sh(t, sockets)
	two := kept(t, s.deploy(t))
	t.Logf("deploy of a template: %s, %d bytes sent", two.Took.Round(time.Millisecond), two.Wire)
	if got := unitsOf(two.Restart); got != "bowl.service" {
		t.Errorf("a changed template restarted %q", got)
	}
	if now := s.sh(t, sockets); now != socket {
		t.Errorf("the socket was\n%s\nand is\n%s", socket, now)
	}
	if v := s.answers(t); v != two.Version {
		t.Errorf("%s answers after the deploy of %s", v, two.Version)
	}

	back := kept(t, s.Run(t, "rollback", "prod", "--yes", "--json"))
	if v := s.answers(t); v != one.Version {
		t.Errorf("after the rollback %s answers, not %s", v, one.Version)
	}
	all := s.releases(t)
	var told []string
	for _, r := range all {
		told = append(told, r.ID+" "+r.Digest[:12]+" "+r.Outcome+" "+r.Of)
	}
	if want := []string{
		back.Release + " " + one.Version + " committed r1", "r2 " + two.Version + " committed ", "r1 " + one.Version + " committed ",
	}; !slices.Equal(told, want) {
		t.Errorf("the releases are\n%q, not\n%q", told, want)
	}
	if body, err := s.fetch("/"); err != nil || !strings.Contains(body, "This is production.") || !strings.Contains(body, "Science Bowl") {
		t.Errorf("the page of the rollback: %v\n%s", err, body)
	}
	kept(t, s.Run(t, "rollback", "prod", "r2", "--yes", "--json"))
	if v := s.answers(t); v != two.Version {
		t.Errorf("after the rollback to r2 %s answers, not %s", v, two.Version)
	}
	if r := s.Run(t, "rollback", "prod", "r77", "--yes"); r.Code == 0 || !strings.Contains(r.Stderr, "r77") {
		t.Errorf("a release that never was: %s", r)
	}

	if st := s.Status(t, "prod"); st.Code != 0 || st.Host == nil || st.Host.Current.Digest[:12] != two.Version {
		t.Errorf("status exits with %d: %s", st.Code, st.Serving())
	}
	if r := s.Must(t, "logs", "prod", "bowl.service", "-n", "20"); !strings.Contains(r.Stdout, "serving") {
		t.Errorf("the app's journal lacks its own line: %s", r)
	}
	if r := s.Must(t, "ssh", "prod", "id -un; hostname"); r.Stdout != "root\nvps\n" {
		t.Errorf("ssh is on %s", r)
	}
}

func unitsOf(list []protocol.UnitWhy) string {
	var names []string
	for _, u := range list {
		names = append(names, u.Unit)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// provisioned is what `devbox provision --json` prints.
type provisioned struct {
	Outcome string
	Changes []struct{ Kind, Name string }
	Error   string
}

func (s *site) provisioned(t *testing.T, args ...string) provisioned {
	t.Helper()
	r := s.Must(t, append([]string{"provision", "prod", "--json"}, args...)...)
	var p provisioned
	if err := json.Unmarshal([]byte(r.Stdout), &p); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	return p
}

const otherMain = `package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "shop", os.Getenv("DEVBOX_VERSION")) })
	fmt.Println(http.ListenAndServe(":8081", nil))
	os.Exit(1)
}
`

// testTwoApps has an app of another repository on the same server.
func testTwoApps(t *testing.T, s *site) {
	shop := &site{Project: copied(s.Project), server: s.server, address: s.address}
	shop.Dir = filepath.Join(s.Home, "shop")
	if err := os.CopyFS(filepath.Join(shop.Dir, "cloud-init"), os.DirFS(filepath.Join(s.Dir, "cloud-init"))); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"go.mod":  "module shop\n\ngo 1.24\n",
		"main.go": otherMain,
		"tree/usr/lib/systemd/system/shop.service": "[Service]\nExecStart=/usr/bin/shop\nDynamicUser=yes\n[Install]\nWantedBy=multi-user.target\n",
		"devbox.yaml": "name: shop\nbuild: {command: go build -trimpath -ldflags='-s -w' -o $DEVBOX_STAGE/usr/bin/shop .}\nimage: {tree: tree}\n" +
			"targets: {prod: {host: " + s.address + ", trial: 1s, health: {url: \"http://127.0.0.1:8081/version\", expect: \"${DEVBOX_VERSION}\", deadline: 20s}}}\n",
	} {
		shop.Write(t, name, text)
	}
	const bowls = "systemctl show -P InvocationID bowl.service bowl.socket bowl-litestream.service"
	const shops = "systemctl show -P InvocationID shop.service"
	bowl, before := s.sh(t, bowls), s.answers(t)
	first := kept(t, shop.deploy(t))
	asked := func() string {
		text, err := shop.fetchFrom("8081", "/version")
		if err != nil {
			return err.Error()
		}
		return text
	}
	if got := asked(); got != "shop "+first.Version {
		t.Errorf("the other app answers %q", got)
	}
	if now := s.sh(t, bowls); now != bowl || s.answers(t) != before {
		t.Error("a deploy of the other app touched this one")
	}
	pid := s.sh(t, shops)
	s.Edit(t, page, "</h1>", ", still</h1>")
	if v := kept(t, s.deploy(t)).Version; s.answers(t) != v {
		t.Errorf("%s answers, not %s", s.answers(t), v)
	}
	kept(t, s.Run(t, "rollback", "prod", "--yes", "--json"))
	if now := s.sh(t, shops); now != pid || asked() != "shop "+first.Version {
		t.Errorf("a deploy and a rollback of this app touched the other one: %s", asked())
	}
	if all := shop.releases(t); len(all) != 1 || all[0].Digest[:12] != first.Version {
		t.Errorf("the other app's releases are %v", all)
	}
	s.sh(t, "/usr/local/sbin/devbox-host forget shop")
	if s.answers(t) != before || s.sh(t, "ls /var/lib/devbox /etc/systemd/system.attached | grep shop || true") != "" {
		t.Error("the other app left something, or took this one with it")
	}
}

// testTwoAtOnce deploys two versions at the same time.
func testTwoAtOnce(t *testing.T, s *site) {
	other := &site{Project: copied(s.Project), server: s.server, address: s.address}
	other.Dir = s.Dir + "-of-bob"
	if err := os.CopyFS(other.Dir, os.DirFS(s.Dir)); err != nil {
		t.Fatal(err)
	}
	s.Edit(t, page, "</h1>", ", by ann</h1>")
	other.Edit(t, page, "</h1>", ", by bob</h1>")
	defer s.Edit(t, page, ", by ann</h1>", "</h1>")
	type ran struct {
		harness.Ran
		err error
	}
	both := make(chan ran, 2)
	for _, who := range []*site{s, other} {
		go func() {
			r, err := who.Try(nil, "deploy", "prod", "--yes", "--allow-unproven", "--json")
			both <- ran{r, err}
		}()
	}
	committed := map[string]bool{}
	for range 2 {
		r := <-both
		if r.err != nil {
			t.Errorf("%v\n%s", r.err, r)
			continue
		}
		switch c := r.Cycle(t); {
		case r.Code == 0 && c.Outcome == protocol.Committed:
			committed[c.Version] = true
		case r.Code == 4 && strings.Contains(r.String(), "@"):
			t.Logf("refused: %s", c.Error)
		default:
			t.Error(r)
		}
	}
	if v := s.answers(t); !committed[v] {
		t.Errorf("%s answers, kept were %v", v, committed)
	}
	if st := s.Status(t, "prod"); st.Code != 0 || !committed[st.Host.Current.Digest[:12]] {
		t.Errorf("status exits with %d: %s", st.Code, st.Serving())
	}
	t.Logf("%d of two at once were kept, one after the other", len(committed))
}
