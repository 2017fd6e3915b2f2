package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
	"devbox/internal/vm"
	"devbox/test/harness"
)

const (
	page  = "share/templates/page.html"
	units = "deployment/portable/usr/lib/systemd/system/"
	code  = "cmd/bowl/main.go"
)

func testUp(t *testing.T, p *harness.Project) {
	first := p.Must(t, "up", "--json")
	c := first.Cycle(t)
	t.Logf("the first up took %s", first.Took.Round(time.Millisecond))
	if c.Outcome != protocol.Committed || c.Release != "r1" {
		t.Errorf("the first up: %s %s", c.Outcome, c.Release)
	}
	p.Answers(t, c.Version)
	if body := p.Get(t, "/"); !strings.Contains(body, "This is the dev machine.") {
		t.Errorf("the page does not have the greeting of devbox.yaml's env:\n%s", body)
	}

	before := p.Status(t)
	if before.Code != 0 || before.Machine.Driver != vm.DriverNspawn {
		t.Errorf("status: exit %d, driver %s", before.Code, before.Machine.Driver)
	}
	second := p.Must(t, "up", "--json")
	t.Logf("the second up took %s", second.Took.Round(time.Millisecond))
	if c := second.Cycle(t); c.Outcome != protocol.Unchanged || c.Wire != 0 {
		t.Errorf("the second up: %s, %d bytes sent", c.Outcome, c.Wire)
	}
	if after := p.Status(t); after.Serving() != before.Serving() || !after.Machine.Since.Equal(before.Machine.Since) {
		t.Errorf("the second up did something:\n%s\n%s", before.Serving(), after.Serving())
	}
	p.InstallHammer(t)
}

