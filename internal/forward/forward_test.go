package forward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"devbox/internal/remote"
	"devbox/internal/remote/sshtest"
)

// TestMain lets the test binary be the forwarding process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "forward-child" {
		if err := Child(context.Background(), os.Stdin, os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// echo listens like a service in the machine: it answers each line with its
// name and the line, and says bye when the client has no more to say.
func echo(t *testing.T, name string) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				lines := bufio.NewScanner(conn)
				for lines.Scan() {
					fmt.Fprintf(conn, "%s %s\n", name, lines.Text())
				}
				fmt.Fprint(conn, "bye\n")
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

func newSpec(t *testing.T, s *sshtest.Server, guests ...int) Spec {
	t.Helper()
	spec := Spec{
		Dir: filepath.Join(t.TempDir(), "machine"),
		Endpoint: remote.Endpoint{Host: "127.0.0.1", Port: s.Port, User: s.User,
			IdentityFiles: []string{s.Identity}, KnownHosts: []string{s.KnownHosts}},
	}
	for _, guest := range guests {
		spec.Ports = append(spec.Ports, Port{Client: sshtest.FreePort(t), Guest: guest})
	}
	t.Cleanup(func() {
		if err := Stop(context.Background(), spec.Dir); err != nil {
			t.Error(err)
		}
	})
	return spec
}

func start(t *testing.T, spec Spec) Status {
	t.Helper()
	status, err := tryStart(t, spec)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func tryStart(t *testing.T, spec Spec) (Status, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Start(t.Context(), spec, exe, "forward-child")
}

// talk sends a line to a client port and returns all that comes back.
func talk(port int, line string) (string, error) {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	fmt.Fprintln(conn, line)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	text, err := io.ReadAll(conn)
	return string(text), err
}

func wantTalk(t *testing.T, port int, name string) {
	t.Helper()
	if got, err := talk(port, "hi"); err != nil || got != name+" hi\nbye\n" {
		t.Errorf("port %d: got %q, %v", port, got, err)
	}
}

func TestForward(t *testing.T) {
	s := sshtest.Start(t)
	spec := newSpec(t, s, echo(t, "one"), echo(t, "two"))
	status := start(t, spec)
	if status.Pid == 0 || status.Pid == os.Getpid() || status.State != Idle || !reflect.DeepEqual(status.Ports, spec.Ports) {
		t.Errorf("status is %+v", status)
	}
	if sid := must(readSession(status.Pid)); sid != status.Pid {
		t.Errorf("the process is in session %d, not one of its own", sid)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			wantTalk(t, spec.Ports[0].Client, "one")
			wantTalk(t, spec.Ports[1].Client, "two")
		})
	}
	all.Wait()
	if status, err := Running(spec.Dir); err != nil || status.State != Connected {
		t.Errorf("status is %+v, %v", status, err)
	}

	// The same spec leaves the process alone, another replaces it.
	if again := start(t, spec); again.Pid != status.Pid {
		t.Errorf("the same spec made a new process: %d, was %d", again.Pid, status.Pid)
	}
	old := spec.Ports[1].Client
	spec.Ports[1].Client = sshtest.FreePort(t)
	if again := start(t, spec); again.Pid == status.Pid {
		t.Error("another spec left the old process")
	}
	wantTalk(t, spec.Ports[0].Client, "one")
	wantTalk(t, spec.Ports[1].Client, "two")
	if _, err := talk(old, "hi"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the port of before: %v", err)
	}

	if err := Stop(t.Context(), spec.Dir); err != nil {
		t.Fatal(err)
	}
	if status, err := Running(spec.Dir); err != nil || status.Pid != 0 {
		t.Errorf("after Stop: %+v, %v", status, err)
	}
	if _, err := talk(spec.Ports[0].Client, "hi"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Stop: %v", err)
	}
	if err := Stop(t.Context(), spec.Dir); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// stat reads fields of /proc/PID/stat, counted from the one after the name.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])), nil
}

func readSession(pid int) (int, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(f[3])
}

