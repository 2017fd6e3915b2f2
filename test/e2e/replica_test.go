package e2e

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"devbox/internal/protocol"
	"devbox/test/harness"
	"devbox/test/play"
)

func press(t *testing.T, p *harness.Project, name string) {
	t.Helper()
	resp, err := http.PostForm(p.URL("/press"), url.Values{"name": {name}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !p.Shows(name) {
		t.Fatalf("%s's press is not on the page", name)
	}
}

// Where the stand-in for S3 has the replica, and what the app has beside its
// database: certificates.
const (
	store  = "/var/lib/standins/bowl/"
	beside = "certs"
)

// lose ends the app and takes its database away.
func lose(t *testing.T, p *harness.Project) {
	t.Helper()
	p.Inside(t, "systemctl stop bowl.socket bowl.service && systemctl stop bowl-litestream.service")
	if got := p.Inside(t, "cd /var/lib/bowl/ && test -s bowl.db && rm -rf bowl.db* .bowl.db* && ls -A"); got != beside {
		t.Errorf("beside the database there was %s", got)
	}
}

// replicated presses, and waits until the replica has it.
func replicated(t *testing.T, p *harness.Project, name string) {
	t.Helper()
	p.Inside(t, "touch /run/devbox-test")
	press(t, p, name)
	// Litestream looks once a second; what it begins with may not have the press yet.
	p.Inside(t, `for i in $(seq 300); do
	test -n "$(find `+store+` -type f -size +0 -newer /run/devbox-test)" && sleep 2 && exit; sleep 0.1
done; echo the replica stays as it is; exit 1`)
}

// testReplica loses the database twice: what was pressed is replicated and comes
// back with the next start, and so does what is pressed after that.
func testReplica(t *testing.T, p *harness.Project) {
	press(t, p, "Ada")
	for n, name := range []string{"Grace", "Katherine"} {
		replicated(t, p, name)
		lose(t, p)
		p.Inside(t, "systemctl start bowl.socket bowl.service bowl-litestream.service")
		for _, name := range []string{"Ada", "Grace", "Katherine"}[:n+2] {
			if !p.Shows(name) {
				t.Errorf("with the database lost %d times, %s's press is gone\n%s", n+1, name, p.Must(t, "logs", "-n", "40").Stdout)
			}
		}
	}
	wellAgain(t, p)
}

func wellAgain(t *testing.T, p *harness.Project) {
	t.Helper()
	if r := p.Run(t, "status"); r.Code != 0 {
		t.Errorf("not well afterwards: %s", r)
	}
}

// testBadReplicas loses the database where the replica cannot be had: the app
// stays down rather than to begin anew, status says why, and all comes back
// with the replica.
func testBadReplicas(t *testing.T, p *harness.Project) {
	replicated(t, p, "Dorothy")
	p.Inside(t, "systemctl stop bowl-litestream.service && rm -rf /root/kept && cp -a "+store+". /root/kept && systemctl start bowl-litestream.service")
	back := "systemctl stop standins-s3.service && rm -rf " + store + "* && cp -a /root/kept/. " + store + " && systemctl start standins-s3.service"
	files := "find " + store + " -name '*.ltx'"
	for _, c := range []struct{ name, spoil, mend, cause string }{
		{"S3 is down", "systemctl stop standins-s3.service", "systemctl start standins-s3.service", "connection refused"},
		{"damaged", "for f in $(" + files + "); do printf garbage | dd of=$f bs=1 seek=200 conv=notrunc status=none; done", back, "decode database"},
		{"cut off", "truncate -s 700 $(" + files + ")", back, "unexpected EOF"},
		{"the bucket is gone", "rm -rf " + strings.TrimSuffix(store, "/"), "mkdir -p " + store + " && chown --reference=/var/lib/standins/. " + store + " && " + back, "NoSuchBucket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lose(t, p)
			p.Inside(t, c.spoil)
			stays(t, p, c.cause)
			p.Inside(t, c.mend)
			p.Inside(t, "systemctl restart bowl-litestream.service")
			// A visitor is all that it takes.
			if !p.Shows("Dorothy") {
				t.Errorf("the press is gone: %s", p.Must(t, "logs", "-n", "40").Stdout)
			}
			wellAgain(t, p)
		})
	}
	t.Run("wrong keys", func(t *testing.T) {
		right := p.Read(t, "devbox.yaml")
		_, right, _ = strings.Cut(right, "    s3: |\n")
		right, _, _ = strings.Cut(right, "    acme-ca:")
		right = strings.ReplaceAll(right, "      ", "")
		wrong := strings.Replace(right, "no-secret-at-all", "not-this-one", 1)
		if r := p.Feed(t, []byte(wrong), "secret", "set", "s3"); r.Code != 0 || wrong == right {
			t.Fatalf("%s\n%s", right, r)
		}
		// With the database in place visitors are served, and the backup's trouble is told.
		p.Inside(t, "systemctl restart bowl-litestream.service bowl.service")
		p.Inside(t, "sleep 2")
		press(t, p, "Margaret")
		r := p.Run(t, "status")
		for begin := time.Now(); !strings.Contains(r.Stdout, "SignatureDoesNotMatch") && time.Since(begin) < 20*time.Second; r = p.Run(t, "status") {
			time.Sleep(time.Second)
		}
		if r.Code != 1 || !strings.Contains(r.Stdout, "SignatureDoesNotMatch") || !strings.Contains(r.Stdout, "logs errors") {
			t.Errorf("with the wrong keys and a database: %s", r)
		}
		lose(t, p)
		stays(t, p, "SignatureDoesNotMatch")
		if r := p.Feed(t, []byte(right), "secret", "set", "s3"); r.Code != 0 {
			t.Fatal(r)
		}
		p.Inside(t, "systemctl restart bowl-litestream.service")
		if !p.Shows("Dorothy") {
			t.Error("with the right keys nothing comes back")
		}
		wellAgain(t, p)
	})
}

// stays starts the app, which must not make a database, with a cause in status.
func stays(t *testing.T, p *harness.Project, cause string) {
	t.Helper()
	p.Inside(t, "systemctl start bowl.socket; systemctl start bowl.service && echo it starts && exit 1 || true")
	r := p.Run(t, "status")
	if r.Code != 1 || !strings.Contains(r.Stdout, "bowl-restore.service, which it requires, exited with status 1") || !strings.Contains(r.Stdout, cause) {
		t.Errorf("status does not tell of %q: %s", cause, r)
	}
	if got := p.Inside(t, "ls -A /var/lib/bowl/"); got != beside {
		t.Errorf("there is %q", got)
	}
}

// testStoreDownAtBoot boots without the store: visitors are served from the
// database that is there.
func testStoreDownAtBoot(t *testing.T, p *harness.Project) {
	press(t, p, "Evelyn")
	p.Inside(t, `mkdir -p /etc/systemd/system/standins-s3.service.d
printf '[Unit]\nConditionPathExists=/nowhere\n' >/etc/systemd/system/standins-s3.service.d/test.conf`)
	p.Must(t, "down")
	up := p.Run(t, "up")
	if !p.Shows("Evelyn") {
		t.Errorf("without the store: %s", up)
	}
	if got := p.Inside(t, "systemctl is-active standins-s3.service bowl.service || true"); got != "inactive\nactive" {
		t.Errorf("the store and the app are %q", got)
	}
	p.Inside(t, "rm -r /etc/systemd/system/standins-s3.service.d && systemctl daemon-reload && systemctl start standins-s3.service && systemctl restart bowl-litestream.service")
	wellAgain(t, p)
}

// testMatchKilled kills what a match depends on, in turn, while it is played.
func testMatchKilled(t *testing.T, p *harness.Project) {
	kill := func(unit string) func() {
		return func() { p.Inside(t, "systemctl kill --signal=KILL --kill-whom=main "+unit) }
	}
	for _, c := range []struct {
		name string
		kill func()
	}{
		{"the app", kill("bowl.service")},
		{"Litestream", kill("bowl-litestream.service")},
		{"S3", kill("standins-s3.service")},
		{"the machine", func() {
			_, text, _ := strings.Cut(p.Status(t).Machine.Detail, "process ")
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatalf("status does not name the machine's process: %q", text)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if c := p.Must(t, "up", "--json").Cycle(t); c.Outcome != protocol.Unchanged {
				t.Errorf("up: %s", c.Outcome)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			crowd, err := play.Gather(t.Context(), p.URL(""), 2, 4, 3)
			if err != nil {
				t.Fatal(err)
			}
			played := make(chan error, 1)
			go func() { played <- crowd.Play(t.Context(), 10, 400*time.Millisecond) }()
			time.Sleep(1500 * time.Millisecond)
			c.kill()
			if err := <-played; err != nil {
				t.Error(err)
			}
			back, problems := crowd.Check()
			for _, bad := range problems {
				t.Error(bad)
			}
			for _, r := range crowd.Rooms {
				if r.Acknowledged() != 40 {
					t.Errorf("room %s: %d presses were answered, of 40", r.Code, r.Acknowledged())
				}
			}
			if want := c.name == "the app" || c.name == "the machine"; (back > 0) != want {
				t.Errorf("screens came back %d times", back)
			}
			t.Logf("%d presses, screens came back %d times", 80, back)
		})
	}
	// All of it is replicated: what a lost disk would bring back has it.
	if r := p.Run(t, "drill"); r.Code != 0 || !strings.Contains(r.Stdout, "nothing would have been lost") {
		t.Error(r)
	}
	wellAgain(t, p)
}
