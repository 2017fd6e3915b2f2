package remote

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"devbox/internal/hint"
	"devbox/internal/remote/sshtest"
)

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// endpoint reaches s with its own key.
func endpoint(s *sshtest.Server) Endpoint {
	return Endpoint{Host: "127.0.0.1", Port: s.Port, User: s.User, IdentityFiles: []string{s.Identity}, KnownHosts: []string{s.KnownHosts}}
}

// dial connects to s, or ends the test.
func dial(t *testing.T, s *sshtest.Server, o Options) *Conn {
	t.Helper()
	c, err := Dial(within(t, 30*time.Second), endpoint(s), o)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.Log())
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// refused dials and returns the error there must be.
func refused(t *testing.T, e Endpoint, o Options) error {
	t.Helper()
	c, err := Dial(within(t, 30*time.Second), e, o)
	if err == nil {
		c.Close()
		t.Fatal("the dial worked")
	}
	return err
}

func TestWrongUserKey(t *testing.T) {
	s := sshtest.Start(t)
	e := endpoint(s)
	wrong := filepath.Join(t.TempDir(), "wrong")
	sshtest.WriteKey(t, wrong, "")
	e.IdentityFiles = []string{wrong, wrong + "-missing"}
	err := refused(t, e, Options{})
	var auth *AuthError
	if !errors.As(err, &auth) || !errors.Is(err, ErrAuth) || Retryable(err) {
		t.Fatalf("got %v", err)
	}
	if len(auth.Tried) != 1 || auth.Tried[0] != wrong || len(auth.Skipped) != 1 || !strings.Contains(auth.Skipped[0], "missing") {
		t.Errorf("tried %q, skipped %q", auth.Tried, auth.Skipped)
	}
}

func TestEncryptedKey(t *testing.T) {
	s := sshtest.Start(t)
	key := filepath.Join(t.TempDir(), "locked")
	s.Authorize(sshtest.WriteKey(t, key, "open sesame"))
	other := filepath.Join(t.TempDir(), "other")
	sshtest.WriteKey(t, other, "x")
	e := endpoint(s)
	e.IdentityFiles = []string{other, key}

	if err := refused(t, e, Options{}); !errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), "passphrase") {
		t.Fatalf("without a prompt: %v", err)
	}
	var asked []string
	prompt := func(_ context.Context, file string) ([]byte, error) {
		asked = append(asked, file)
		if len(asked) == 1 {
			return []byte("wrong"), nil
		}
		// Longer than the timeout, which must not run while a person types.
		time.Sleep(1500 * time.Millisecond)
		return []byte("open sesame"), nil
	}
	c, err := Dial(within(t, 20*time.Second), e, Options{Passphrase: prompt, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if len(asked) != 2 || asked[0] != key || asked[1] != key {
		t.Errorf("asked for %q, want twice for the key that the server takes", asked)
	}
}

func TestAgent(t *testing.T) {
	s := sshtest.Start(t)
	private, err := ssh.ParseRawPrivateKey(must(os.ReadFile(s.Identity)))
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	for _, key := range []any{other, private} {
		if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(ring, conn)
		}
	}()
	e := endpoint(s)
	e.IdentityFiles = nil
	o := Options{AgentSocket: socket, Home: t.TempDir()}
	c, err := Dial(within(t, 20*time.Second), e, o)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()

	// With only the public half on disk, the agent's key of it is the one.
	e.IdentityFiles = []string{s.Identity + ".pub"}
	if c, err = Dial(within(t, 20*time.Second), e, o); err != nil {
		t.Fatal(err)
	}
	c.Close()

	// A named key restricts the agent to it.
	e.IdentityFiles = []string{filepath.Join(t.TempDir(), "named")}
	sshtest.WriteKey(t, e.IdentityFiles[0], "")
	var auth *AuthError
	if err := refused(t, e, o); !errors.As(err, &auth) || len(auth.Tried) != 1 {
		t.Errorf("got %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestQuestions uses the library's server: sshd checks passwords only as root.
func TestQuestions(t *testing.T) {
	for _, method := range []string{"password", "keyboard-interactive"} {
		t.Run(method, func(t *testing.T) {
			dir := t.TempDir()
			public := sshtest.WriteKey(t, dir+"/host", "")
			config := &ssh.ServerConfig{}
			wrong := errors.New("wrong")
			if method == "password" {
				config.PasswordCallback = func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
					if string(p) != "secret" {
						return nil, wrong
					}
					return nil, nil
				}
			} else {
				config.KeyboardInteractiveCallback = func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
					if got, err := ask("", "", []string{"Code: "}, []bool{true}); err != nil || got[0] != "secret" {
						return nil, wrong
					}
					return nil, nil
				}
			}
			config.AddHostKey(must(ssh.ParsePrivateKey(must(os.ReadFile(dir + "/host")))))
			e := libraryServer(t, config, public)
			var asked []Question
			answer := func(_ context.Context, q Question) (string, error) {
				asked = append(asked, q)
				return []string{"guess", "secret"}[len(asked)-1], nil
			}
			c, err := Dial(within(t, 20*time.Second), e, Options{Answer: answer})
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			if len(asked) != 2 || asked[0].Host != "127.0.0.1" || asked[0].User != "u" || asked[0].Echo != (method != "password") {
				t.Errorf("asked %+v", asked)
			}
		})
	}
}

// libraryServer serves config, and returns how to reach it.
func libraryServer(t *testing.T, config *ssh.ServerConfig, hostKey ssh.PublicKey) Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, channels, requests, err := ssh.NewServerConn(conn, config); err == nil {
					go ssh.DiscardRequests(requests)
					for c := range channels {
						c.Reject(ssh.Prohibited, "")
					}
				}
			}()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	known := filepath.Join(t.TempDir(), "known")
	line := fmt.Sprintf("[127.0.0.1]:%d %s", port, ssh.MarshalAuthorizedKey(hostKey))
	if err := os.WriteFile(known, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	return Endpoint{Host: "127.0.0.1", Port: port, User: "u", KnownHosts: []string{known}}
}

