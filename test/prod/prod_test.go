// Package prod goes from a rented server to an app in production and back from
// whatever can happen to it there, as a person does: the built devbox, and
// servers of test/vps.
package prod

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/protocol"
	"devbox/internal/vm"
	"devbox/test/harness"
	"devbox/test/vps"
)

const (
	page  = "share/templates/page.html"
	units = "deployment/portable/usr/lib/systemd/system/"
)

// TestProduction is one server and one project. The parts run in this order,
// and each leaves a server that is well, with a release on it.
func TestProduction(t *testing.T) {
	s := rent(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *site)
	}{
		{"story", testStory},
		{"two apps", testTwoApps},
		{"two at once", testTwoAtOnce},
		{"broken releases", testBroken},
		{"damaged images", testDamaged},
		{"logins", testLogins},
		{"killed", testKilled},
		{"power cuts", testPowerCuts},
		{"match cut", testMatchCut},
		{"load", testLoad},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, s) }) && part.name == "story" {
			t.Fatal("without an app there is nothing more to test")
		}
	}
}

// site is a project and the server that it is deployed to.
type site struct {
	*harness.Project
	server  *vps.Server
	address string
	user    string // whom the provider lets in
	replica string // where it is, as env of units
	config  string // devbox.yaml without its targets
}

// rent makes a project with a key of its own, and a bare server.
func rent(t *testing.T) *site {
	t.Helper()
	s := project(t)
	s.server = vps.New(t, vps.Options{Authorized: []string{s.Key}})
	s.moveIn(t)
	return s
}

// project is a person's with a key of their own, who has no server yet.
func project(t *testing.T) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("needs minutes, and -short was given")
	}
	if err := vm.NspawnReady(); err != nil {
		t.Skipf("needs systemd-nspawn: %v", err)
	}
	s := &site{Project: harness.New(t, harness.Options{Key: true}), user: "root", replica: "{BOWL_REPLICA: 'file:///var/lib/bowl/replica'}"}
	s.config = s.Read(t, "devbox.yaml")
	vps.Enclose(t)
	s.ownSSH(t)
	return s
}

// ownSSH has the project's ssh(1) look into its own home, which is not that of
// the user who runs the test.
func (s *site) ownSSH(t *testing.T) {
	t.Helper()
	real, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.Home, "bin")
	text := fmt.Sprintf("#!/bin/sh\nexec %s -F none -i %[2]s/.ssh/id_ed25519 -o UserKnownHostsFile=%[2]s/.ssh/known_hosts \"$@\"\n", real, s.Home)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, v := range s.Env {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			s.Env[i] = "PATH=" + dir + ":" + path
		}
	}
}

// moveIn makes the server the target of the project, with a host key that is known.
func (s *site) moveIn(t *testing.T) {
	t.Helper()
	s.meet(t)
	s.target(t)
}

// meet learns the address and the host key of the server.
func (s *site) meet(t *testing.T) {
	t.Helper()
	var err error
	if s.address, err = s.server.Address(t.Context()); err != nil {
		t.Fatal(err)
	}
	hosts, err := s.server.KnownHosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Home, ".ssh", "known_hosts"), []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
}

// target writes the target into devbox.yaml.
func (s *site) target(t *testing.T) {
	t.Helper()
	s.Write(t, "devbox.yaml", s.config+fmt.Sprintf(`
targets:
  prod:
    host: %s
    user: %s
    health:
      url: http://127.0.0.1:8080/healthz
      expect: '"version":"${DEVBOX_VERSION}"'
      deadline: 20s
    trial: 300ms
    env:
      bowl.service:
        BOWL_GREETING: This is production.
      bowl-restore.service: %s
      bowl-litestream.service: %[3]s
`, s.address, s.user, s.replica))
}

