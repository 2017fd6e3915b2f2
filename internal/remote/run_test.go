package remote

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"devbox/internal/hint"
	"devbox/internal/remote/sshtest"
)

func TestRun(t *testing.T) {
	s := sshtest.Start(t)
	c := dial(t, s, Options{})
	ctx := within(t, 60*time.Second)

	t.Run("odd arguments", func(t *testing.T) {
		args := []string{"", " ", "a b", "it's", `"`, "$HOME", "`id`", "*", "~", "-n", "new\nline", "é", "\\", "A=b", "!", "#"}
		out, err := c.Output(ctx, append([]string{"printf", `%s\0`}, args...)...)
		if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); err != nil || !slices.Equal(got, args) {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := c.Output(ctx, "echo", "a\x00b"); err == nil {
			t.Error("a NUL byte was taken")
		}
		if _, err := c.Output(ctx); err == nil {
			t.Error("an empty command was taken")
		}
	})
	t.Run("script", func(t *testing.T) {
		var out, errs bytes.Buffer
		err := c.Run(ctx, Command{Script: `echo "$1-$#"; echo oops >&2; cat`, Args: []string{"x y", "z"}, Stdin: strings.NewReader("in"), Stdout: &out, Stderr: &errs})
		if err != nil || out.String() != "x y-2\nin" || errs.String() != "oops\n" {
			t.Errorf("got %q, %q, %v", &out, &errs, err)
		}
	})
	t.Run("exit code", func(t *testing.T) {
		err := c.Run(ctx, Command{Script: "echo why >&2; exit 7"})
		var exit *ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		want := ExitError{Command: "echo why >&2; exit 7", Host: "127.0.0.1", Code: 7, Stderr: "why\n"}
		if *exit != want || !strings.Contains(err.Error(), "exit code 7: why") {
			t.Errorf("got %+v (%v), want %+v", *exit, err, want)
		}
	})
	t.Run("signal", func(t *testing.T) {
		err := c.Run(ctx, Command{Script: "kill -SEGV $$"})
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Signal != "SEGV" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("much stderr", func(t *testing.T) {
		err := c.Run(ctx, Command{Script: "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1"})
		var exit *ExitError
		if !errors.As(err, &exit) || len(exit.Stderr) > maxStderr+8 || !strings.HasSuffix(exit.Stderr, "xend\n") {
			t.Errorf("got %d bytes", len(exit.Stderr))
		}
	})
	t.Run("big streams", func(t *testing.T) {
		data := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
		var out bytes.Buffer
		if err := c.Run(ctx, Command{Args: []string{"cat"}, Stdin: bytes.NewReader(data), Stdout: &out}); err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(out.Bytes()) != sha256.Sum256(data) {
			t.Errorf("got %d bytes back, other than the %d sent", out.Len(), len(data))
		}
	})
	t.Run("stdin left alone", func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		if err := c.Run(ctx, Command{Args: []string{"true"}, Stdin: r}); err != nil {
			t.Error(err)
		}
	})
	t.Run("many", func(t *testing.T) {
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				out, err := c.Output(ctx, "sh", "-c", "sleep 0.1; echo $1", "sh", fmt.Sprint(i))
				if err != nil || strings.TrimSpace(string(out)) != fmt.Sprint(i) {
					t.Errorf("%d: %q, %v", i, out, err)
				}
			})
		}
		all.Wait()
	})
}

