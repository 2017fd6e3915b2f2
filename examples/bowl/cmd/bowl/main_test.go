package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The tests start this binary again as the app itself.
func TestMain(m *testing.M) {
	if os.Getenv("BOWL_TEST_AS_APP") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

const patience = 20 * time.Second

// process is a running app.
type process struct {
	cmd    *exec.Cmd
	log    *bytes.Buffer
	states chan string // what it told the service manager
}

// startApp starts the app as systemd would: sockets from descriptor 3 on, their name, and a place for notifications.
func startApp(t *testing.T, data string, env []string, sockets ...*os.File) process {
	t.Helper()
	folder, err := os.MkdirTemp("", "bowl") // short: the address of a socket has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(folder, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = notify.Close() })
	p := process{log: &bytes.Buffer{}, states: make(chan string, 100)}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := notify.Read(buf)
			if err != nil {
				return
			}
			first, _, _ := strings.Cut(string(buf[:n]), "\n")
			p.states <- first
		}
	}()
	// systemd names the process that the sockets are for, which only the process itself knows here.
	script := `export LISTEN_PID=$$; exec "$0" "$@"`
	p.cmd = exec.Command("/bin/sh", "-c", script, os.Args[0], "-share", "../../share", "-listen", "127.0.0.1:0")
	p.cmd.Env = append(os.Environ(), "BOWL_TEST_AS_APP=1", "NOTIFY_SOCKET="+filepath.Join(folder, "n"), "STATE_DIRECTORY="+data)
	if len(sockets) > 0 {
		p.cmd.Env = append(p.cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES=http")
	}
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.ExtraFiles = sockets
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

func (p process) await(t *testing.T, want string) {
	t.Helper()
	for {
		select {
		case got := <-p.states:
			if got == want {
				return
			}
		case <-time.After(patience):
			t.Fatalf("no %s within %v; log:\n%s", want, patience, p.log)
		}
	}
}

func (p process) stop(t *testing.T) time.Duration {
	t.Helper()
	before := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("app ends: %v; log:\n%s", err, p.log)
	}
	return time.Since(before)
}

func socket(t *testing.T) (*os.File, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, "http://" + l.Addr().String()
}

func get(t *testing.T, url string) string {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(body))
}

func TestSocketActivation(t *testing.T) {
	f, url := socket(t)
	p := startApp(t, t.TempDir(), []string{"DEVBOX_VERSION=3f2a9c01d2e4", "WATCHDOG_USEC=200000"}, f)
	p.await(t, "READY=1")
	if got := get(t, url+"/version"); got != "3f2a9c01d2e4" {
		t.Errorf("version %q", got)
	}
	p.await(t, "WATCHDOG=1")

	events, err := http.Get(url + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer events.Body.Close()
	if line, err := bufio.NewReader(events.Body).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	if took := p.stop(t); took > 2*time.Second {
		t.Errorf("the app took %v to stop with a stream open", took)
	}
	p.await(t, "STOPPING=1")
	if _, err := io.Copy(io.Discard, events.Body); err != nil {
		t.Errorf("the stream broke: %v", err)
	}
}

// By itself, without a word of systemd's, the app listens where it is told and keeps its data there.
func TestByItself(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	cmd := exec.Command(os.Args[0], "-share", "../../share", "-listen", "127.0.0.1:0", "-data", data)
	cmd.Env = []string{"BOWL_TEST_AS_APP=1"}
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	lines := bufio.NewScanner(log)
	at := ""
	for at == "" && lines.Scan() {
		if _, rest, serving := strings.Cut(lines.Text(), " at="); serving {
			at, _, _ = strings.Cut(rest, " ")
		}
	}
	if at == "" {
		t.Fatalf("it ended without serving: %v", cmd.Wait())
	}
	if got := get(t, "http://"+at+"/healthz"); !strings.Contains(got, `"status":"ok"`) {
		t.Errorf("health: %s", got)
	}
	if _, err := os.Stat(filepath.Join(data, "bowl.db")); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, log)
	if err := cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
}

func TestWrongSocketName(t *testing.T) {
	f, _ := socket(t)
	p := startApp(t, t.TempDir(), []string{"LISTEN_FDNAMES=bowl.socket"}, f)
	if err := p.cmd.Wait(); err == nil {
		t.Error("the app took a socket of another name")
	}
	if !strings.Contains(p.log.String(), "FileDescriptorName=http") {
		t.Errorf("the log does not name the cure:\n%s", p.log)
	}
}

