// Package sshtest runs a real sshd for tests, as the current user, on a port
// of 127.0.0.1, with keys of its own. Only tests import it.
package sshtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Server is one sshd.
type Server struct {
	Port       int
	User       string
	Dir        string // everything of it is in here
	HostKey    ssh.PublicKey
	KnownHosts string // file that knows its key
	Identity   string // private key file that it lets in

	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
}

// Start makes an sshd and waits until it listens; it ends with the test. The
// lines are added to its sshd_config. Without sshd the test is skipped.
func Start(t testing.TB, lines ...string) *Server {
	t.Helper()
	if _, err := sshd(); err != nil {
		t.Skip("needs sshd (Debian: apt-get install openssh-server)")
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		// sshd refuses to start as root without its empty folder.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := &Server{t: t, User: me.Username, Dir: t.TempDir(), Port: FreePort(t)}
	s.HostKey = WriteKey(t, s.path("host"), "")
	s.Identity = s.path("id")
	s.Authorize(WriteKey(t, s.Identity, ""))
	s.KnownHosts = s.path("known_hosts")
	s.Know(s.HostKey)
	config := []string{
		"ListenAddress 127.0.0.1", "Port " + strconv.Itoa(s.Port), "HostKey " + s.path("host"),
		"AuthorizedKeysFile " + s.path("authorized_keys"), "PidFile none", "StrictModes no", "UsePAM no",
		"PermitRootLogin yes", "PasswordAuthentication no", "KbdInteractiveAuthentication no",
		"AllowStreamLocalForwarding yes",
		// No start-up file of this user's shell: it may be slow, and Stop would
		// kill what it runs.
		"SetEnv HOME=" + s.Dir,
	}
	s.write("sshd_config", strings.Join(append(lines, config...), "\n")+"\n")
	t.Cleanup(s.Stop)
	s.Restart()
	return s
}

func sshd() (string, error) {
	if path, err := exec.LookPath("sshd"); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/sshd")
}

// FreePort finds a port of 127.0.0.1 that nothing listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// WriteKey makes a key pair at path and path.pub.
func WriteKey(t testing.TB, path, passphrase string) ssh.PublicKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "test")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	public := signer.PublicKey()
	if err := errors.Join(
		os.WriteFile(path, pem.EncodeToMemory(block), 0o600),
		os.WriteFile(path+".pub", ssh.MarshalAuthorizedKey(public), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return public
}

func (s *Server) path(name string) string { return filepath.Join(s.Dir, name) }

func (s *Server) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Addr is host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// Authorize makes key the only one that gets in.
func (s *Server) Authorize(key ssh.PublicKey) {
	s.t.Helper()
	s.write("authorized_keys", string(ssh.MarshalAuthorizedKey(key)))
}

// Know makes key the host's key in KnownHosts, on its second line.
func (s *Server) Know(key ssh.PublicKey) {
	s.t.Helper()
	s.write("known_hosts", fmt.Sprintf("# of a test\n[127.0.0.1]:%d %s", s.Port, ssh.MarshalAuthorizedKey(key)))
}

// Log is what sshd has said.
func (s *Server) Log() string {
	text, _ := os.ReadFile(s.path("log"))
	return string(text)
}

// Restart starts sshd, after a Stop, on the same port.
func (s *Server) Restart() {
	s.t.Helper()
	bin, err := sshd()
	if err != nil {
		s.t.Fatal(err)
	}
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(bin, "-D", "-e", "-f", s.path("sshd_config"))
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // Its end is asked for, or shows in the log below.
		close(done)
	}(s.cmd, s.done)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if s.listens() {
			return
		}
		select {
		case <-s.done:
			s.t.Fatalf("sshd ended: %s", s.Log())
		default:
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("sshd does not listen after 20 s: %s", s.Log())
		}
	}
}

// listens looks without connecting: a connection would count as a failed one.
func (s *Server) listens() bool {
	table, err := os.ReadFile("/proc/net/tcp")
	return err == nil && strings.Contains(string(table), fmt.Sprintf("0100007F:%04X 00000000:0000 0A", s.Port))
}

// Stop kills sshd and all its connections, like a machine that loses power.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	family := s.Family()
	s.Signal(syscall.SIGKILL, family...)
	<-s.done
	s.cmd = nil
}

// Family is sshd's process and all below it, sshd first.
func (s *Server) Family() []int {
	parents := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue
		}
		// The name, in brackets, may hold anything (proc_pid_stat(5)).
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		parent, _ := strconv.Atoi(fields[1])
		parents[parent] = append(parents[parent], pid)
	}
	family := []int{s.cmd.Process.Pid}
	for i := 0; i < len(family); i++ {
		family = append(family, parents[family[i]]...)
	}
	return family
}

// Signal sends sig to processes of the family.
func (s *Server) Signal(sig syscall.Signal, pids ...int) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, sig) // One that is gone is fine.
	}
}