// TestPlaces shows that a ninth command waits for a place, and no longer than
// its context.
func TestPlaces(t *testing.T) {
	s := sshtest.Start(t)
	c := dial(t, s, Options{})
	var held []*Process
	for range maxSessions {
		p, err := c.Start(t.Context(), "cat")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		held = append(held, p)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.Output(ctx, "true"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "sessions") {
		t.Errorf("got %v", err)
	}
	if err := held[0].Stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Output(within(t, 10*time.Second), "true"); err != nil {
		t.Error(err)
	}
}

func TestProcess(t *testing.T) {
	s := sshtest.Start(t)
	c := dial(t, s, Options{})
	p, err := c.Start(t.Context(), "sh", "-c", "while read line; do echo got $line; done; echo bye >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(p.Stdout)
	for _, word := range []string{"one", "two"} {
		fmt.Fprintln(p.Stdin, word)
		if line, err := r.ReadString('\n'); err != nil || line != "got "+word+"\n" {
			t.Fatalf("got %q, %v", line, err)
		}
	}
	p.Stdin.Close()
	var exit *ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.Code != 3 || exit.Stderr != "bye\n" {
		t.Errorf("got %v", err)
	}
	if text, err := io.ReadAll(p.Stderr); err != nil || string(text) != "bye\n" {
		t.Errorf("stderr is %q, %v", text, err)
	}

	// A process that floods stderr, which nobody reads, still ends.
	p, err = c.Start(within(t, 20*time.Second), "sh", "-c", "head -c 8000000 /dev/zero >&2")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}

	// Close ends a process, and its place is free again. Where no signal gets
	// to it, the end of its stdin does.
	command := []string{"cat"}
	if signals(c) {
		command = []string{"sleep", "100"}
	}
	for range 2 * maxSessions {
		if p, err = c.Start(within(t, 20*time.Second), command...); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		p.Close()
		if took := time.Since(begin); took > 2*time.Second {
			t.Fatalf("Close took %v", took)
		}
		if err := p.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
}

// signals reports whether this sshd delivers signals: it does not in a login
// as root before OpenSSH 9.8.
func signals(c *Conn) bool {
	version := string(c.client().ServerVersion())
	var major, minor int
	_, err := fmt.Sscanf(version, "SSH-2.0-OpenSSH_%d.%d", &major, &minor)
	return c.hop.User != "root" || err == nil && (major > 9 || major == 9 && minor >= 8)
}

func TestCancel(t *testing.T) {
	s := sshtest.Start(t)
	c := dial(t, s, Options{})
	mark := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	began := make(chan struct{})
	var cancelled time.Time
	go func() {
		for {
			if _, err := os.Stat(mark); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		close(began)
		cancelled = time.Now()
		cancel()
	}()
	// cat ends by the end of its stdin, where signals are not delivered.
	r, w := io.Pipe()
	defer w.Close()
	err := c.Run(ctx, Command{Script: `echo $$ >"$1.new"; mv "$1.new" "$1"; exec cat`, Args: []string{mark}, Stdin: r})
	<-began
	if !errors.Is(err, context.Canceled) || time.Since(cancelled) > time.Second {
		t.Errorf("got %v after %v", err, time.Since(cancelled))
	}
	pid := strings.TrimSpace(string(must(os.ReadFile(mark))))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the command lives on")
		}
	}
	// The connection is as good as before.
	if _, err := c.Output(within(t, 10*time.Second), "true"); err != nil {
		t.Error(err)
	}
}

func TestServerRefusesSessions(t *testing.T) {
	// It comes to an end by itself where sessions end.
	c := dial(t, sshtest.Start(t, "MaxSessions 1"), Options{})
	var all errgroup.Group
	for range 4 {
		all.Go(func() error { return c.Run(t.Context(), Command{Args: []string{"true"}}) })
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	c = dial(t, sshtest.Start(t, "MaxSessions 0"), Options{})
	err := c.Run(t.Context(), Command{Args: []string{"true"}})
	if err == nil || !strings.Contains(err.Error(), "open a session on 127.0.0.1") || !strings.Contains(hint.Of(err), "raise MaxSessions") {
		t.Errorf("got %v, hint %q", err, hint.Of(err))
	}
}

func TestConnectionCut(t *testing.T) {
	s := sshtest.Start(t)
	c := dial(t, s, Options{})
	out := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		result <- c.Run(t.Context(), Command{Script: "echo up; exec sleep 100", Stdout: writerFunc(func(p []byte) (int, error) {
			close(out)
			return len(p), nil
		})})
	}()
	<-out
	s.Stop()
	select {
	case err := <-result:
		if !errors.Is(err, ErrLost) || !Retryable(err) || !strings.Contains(err.Error(), "sleep") && !strings.Contains(err.Error(), "echo up") {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run outlived its connection")
	}
	<-c.Done()
	if err := c.Run(t.Context(), Command{Args: []string{"true"}}); !errors.Is(err, ErrLost) {
		t.Errorf("a command on a lost connection: %v", err)
	}
	if _, err := c.DialContext(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, ErrLost) {
		t.Errorf("a dial on a lost connection: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestClose(t *testing.T) {
	s := sshtest.Start(t)
	c := dial(t, s, Options{})
	p, err := c.Start(t.Context(), "cat")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := p.Wait(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := c.Err(); !errors.Is(err, net.ErrClosed) || errors.Is(err, ErrLost) {
		t.Errorf("got %v", err)
	}
}

func TestKeepAlive(t *testing.T) {
	s := sshtest.Start(t)
	c := dial(t, s, Options{KeepAlive: 100 * time.Millisecond, KeepAliveTries: 5})
	p, err := c.Start(t.Context(), "sleep", "100")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if err := c.Err(); err != nil {
		t.Fatalf("the connection ended though the host answers: %v", err)
	}
	family := s.Family()
	s.Signal(syscall.SIGSTOP, family...)
	begin := time.Now()
	errs := make(chan error, 3)
	go func() { errs <- p.Wait() }()
	go func() { errs <- c.Run(t.Context(), Command{Args: []string{"true"}}) }()
	go func() {
		_, err := c.DialContext(t.Context(), "tcp", "127.0.0.1:1")
		errs <- err
	}()
	for range cap(errs) {
		select {
		case err := <-errs:
			if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "no answer") {
				t.Errorf("got %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("something waits on for a host that is silent")
		}
	}
	if took := time.Since(begin); took < 400*time.Millisecond || took > 5*time.Second {
		t.Errorf("took %v, want about 0.6 s", took)
	}
}

func TestDialContext(t *testing.T) {
	s := sshtest.Start(t)
	c := dial(t, s, Options{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
	defer web.Close()
	client := http.Client{Transport: &http.Transport{DialContext: c.DialContext}}
	defer client.CloseIdleConnections()
	res, err := client.Get(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || string(body) != "hello" {
		t.Errorf("got %q, %v", body, err)
	}

	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := c.DialContext(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()

	_, err = c.DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", sshtest.FreePort(t)))
	if !errors.Is(err, ErrRefused) {
		t.Errorf("got %v", err)
	}
}

func TestFiles(t *testing.T) {
	s := sshtest.Start(t)
	c := dial(t, s, Options{})
	ctx := within(t, 60*time.Second)
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"plain": []byte("hello\n"), "empty": {}, "it's \"odd\" $x": {0, 1, 2, 255}, "-n": []byte("dash"),
		"big": bytes.Repeat([]byte{0, '\n', 0xff}, 1<<20),
	} {
		path := filepath.Join(dir, name)
		if err := c.WriteFile(ctx, path, data, FileOptions{Mode: 0o750}); err != nil {
			t.Fatal(err)
		}
		got, err := c.ReadFile(ctx, path, FileOptions{})
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: got %d bytes, %v; want %d", name, len(got), err, len(data))
		}
		if info := must(os.Stat(path)); info.Mode() != 0o750 {
			t.Errorf("%s: mode is %v", name, info.Mode())
		}
	}
	if entries := must(os.ReadDir(dir)); len(entries) != 5 {
		t.Errorf("there is more in the folder than was written: %v", entries)
	}
	if err := c.WriteFile(ctx, filepath.Join(dir, "suid"), nil, FileOptions{Mode: 0o755 | fs.ModeSetuid}); err != nil {
		t.Fatal(err)
	}
	if info := must(os.Stat(filepath.Join(dir, "suid"))); info.Mode() != 0o755|fs.ModeSetuid {
		t.Errorf("mode is %v", info.Mode())
	}
	if os.Getuid() == 0 {
		if err := c.WriteFile(ctx, filepath.Join(dir, "owned"), nil, FileOptions{Owner: "daemon:daemon"}); err != nil {
			t.Fatal(err)
		}
		if st := must(os.Stat(filepath.Join(dir, "owned"))).Sys().(*syscall.Stat_t); st.Uid != 1 || st.Gid != 1 {
			t.Errorf("owner is %d:%d", st.Uid, st.Gid)
		}
	}

	if _, err := c.ReadFile(ctx, filepath.Join(dir, "none"), FileOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	var exit *ExitError
	if _, err := c.ReadFile(ctx, dir, FileOptions{}); !errors.As(err, &exit) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := c.WriteFile(ctx, filepath.Join(dir, "no", "folder"), nil, FileOptions{}); !errors.As(err, &exit) || !strings.Contains(err.Error(), "no/folder") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"", "relative", "/folder/"} {
		if err := c.WriteFile(ctx, bad, nil, FileOptions{}); err == nil {
			t.Errorf("%q was taken for a file", bad)
		}
	}
}

func TestFilesBySudo(t *testing.T) {
	if err := exec.Command("sudo", "-n", "true").Run(); err != nil {
		t.Skip("needs sudo without a password")
	}
	c := dial(t, sshtest.Start(t), Options{})
	ctx := within(t, 30*time.Second)
	path := filepath.Join(t.TempDir(), "of root")
	if err := c.WriteFile(ctx, path, []byte("x"), FileOptions{Mode: 0o600, Owner: "root", Sudo: true}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Run(ctx, Command{Args: []string{"sudo", "-n", "rm", path}}); err != nil {
			t.Error(err)
		}
	}()
	if st := must(os.Stat(path)).Sys().(*syscall.Stat_t); st.Uid != 0 {
		t.Errorf("owner is %d", st.Uid)
	}
	if got, err := c.ReadFile(ctx, path, FileOptions{Sudo: true}); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestWriteIsAtomic cuts the connection while the bytes flow, and watches the
// file all the while.
func TestWriteIsAtomic(t *testing.T) {
	s := sshtest.Start(t)
	path := filepath.Join(t.TempDir(), "file")
	old := []byte("the old content")
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	c := dial(t, s, Options{})
	result := make(chan error, 1)
	go func() { result <- c.WriteFile(t.Context(), path, bytes.Repeat([]byte("new"), 100<<20), FileOptions{}) }()
	for {
		if parts, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".file.*")); len(parts) == 1 {
			if info, err := os.Stat(parts[0]); err == nil && info.Size() > 1<<20 {
				break
			}
		}
		select {
		case err := <-result:
			t.Fatalf("too early: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	// The TCP connection is cut, sshd and the script live on and clean up.
	c.raw.Close()
	if err := <-result; !errors.Is(err, ErrLost) {
		t.Errorf("got %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		entries := must(os.ReadDir(filepath.Dir(path)))
		if len(entries) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %v", entries)
		}
	}
	if got := must(os.ReadFile(path)); !bytes.Equal(got, old) {
		t.Errorf("the file holds %d bytes of something else", len(got))
	}
}
