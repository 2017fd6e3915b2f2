package release

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"devbox/internal/image"
	"devbox/internal/protocol"
	"devbox/internal/sync/delta"
)

// machine is a real Debian with systemd and portabled, on which tests run
// commands as root. DEVBOX_TEST_SSH is the command to do so: it is given one
// argument more, a shell command.
type machine struct {
	prefix []string
	host   string // path of devbox-host there
}

const hostOnMachine = "/var/tmp/devbox-host-under-test"

var buildOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "devbox-release-test-*")
	if err != nil {
		return "", err
	}
	for out, args := range map[string][]string{
		"devbox-host": {"-tags=crashpoints", "../../cmd/devbox-host"},
		"relapp":      {"./testdata/relapp"},
	} {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, out)}, args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
		if text, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("%w: %s", err, text)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv("DEVBOX_TEST_SSH") != "" {
		if dir, _ := buildOnce(); dir != "" {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

func realMachine(t testing.TB) *machine {
	t.Helper()
	prefix := strings.Fields(os.Getenv("DEVBOX_TEST_SSH"))
	if len(prefix) == 0 {
		t.Skip("needs a devbox test machine: set DEVBOX_TEST_SSH to a command that runs a shell command on it as root")
	}
	dir, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{prefix: prefix, host: hostOnMachine}
	bin, err := os.ReadFile(filepath.Join(dir, "devbox-host"))
	if err != nil {
		t.Fatal(err)
	}
	m.put(t, m.host, bin)
	m.sh(t, "chmod 755 "+m.host)
	return m
}

func (m *machine) command(script string) *exec.Cmd {
	return exec.Command(m.prefix[0], append(m.prefix[1:len(m.prefix):len(m.prefix)], script)...)
}

// sh runs a script that must succeed and returns what it prints.
func (m *machine) sh(t testing.TB, script string) string {
	t.Helper()
	out, err := m.command(script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (m *machine) put(t testing.TB, path string, data []byte) {
	t.Helper()
	cmd := m.command("cat > " + path + ".tmp && mv " + path + ".tmp " + path)
	cmd.Stdin = bytes.NewReader(data)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("put %s: %v\n%s", path, err, out)
	}
}

// client talks to one `devbox-host serve`.
type client struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs bytes.Buffer
}

// serve starts devbox-host, with env in its environment.
func (m *machine) serve(t testing.TB, env string) *client {
	t.Helper()
	c := &client{t: t, cmd: m.command(strings.TrimSpace("env " + env + " " + m.host + " serve"))}
	c.cmd.Stderr = &c.errs
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func (c *client) close() {
	c.in.Close()
	_ = c.cmd.Wait()
}

// answer is all that came back on a request.
type answer struct {
	protocol.Event // the last one, with what the others had filled in
	Phases         []protocol.Phase
	Lost           bool // the session ended before the answer did
}

func (c *client) ask(req protocol.Request, follow func(io.Writer) error) answer {
	c.t.Helper()
	line, err := json.Marshal(req)
	if err != nil {
		c.t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.in.Write(append(line, '\n'))
		if err == nil && follow != nil {
			err = follow(c.in)
		}
		sent <- err
	}()
	var a answer
	for {
		e, err := protocol.ReadEvent(c.out)
		if err != nil {
			a.Lost = true
			return a
		}
		if e.Phase != nil {
			a.Phases = append(a.Phases, *e.Phase)
		}
		if e.Plan != nil {
			a.Plan = e.Plan
		}
		if e.Done {
			plan := a.Plan
			a.Event = e
			if a.Plan == nil {
				a.Plan = plan
			}
			if e.Error == "" {
				if err := <-sent; err != nil {
					c.t.Fatalf("send request: %v\n%s", err, c.errs.String())
				}
			}
			return a
		}
	}
}

func (c *client) hello(app string) protocol.Welcome {
	c.t.Helper()
	a := c.ask(protocol.Request{Hello: &protocol.Hello{Protocol: protocol.Version, App: app}}, nil)
	if a.Welcome == nil {
		c.t.Fatalf("no welcome: %+v\n%s", a.Event, c.errs.String())
	}
	return *a.Welcome
}

// built is an image on this side.
type built struct {
	path   string
	digest string
	size   int64
	sums   *delta.Sums
}

// parts are what a test image is made of, beside relapp itself.
type parts struct {
	app   string
	files map[string]string // path in the image -> content
	links map[string]string // path in the image -> where it leads
	bulk  int               // bytes that never change, as of a large second program
	pack  image.Format      // "" is erofs
}

func build(t testing.TB, p parts) built {
	t.Helper()
	dir, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	write := func(name string, data []byte, mode os.FileMode) {
		file := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, mode); err != nil {
			t.Fatal(err)
		}
	}
	bin, err := os.ReadFile(filepath.Join(dir, "relapp"))
	if err != nil {
		t.Fatal(err)
	}
	write("usr/bin/relapp", bin, 0o755)
	if p.bulk > 0 {
		rnd := rand.NewChaCha8([32]byte{7})
		data := make([]byte, p.bulk)
		_, _ = rnd.Read(data)
		write("usr/bin/bulk", data, 0o755)
	}
	for name, text := range p.files {
		write(name, []byte(text), 0o644)
	}
	for name, to := range p.links {
		file := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.Symlink(to, file)); err != nil {
			t.Fatal(err)
		}
	}
	staged, err := image.Stage(image.Options{Name: p.app, Dirs: []string{tree}})
	if err != nil {
		t.Fatal(err)
	}
	packed, err := image.Pack(context.Background(), staged, cmp.Or(p.pack, image.Erofs), filepath.Join(t.TempDir(), p.app+".raw"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(packed.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sums, err := delta.Sum(context.Background(), f, packed.Size)
	if err != nil {
		t.Fatal(err)
	}
	return built{packed.Path, sums.Digest().String(), packed.Size, sums}
}

// receive sends an image as a delta against base, or whole.
func (c *client) receive(app string, b built, base *built) answer {
	c.t.Helper()
	req := protocol.Receive{App: app, Digest: b.digest, Size: b.size}
	if base != nil {
		req.Base = base.digest
	}
	return c.ask(protocol.Request{Receive: &req}, func(w io.Writer) error { return encode(w, b, base) })
}

func encode(w io.Writer, b built, base *built) error {
	src, closeSrc, err := source(b)
	if err != nil {
		return err
	}
	defer closeSrc()
	var from *delta.Source
	if base != nil {
		var closeFrom func()
		if from, closeFrom, err = source(*base); err != nil {
			return err
		}
		defer closeFrom()
	}
	_, err = delta.Encode(context.Background(), w, from, src, delta.EncodeOptions{Mode: delta.Fast})
	return err
}

func source(b built) (*delta.Source, func(), error) {
	f, err := os.Open(b.path)
	if err != nil {
		return nil, nil, err
	}
	return &delta.Source{ReaderAt: f, Size: b.size, Sums: b.sums}, func() { f.Close() }, nil
}

func (c *client) activate(app string, b built, s protocol.Settings) answer {
	c.t.Helper()
	if s.Health.Deadline == 0 {
		s.Health.Deadline = time.Minute // a machine for tests may be busy
	}
	return c.ask(protocol.Request{Activate: &protocol.Activate{App: app, Digest: b.digest, Settings: s, By: "test"}}, nil)
}

// deploy receives and activates, and wants the outcome.
func (c *client) deploy(app string, b built, s protocol.Settings, outcome string) protocol.Result {
	c.t.Helper()
	if a := c.receive(app, b, nil); a.Error != "" || a.Lost {
		c.t.Fatalf("receive: %+v %s", a, c.errs.String())
	}
	a := c.activate(app, b, s)
	if a.Result == nil || a.Result.Outcome != outcome {
		text, _ := json.MarshalIndent(a, "", " ")
		c.t.Fatalf("want %s, got %s\n%s", outcome, text, c.errs.String())
	}
	return *a.Result
}

const appService = `[Unit]
After=%[1]s-side.service
[Service]
Type=notify
ExecStart=/usr/bin/relapp
StateDirectory=%[1]s
TimeoutStopSec=20
[Install]
WantedBy=multi-user.target
[X-Devbox]
Reads=/etc/relapp /usr/share/relapp
`

const sideService = `[Service]
ExecStart=/usr/bin/relapp
[Install]
WantedBy=multi-user.target
[X-Devbox]
Reads=/etc/side
`

// standard is the app that most tests start from: a socket, its service, and a
// second service that reads only /etc/side.
func standard(app string, port int) parts {
	return parts{app: app, files: map[string]string{
		"etc/relapp/mode":                                 "ok",
		"usr/share/relapp/page":                           "one",
		"etc/side/conf":                                   "a",
		"usr/lib/systemd/system/" + app + ".service":      fmt.Sprintf(appService, app),
		"usr/lib/systemd/system/" + app + ".socket":       fmt.Sprintf("[Socket]\nListenStream=127.0.0.1:%d\n[Install]\nWantedBy=sockets.target\n", port),
		"usr/lib/systemd/system/" + app + "-side.service": sideService,
	}}
}

// with is p with files replaced; an empty text removes one.
func (p parts) with(pairs ...string) parts {
	files := map[string]string{}
	for k, v := range p.files {
		files[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		if files[pairs[i]] = pairs[i+1]; pairs[i+1] == "" {
			delete(files, pairs[i])
		}
	}
	p.files = files
	return p
}

func (m *machine) get(t testing.TB, port int) string {
	t.Helper()
	return m.sh(t, fmt.Sprintf("curl -sS --max-time 5 http://127.0.0.1:%d/ || true", port))
}

// fresh takes the app off before and after a test.
func (m *machine) fresh(t testing.TB, app string) {
	t.Helper()
	m.sh(t, m.host+" forget "+app)
	t.Cleanup(func() {
		m.sh(t, m.host+" forget "+app+" && rm -rf /var/lib/private/"+app+" /var/lib/"+app)
	})
}

func (m *machine) pid(t testing.TB, unit string) string {
	t.Helper()
	return m.sh(t, "systemctl show -P MainPID "+unit)
}

func phases(list []protocol.Phase) string {
	var b strings.Builder
	for _, p := range list {
		fmt.Fprintf(&b, " %s=%s", p.Name, p.Took.Round(100*time.Microsecond))
	}
	return b.String()
}