func TestGuestRestart(t *testing.T) {
	s := sshtest.Start(t)
	spec := newSpec(t, s, echo(t, "one"))
	start(t, spec)
	port := spec.Ports[0].Client
	wantTalk(t, port, "one")

	held, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	fmt.Fprintln(held, "x")
	if _, err := bufio.NewReader(held).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if err := held.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := held.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a connection to a machine that died: %v, want its end", err)
	}

	// One made while the machine is away is answered when it is back.
	result := make(chan error, 1)
	go func() {
		got, err := talk(port, "hi")
		if err == nil && got != "one hi\nbye\n" {
			err = fmt.Errorf("got %q", got)
		}
		result <- err
	}()
	time.Sleep(1500 * time.Millisecond)
	if status, err := Running(spec.Dir); err != nil || status.State != Waiting || status.Error == "" {
		t.Errorf("status is %+v, %v", status, err)
	}
	s.Restart()
	if err := <-result; err != nil {
		t.Error(err)
	}

	// A machine that went away without a word, and came back, as after a reset.
	s.Signal(syscall.SIGSTOP, s.Family()...)
	go func() {
		got, err := talk(port, "hi")
		if err == nil && got != "one hi\nbye\n" {
			err = fmt.Errorf("got %q", got)
		}
		result <- err
	}()
	time.Sleep(500 * time.Millisecond)
	s.Stop()
	s.Restart()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestMachineStaysAway(t *testing.T) {
	s := sshtest.Start(t)
	spec := newSpec(t, s, echo(t, "one"), sshtest.FreePort(t))
	spec.Patience = 700 * time.Millisecond
	start(t, spec)

	// A port that nothing listens on in the machine: closed at once.
	if got, _ := talk(spec.Ports[1].Client, "hi"); got != "" {
		t.Errorf("got %q", got)
	}
	s.Stop()
	begin := time.Now()
	if got, _ := talk(spec.Ports[0].Client, "hi"); got != "" {
		t.Errorf("got %q", got)
	}
	if took := time.Since(begin); took < 600*time.Millisecond || took > 3*time.Second {
		t.Errorf("closed after %v, want 0.7 s", took)
	}
	// A changed host key is told, and recovered from without a hand.
	s.Know(sshtest.WriteKey(t, filepath.Join(t.TempDir(), "k"), ""))
	s.Restart()
	for deadline := time.Now().Add(15 * time.Second); ; {
		if got, _ := talk(spec.Ports[0].Client, "hi"); got != "" {
			t.Fatalf("a machine with a changed host key answered %q", got)
		}
		status, err := Running(spec.Dir)
		if err == nil && strings.Contains(status.Error, "host key") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("status is %+v, %v", status, err)
		}
	}
	s.Know(s.HostKey)
	for deadline := time.Now().Add(15 * time.Second); ; {
		if got, err := talk(spec.Ports[0].Client, "hi"); err == nil && got == "one hi\nbye\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no answer with the right key")
		}
	}
}

// TestStaleLock leaves the files of a killed process with the number of a
// stranger in them.
func TestStaleLock(t *testing.T) {
	s := sshtest.Start(t)
	spec := newSpec(t, s, echo(t, "one"))
	status := start(t, spec)
	if err := syscall.Kill(status.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone := func() bool {
		now, err := Running(spec.Dir)
		return err == nil && now.Pid == 0
	}
	for deadline := time.Now().Add(10 * time.Second); !gone(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a killed process counts as running")
		}
	}
	stranger := exec.Command("sleep", "100")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stranger.Process.Kill()
		_ = stranger.Wait()
	}()
	text := fmt.Sprintf(`{"pid":%d,"state":"connected"}`, stranger.Process.Pid)
	if err := os.WriteFile(spec.statusFile(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Stop(t.Context(), spec.Dir); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
		t.Fatalf("the stranger: %v", err)
	}
	if f, err := stat(stranger.Process.Pid); err != nil || f[0] == "Z" {
		t.Fatal("Stop killed a stranger")
	}
	start(t, spec)
	wantTalk(t, spec.Ports[0].Client, "one")
}