// TestCutWhileAuthenticating is a machine that goes down, or PAM that lets
// nobody in while the system boots.
func TestCutWhileAuthenticating(t *testing.T) {
	dir := t.TempDir()
	public := sshtest.WriteKey(t, dir+"/host", "")
	config := &ssh.ServerConfig{
		BannerCallback: func(ssh.ConnMetadata) string { return "System is booting up.\n" },
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			runtime.Goexit() // Runs the deferred Close, and says nothing.
			return nil, nil
		},
	}
	config.AddHostKey(must(ssh.ParsePrivateKey(must(os.ReadFile(dir + "/host")))))
	e := libraryServer(t, config, public)
	e.IdentityFiles = []string{dir + "/host"}
	err := refused(t, e, Options{})
	if !errors.Is(err, ErrLost) || !Retryable(err) || !strings.Contains(err.Error(), "System is booting up.") {
		t.Errorf("got %v", err)
	}
}

// A computer that is offline may say of every name that there is no such host.
func TestNoSuchHost(t *testing.T) {
	err := dialError(Hop{Host: "bowl.invalid", Port: 22}, &net.DNSError{Err: "no such host", Name: "bowl.invalid", IsNotFound: true})
	if !errors.Is(err, ErrUnreachable) || !Retryable(err) || !strings.Contains(hint.Of(err), "spelling") {
		t.Errorf("got %v (%s)", err, hint.Of(err))
	}
}

func TestRefusedPort(t *testing.T) {
	e := Endpoint{Host: "127.0.0.1", Port: sshtest.FreePort(t), User: "u"}
	err := refused(t, e, Options{})
	var d *DialError
	if !errors.As(err, &d) || d.Kind != ErrRefused || !Retryable(err) || hint.Of(err) == "" {
		t.Errorf("got %v", err)
	}
	if want := fmt.Sprintf("connect to 127.0.0.1:%d: connection refused", e.Port); err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

// What was dialled is said once.
func TestUnreachable(t *testing.T) {
	err := dialError(Hop{Host: "192.0.2.1", Port: 22}, &net.OpError{
		Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 22}, Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH),
	})
	if want := "connect to 192.0.2.1:22: host unreachable: no route to host"; err.Error() != want || !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("%q, want %q", err, want)
	}
}