func TestBrokenTemplateNeverGetsReady(t *testing.T) {
	share := t.TempDir()
	if err := os.CopyFS(share, os.DirFS("../../share")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(share, "templates", "page.html"), []byte("{{.Broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-share", share, "-listen", "127.0.0.1:0", "-data", t.TempDir())
	cmd.Env = append(os.Environ(), "BOWL_TEST_AS_APP=1")
	log, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(string(log), "page.html:1") {
		t.Errorf("%v; log:\n%s", err, log)
	}
}

// What a deploy does, with a plain client on it: the next process takes the socket after the last one ended.
func TestRestartsUnderLoad(t *testing.T) {
	f, url := socket(t)
	data := t.TempDir()
	p := startApp(t, data, []string{"DEVBOX_VERSION=v0"}, f)
	p.await(t, "READY=1")
	var until atomic.Bool
	var pressed atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			var before time.Time
			for !until.Load() {
				sent, again, err := press(client, url)
				idle := again && sent.Sub(before) >= 50*time.Millisecond // it had no processor for so long: see internal/serve
				before = sent
				if err != nil && idle {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				pressed.Add(1)
			}
		})
	}
	for _, version := range []string{"v1", "v2", "v3"} {
		time.Sleep(100 * time.Millisecond)
		p.stop(t)
		p = startApp(t, data, []string{"DEVBOX_VERSION=" + version}, f)
		p.await(t, "READY=1")
		if got := get(t, url+"/version"); got != version {
			t.Errorf("version %q answers, want %q", got, version)
		}
	}
	until.Store(true)
	wg.Wait()
	want := `"presses":` + strconv.FormatInt(pressed.Load(), 10)
	if got := get(t, url+"/healthz"); !strings.Contains(got, want) {
		t.Errorf("health %s, want %s", got, want)
	}
	p.stop(t)
}

// press says when the request was sent, and whether on a connection that had been used. A POST is not repeated by the
// client, so a broken one shows.
func press(client *http.Client, url string) (sent time.Time, again bool, err error) {
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn:      func(c httptrace.GotConnInfo) { again = c.Reused },
		WroteRequest: func(httptrace.WroteRequestInfo) { sent = time.Now() },
	})
	r, err := http.NewRequestWithContext(ctx, "POST", url+"/press", strings.NewReader("name=Ann"))
	if err != nil {
		return sent, again, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := client.Do(r)
	if err != nil {
		return sent, again, err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	if answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", answer.StatusCode)
	}
	return sent, again, err
}

// A client whose request never ends neither holds a deploy up nor makes a failure of it.
func TestStopsWithASlowClient(t *testing.T) {
	f, url := socket(t)
	p := startApp(t, t.TempDir(), nil, f)
	p.await(t, "READY=1")
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST /press HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"+
		"Content-Length: 8\r\nExpect: 100-continue\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); !strings.Contains(line, "100") { // it reads the body
		t.Fatalf("%q, %v", line, err)
	}
	if took := p.stop(t); took > 2*time.Second {
		t.Errorf("the app took %v to stop", took)
	}
	if log := p.log.String(); !strings.Contains(log, "level=WARN") || !strings.Contains(log, "connections=1") {
		t.Errorf("the log does not say that a client was cut off:\n%s", log)
	}
}

func TestParse(t *testing.T) {
	env := func(pairs ...string) func(string) string {
		return func(key string) string {
			if i := slices.Index(pairs, key); i >= 0 {
				return pairs[i+1]
			}
			return ""
		}
	}
	o, err := parse(nil, env("STATE_DIRECTORY", "/var/lib/bowl:/var/lib/other", "DEVBOX_VERSION", "v1", "BOWL_GREETING", strings.Repeat("é", 999)))
	if err != nil {
		t.Fatal(err)
	}
	want := options{listen: "127.0.0.1:8080", share: "share", data: "/var/lib/bowl", version: "v1", greeting: strings.Repeat("é", 200)}
	if o != want {
		t.Errorf("options %v, want %v", o, want)
	}
	if o, err := parse([]string{"-listen", ":80", "-share", "/usr/share/bowl"}, env("DEVBOX_VERSION", "v1")); err != nil ||
		o != (options{listen: ":80", share: "/usr/share/bowl", data: "data", version: "v1"}) {
		t.Errorf("options %v, %v", o, err)
	}
	if _, err := parse([]string{"surplus"}, env()); err == nil {
		t.Error("a surplus argument was taken")
	}
}