func TestTwoStarts(t *testing.T) {
	s := sshtest.Start(t)
	spec := newSpec(t, s, echo(t, "one"))
	exe := must(os.Executable())
	pids := make(chan int, 5)
	for range cap(pids) {
		go func() {
			status, err := Start(t.Context(), spec, exe, "forward-child")
			if err != nil {
				t.Error(err)
			}
			pids <- status.Pid
		}()
	}
	first := <-pids
	for range cap(pids) - 1 {
		if pid := <-pids; pid != first {
			t.Errorf("processes %d and %d", first, pid)
		}
	}
	wantTalk(t, spec.Ports[0].Client, "one")
}

// TestSecondServe runs the body twice, past Start's own exclusion.
func TestSecondServe(t *testing.T) {
	s := sshtest.Start(t)
	spec := newSpec(t, s, echo(t, "one"))
	status := start(t, spec)
	spec.Ports[0].Client = sshtest.FreePort(t)
	err := spawn(t.Context(), spec, must(os.Executable()), []string{"forward-child"})
	if err == nil || !strings.Contains(err.Error(), strconv.Itoa(status.Pid)) {
		t.Errorf("got %v", err)
	}
}

func TestHungProcessIsReplaced(t *testing.T) {
	s := sshtest.Start(t)
	spec := newSpec(t, s, echo(t, "one"))
	status := start(t, spec)
	if err := syscall.Kill(status.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := Stop(t.Context(), spec.Dir); err != nil {
		t.Fatal(err)
	}
	if now, err := Running(spec.Dir); err != nil || now.Pid != 0 {
		t.Errorf("got %+v, %v", now, err)
	}
}

func TestFolderRemoved(t *testing.T) {
	s := sshtest.Start(t)
	spec := newSpec(t, s, echo(t, "one"))
	start(t, spec)
	if err := os.RemoveAll(spec.Dir); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(3 * lookEvery); ; time.Sleep(50 * time.Millisecond) {
		if _, err := talk(spec.Ports[0].Client, "hi"); errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the process outlives its folder")
		}
	}
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, spec := range map[string]Spec{
		"relative folder": {Dir: "x", Ports: []Port{{8080, 80}}},
		"port 0":          {Dir: dir, Ports: []Port{{0, 80}}},
		"port 70000":      {Dir: dir, Ports: []Port{{8080, 70000}}},
		"port twice":      {Dir: dir, Ports: []Port{{8080, 80}, {8080, 81}}},
	} {
		if _, err := tryStart(t, spec); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	status, err := tryStart(t, Spec{Dir: dir})
	if err != nil || status.Pid != 0 {
		t.Errorf("no ports: %+v, %v", status, err)
	}
	good := Spec{Dir: dir, Ports: []Port{{sshtest.FreePort(t), 80}}}
	_, err = Start(t.Context(), good, "/bin/sh", "-c", "echo it broke >&2; exit 1")
	if err == nil || !strings.Contains(err.Error(), "it broke") {
		t.Errorf("a program that ends at once: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err = Start(ctx, good, "/bin/sh", "-c", "exec sleep 100"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a program that says nothing: %v", err)
	}
}

// TestIdle counts the processor time of a connected process that has nothing
// to do.
func TestIdle(t *testing.T) {
	s := sshtest.Start(t)
	spec := newSpec(t, s, echo(t, "one"))
	status := start(t, spec)
	wantTalk(t, spec.Ports[0].Client, "one")
	ticks := func() int {
		f := must(stat(status.Pid))
		return must(strconv.Atoi(f[11])) + must(strconv.Atoi(f[12]))
	}
	before := ticks()
	time.Sleep(5 * time.Second)
	// A tick is 10 ms; keepalives happen meanwhile.
	if used := ticks() - before; used > 1 {
		t.Errorf("used %d ticks in 5 s", used)
	}
}