func TestSilentAndRudeServers(t *testing.T) {
	tests := []struct {
		name   string
		serve  func(net.Conn)
		kind   error
		wanted string
	}{
		{"hangs up", func(c net.Conn) { c.Close() }, ErrClosedEarly, "PerSourcePenalties"},
		{"penalises", func(c net.Conn) { fmt.Fprint(c, "Not allowed at this time\r\n"); c.Close() }, ErrClosedEarly, "PerSourcePenalties"},
		{"says nothing", func(net.Conn) {}, ErrUnreachable, "boots"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					// The client's banner is read, or closing would reset.
					_, _ = c.Read(make([]byte, 256))
					test.serve(c)
				}
			}()
			e := Endpoint{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "u"}
			begin := time.Now()
			err = refused(t, e, Options{Timeout: 500 * time.Millisecond})
			if !errors.Is(err, test.kind) || !Retryable(err) || !strings.Contains(hint.Of(err), test.wanted) {
				t.Errorf("got %v, cure %q", err, hint.Of(err))
			}
			if test.name == "penalises" && !strings.Contains(err.Error(), "Not allowed at this time") {
				t.Errorf("%v does not say what the server said", err)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestJump(t *testing.T) {
	a, b, c := sshtest.Start(t), sshtest.Start(t), sshtest.Start(t)
	text := fmt.Sprintf(`
Host a b c
  HostName 127.0.0.1
  User %s
Host a
  Port %d
  IdentityFile %s
  UserKnownHostsFile %s
Host b
  Port %d
  IdentityFile %s
  UserKnownHostsFile %s
Host c
  Port %d
  IdentityFile %s
  UserKnownHostsFile %s
  ProxyJump a,b
`, a.User, a.Port, a.Identity, a.KnownHosts, b.Port, b.Identity, b.KnownHosts, c.Port, c.Identity, c.KnownHosts)
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	conn, err := Dial(within(t, 30*time.Second), Endpoint{Host: "c", ConfigFile: config}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out, err := conn.Output(within(t, 10*time.Second), "printenv", "SSH_CONNECTION")
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), " "+strconv.Itoa(c.Port)) {
		t.Fatalf("got %q, %v", out, err)
	}
	// The way is really over the jump hosts: it ends with the first of them.
	a.Stop()
	select {
	case <-conn.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the connection outlived its jump host")
	}
	if !errors.Is(conn.Err(), ErrLost) {
		t.Errorf("got %v", conn.Err())
	}
	// A jump host's key is verified as well.
	a.Restart()
	a.Know(b.HostKey)
	var mismatch *HostKeyMismatchError
	if err := refused(t, Endpoint{Host: "c", ConfigFile: config}, Options{}); !errors.As(err, &mismatch) || mismatch.File != a.KnownHosts {
		t.Errorf("got %v", err)
	}
	a.Know(a.HostKey)
	c.Stop()
	if err := refused(t, Endpoint{Host: "c", ConfigFile: config}, Options{}); !Retryable(err) {
		t.Errorf("a refused port behind jump hosts: %v", err)
	}
}

func TestJumpForbidden(t *testing.T) {
	a, b := sshtest.Start(t, "AllowTcpForwarding no"), sshtest.Start(t)
	config := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("Host *\n User %s\n IdentityFile %s\n IdentityFile %s\n UserKnownHostsFile %s %s\nHost 127.0.0.1\n ProxyJump 127.0.0.2:%d\nHost 127.0.0.2\n HostName 127.0.0.1\n",
		a.User, a.Identity, b.Identity, a.KnownHosts, b.KnownHosts, a.Port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	err := refused(t, Endpoint{Host: "127.0.0.1", Port: b.Port, ConfigFile: config}, Options{})
	if Retryable(err) || !strings.Contains(hint.Of(err), "AllowTcpForwarding") {
		t.Errorf("got %v, cure %q", err, hint.Of(err))
	}
}

func TestDialWait(t *testing.T) {
	s := sshtest.Start(t)
	s.Stop()
	var reports atomic.Int32
	w := Wait{For: 30 * time.Second, Report: func(int, time.Duration, error) {
		if reports.Add(1) == 3 {
			s.Restart()
		}
	}}
	c, err := DialWait(t.Context(), endpoint(s), Options{}, w)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	s.Stop()

	begin := time.Now()
	_, err = DialWait(t.Context(), endpoint(s), Options{}, Wait{For: time.Second})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begin); took < 900*time.Millisecond || took > 3*time.Second {
		t.Errorf("took %v, want 1 s", took)
	}

	s.Restart()
	s.Authorize(sshtest.WriteKey(t, filepath.Join(t.TempDir(), "later"), ""))
	if _, err = DialWait(t.Context(), endpoint(s), Options{}, Wait{For: 20 * time.Second}); !errors.Is(err, ErrAuth) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a refused key was waited for: %v", err)
	}
	w = Wait{For: 30 * time.Second, RetryAuth: true, Report: func(int, time.Duration, error) {
		s.Authorize(must(ssh.ParsePrivateKey(must(os.ReadFile(s.Identity)))).PublicKey())
	}}
	if c, err = DialWait(t.Context(), endpoint(s), Options{}, w); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestDialCancelled(t *testing.T) {
	s := sshtest.Start(t)
	s.Signal(syscall.SIGSTOP, s.Family()...)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := Dial(ctx, endpoint(s), Options{})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("got %v after %v", err, time.Since(begin))
	}
}

func TestCipher(t *testing.T) {
	s := sshtest.Start(t)
	c := dial(t, s, Options{})
	got := c.client().Conn.(ssh.AlgorithmsConnMetadata).Algorithms().Write.Cipher
	if got != ssh.CipherAES128GCM {
		t.Errorf("got %s", got)
	}
}