// restarted are the units that a cycle says it restarted, in order of name.
func restarted(c deploy.Cycle) string {
	var names []string
	for _, u := range c.Restart {
		names = append(names, u.Unit)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func phases(c deploy.Cycle) string {
	var all []string
	for _, x := range c.Phases {
		all = append(all, fmt.Sprintf("%s %s", x.Name, x.Took.Round(time.Millisecond)))
	}
	return strings.Join(all, ", ")
}

// testWatch makes the edits of a day and looks at the processes behind them.
func testWatch(t *testing.T, p *harness.Project) {
	w := p.Watch(t)
	if w.First.Outcome != protocol.Unchanged {
		t.Errorf("watch began with %s, though up had just run", w.First.Outcome)
	}
	serves := w.First.Version
	pids := func() [2]int {
		s := p.Status(t)
		return [2]int{s.PID("bowl.service"), s.PID("bowl-litestream.service")}
	}
	for _, edit := range []struct {
		what, file, old, new string
		restart              string
		app, litestream      bool // whether its process is another one afterwards
		reload               bool
		on                   string // what the page then has
	}{
		{what: "a template", file: page, old: "<h1>Science Bowl</h1>", new: "<h1>Second Bowl</h1>",
			restart: "bowl.service", app: true, on: "<h1>Second Bowl</h1>"},
		{what: "litestream's settings", file: "deployment/portable/etc/litestream.yml", old: "dbs:", new: "# edited\ndbs:",
			restart: "bowl-litestream.service", litestream: true},
		{what: "a unit", file: units + "bowl.service", old: "WatchdogSec=60s", new: "WatchdogSec=59s",
			restart: "bowl.service", app: true, reload: true},
		{what: "a new file", file: "share/static/new.css", new: "/* new */", restart: "bowl.service", app: true},
		{what: "the code", file: "internal/web/web.go", old: `const anonymous = "Somebody"`, new: `const anonymous = "Anybody"`,
			restart: "bowl.service", app: true},
	} {
		before := pids()
		if edit.old == "" {
			p.Write(t, edit.file, edit.new)
		} else {
			p.Edit(t, edit.file, edit.old, edit.new)
		}
		c := w.Next(t, edit.file)
		if c.Outcome != protocol.Committed || restarted(c) != edit.restart {
			t.Errorf("%s: %s, restarted %q, not %q: %s", edit.what, c.Outcome, restarted(c), edit.restart, c.Error)
		}
		after := pids()
		if app, litestream := after[0] != before[0], after[1] != before[1]; app != edit.app || litestream != edit.litestream || after[0]*after[1] == 0 {
			t.Errorf("%s: bowl, litestream were processes %v and are %v", edit.what, before, after)
		}
		reloaded := slices.ContainsFunc(c.Phases, func(x protocol.Phase) bool { return x.Name == "reload" })
		if reloaded != edit.reload {
			t.Errorf("%s: the phases are %s", edit.what, phases(c))
		}
		if edit.app {
			serves = c.Version
		}
		p.Answers(t, serves) // an app that was not restarted goes on with its version
		if !strings.Contains(p.Get(t, "/"), edit.on) {
			t.Errorf("%s: the page does not have it", edit.what)
		}
		t.Logf("%-22s %s: %s", edit.what, c.Took.Round(time.Millisecond), phases(c))
	}
	if got := p.Inside(t, "systemctl show --value --property=WatchdogUSec bowl.service"); got != "59s" {
		t.Errorf("systemd knows the unit with WatchdogUSec=%s", got)
	}
	if code := w.Stop(t); code != 0 {
		t.Errorf("watch exits with %d on Ctrl-C\n%s", code, w.Said())
	}
}

func testCommands(t *testing.T, p *harness.Project) {
	form := url.Values{"name": {"Ada"}}
	resp, err := http.PostForm(p.URL("/press"), form)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if body := p.Get(t, "/"); !strings.Contains(body, "Ada") {
		t.Errorf("the press is not on the page:\n%s", body)
	}
	if r := p.Must(t, "logs", "bowl.service", "-n", "5"); !strings.Contains(r.Stdout, "serving") {
		t.Errorf("the app's journal lacks its own line: %s", r)
	}
	if r := p.Must(t, "logs", "bowl-litestream.service"); strings.Contains(r.Stdout, "ready_in") {
		t.Errorf("litestream's journal has lines of the app: %s", r)
	}
	if r := p.Run(t, "ssh", "exit 7"); r.Code != 7 {
		t.Errorf("ssh does not exit as its command: %s", r)
	}
	if r := p.Must(t, "ssh", "hostname; id -un"); !strings.HasPrefix(r.Stdout, "bowl\n") {
		t.Errorf("ssh is on %s", r)
	}
	s := p.Status(t)
	if len(s.Ports) != 2 || s.Ports[0].Problem+s.Ports[1].Problem != "" || s.Ports[0].Client != p.SecurePort || s.Ports[1].Client != p.Port {
		t.Errorf("status has the ports %+v", s.Ports)
	}
	if r := p.Must(t, "check"); !strings.Contains(r.Stderr, "no mistakes found") {
		t.Errorf("%s", r)
	}
	a, b := p.Must(t, "build", "--json"), p.Must(t, "build", "--json")
	if version(a) != version(b) || version(a) != s.Host.Current.Digest[:12] {
		t.Errorf("two builds and what runs differ: %s %s %s", a.Stdout, b.Stdout, s.Serving())
	}
}

func version(r harness.Ran) string {
	_, rest, _ := strings.Cut(r.Stdout, `"version":"`)
	v, _, _ := strings.Cut(rest, `"`)
	return v
}

func testDownUp(t *testing.T, p *harness.Project) {
	if body := p.Get(t, "/"); !strings.Contains(body, "Ada") {
		t.Fatalf("what was stored is gone before the machine went down:\n%s", body)
	}
	before := p.Status(t)
	r := p.Must(t, "down")
	t.Logf("down took %s", r.Took.Round(time.Millisecond))
	if s := p.Status(t); s.Machine.State != vm.Stopped || s.Code != 1 {
		t.Errorf("after down: %s, exit %d", s.Machine.State, s.Code)
	}
	if conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", p.Port), time.Second); err == nil {
		conn.Close()
		t.Error("after down the port is still open")
	}
	p.Must(t, "down")
	r = p.Must(t, "up", "--json")
	t.Logf("up of a stopped machine took %s", r.Took.Round(time.Millisecond))
	if c := r.Cycle(t); c.Outcome != protocol.Unchanged {
		t.Errorf("up of a stopped machine: %s", c.Outcome)
	}
	if s := p.Status(t); s.Code != 0 || s.Host.Current.ID != before.Host.Current.ID {
		t.Errorf("after up: exit %d, %s", s.Code, s.Serving())
	}
	if body := p.Get(t, "/"); !strings.Contains(body, "Ada") {
		t.Errorf("the press was stored and is gone:\n%s", body)
	}
}

func testDestroy(t *testing.T, p *harness.Project) {
	s := p.Status(t)
	if s.Machine.NetNS == "" || s.Machine.Link == "" {
		t.Fatalf("status does not name the machine's network: %+v", s.Machine)
	}
	running := strings.Join(p.Leftovers(t, "bowl"), "\n")
	for _, has := range []string{"namespace: " + s.Machine.NetNS, s.Machine.Link, "nft table: ", "loop device: ", "control group: ", "process: ", "folder: "} {
		if !strings.Contains(running, has) {
			t.Errorf("the look for what is left does not find %q of a running machine:\n%s", has, running)
		}
	}
	if r := p.Run(t, "destroy"); r.Code != 2 || !strings.Contains(r.Stderr, "--yes") {
		t.Errorf("destroy without a terminal and without --yes: %s", r)
	}
	if now := p.Status(t); now.Serving() != s.Serving() {
		t.Errorf("a refused destroy changed %s into %s", s.Serving(), now.Serving())
	}
	p.Must(t, "destroy", "--yes")
	if left := p.Leftovers(t, "bowl"); len(left) > 0 {
		t.Errorf("destroy left\n%s", strings.Join(left, "\n"))
	}
	if now := p.Status(t); now.Machine.State != vm.Missing {
		t.Errorf("after destroy: %s", now.Machine.State)
	}
	p.Must(t, "destroy", "--yes")
}