// provision sets the server up, with the secret that units name. Where the
// replica is, it opens nothing.
func (s *site) provision(t *testing.T) harness.Ran {
	t.Helper()
	r := s.Must(t, "provision", "prod", "--yes")
	if set := s.Feed(t, []byte("[default]\n"), "secret", "set", "prod", "s3"); set.Code != 0 {
		t.Fatal(set)
	}
	return r
}

// sh runs on the server what must succeed there.
func (s *site) sh(t testing.TB, command string) string {
	t.Helper()
	out, err := s.server.Run(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// deploy runs a deploy, without an image that the dev machine knows.
func (s *site) deploy(t testing.TB, args ...string) harness.Ran {
	t.Helper()
	return s.Run(t, append([]string{"deploy", "prod", "--yes", "--allow-unproven", "--json"}, args...)...)
}

// kept is a deploy or rollback that has to be kept.
func kept(t testing.TB, r harness.Ran) deploy.Cycle {
	t.Helper()
	if r.Code != 0 {
		t.Fatal(r)
	}
	c := r.Cycle(t)
	if c.Outcome != protocol.Committed && c.Outcome != protocol.Unchanged {
		t.Fatalf("outcome %q: %s", c.Outcome, r)
	}
	return c
}

// fetch asks the app over the network, as its visitors do.
func (s *site) fetch(path string) (string, error) { return s.fetchFrom("8080", path) }

func (s *site) fetchFrom(port, path string) (string, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + s.address + ":" + port + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

// answers waits until the app answers, and returns its version.
func (s *site) answers(t testing.TB) string {
	t.Helper()
	var version string
	var err error
	for begin := time.Now(); time.Since(begin) < 40*time.Second; time.Sleep(50 * time.Millisecond) {
		if version, err = s.fetch("/version"); err == nil {
			return version
		}
	}
	t.Fatalf("the app does not answer: %v\n%s", err, s.sh(t, "systemctl --no-pager status 'bowl*'; journalctl --no-pager -b -n 60"))
	return ""
}

// releases is what `devbox releases` prints, newest first.
func (s *site) releases(t testing.TB) []protocol.Release {
	t.Helper()
	var all []protocol.Release
	for line := range strings.Lines(s.Must(t, "releases", "prod", "--json").Stdout) {
		var r protocol.Release
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, r)
	}
	return all
}

// version is that of the image of the source as it is.
func (s *site) version(t testing.TB) string {
	t.Helper()
	var built struct{ Version string }
	if err := json.Unmarshal([]byte(s.Must(t, "build", "--arch", arch, "--json").Stdout), &built); err != nil {
		t.Fatal(err)
	}
	return built.Version
}

// hostUnderTest puts a devbox-host on the server that stops where a test asks
// it to, also while it boots.
func (s *site) hostUnderTest(t testing.TB) {
	t.Helper()
	out := filepath.Join(s.server.Root(), "usr/local/sbin/devbox-host.new")
	cmd := exec.Command("go", "build", "-tags=crashpoints", "-trimpath", "-ldflags=-s -w", "-o", out, "./cmd/devbox-host")
	cmd.Dir, cmd.Env = harness.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	s.sh(t, `cd /usr/local/sbin && cp -p devbox-host devbox-host.as-built && mv devbox-host.new devbox-host
mkdir -p /etc/systemd/system/devbox-recover.service.d
echo '[Service]
ExecStartPre=-/bin/sh -c "mv /`+stopNext+` /`+stopAt+`"' >/etc/systemd/system/devbox-recover.service.d/test.conf
sync`)
}

// hostAsBuilt puts the devbox-host back that provision installed.
func (s *site) hostAsBuilt(t testing.TB) {
	t.Helper()
	s.sh(t, "mv /usr/local/sbin/devbox-host.as-built /usr/local/sbin/devbox-host; rm -r /etc/systemd/system/devbox-recover.service.d; systemctl daemon-reload; sync")
}

// copied is another project of the same person.
func copied(p *harness.Project) *harness.Project {
	c := *p
	return &c
}
