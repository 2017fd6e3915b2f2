package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxStderr bounds what an ExitError keeps, in bytes.
const maxStderr = 64 << 10

// Command is what to run: Args, or Script by sh. Nil streams are empty, or
// thrown away; what a command says on stderr is in its ExitError all the same.
type Command struct {
	Args   []string
	Script string // for sh -c; Args are then its $1 and on
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// line is what the login shell on the host reads.
func (c Command) line() (string, error) {
	args := c.Args
	if c.Script != "" {
		args = append([]string{"sh", "-c", c.Script, "sh"}, args...)
	}
	if len(args) == 0 {
		return "", errors.New("run on a host: the command is empty")
	}
	line := Quote(args...)
	if strings.ContainsRune(line, 0) {
		return "", fmt.Errorf("run %s: an argument holds a NUL byte", shorten(line))
	}
	if c.Script != "" {
		line = "exec " + line
	}
	return line, nil
}

// name is what errors call the command.
func (c Command) name() string {
	if c.Script != "" {
		return c.Script
	}
	return Quote(c.Args...)
}

// Run runs a command to its end. It returns [*ExitError] if the command did
// not exit with 0, [ErrLost] if the connection ended first. When ctx ends, the
// command gets SIGTERM and its streams are closed, and Run returns at once.
func (c *Conn) Run(ctx context.Context, cmd Command) error {
	line, err := cmd.line()
	if err != nil {
		return err
	}
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	// Nothing is written to the caller's streams after Run has returned.
	out, errs := &gate{w: cmd.Stdout}, &gate{w: cmd.Stderr}
	defer out.shut()
	defer errs.shut()
	said := &tail{}
	s.Stdin, s.Stdout, s.Stderr = cmd.Stdin, out, io.MultiWriter(said, errs)
	return c.await(ctx, s, line, cmd.name(), said, s.Wait)
}

// Output runs a command and returns what it writes to stdout.
func (c *Conn) Output(ctx context.Context, args ...string) ([]byte, error) {
	var out bytes.Buffer
	err := c.Run(ctx, Command{Args: args, Stdout: &out})
	return out.Bytes(), err
}

// await starts line on s and waits for its end, for ctx or for the connection.
func (c *Conn) await(ctx context.Context, s *ssh.Session, line, name string, said *tail, wait func() error) error {
	ended := make(chan error, 1)
	go func() {
		err := s.Start(line)
		if err == nil {
			err = wait()
		}
		s.Close()
		c.release()
		ended <- err
	}()
	select {
	case err := <-ended:
		return c.exitError(err, name, said)
	case <-ctx.Done():
		go kill(s)
		return fmt.Errorf("run %s on %s: %w", shorten(name), c.hop.Alias, context.Cause(ctx))
	case <-c.done:
		// What came before the end still counts; a caller's writer may block.
		select {
		case err := <-ended:
			return c.exitError(err, name, said)
		case <-time.After(200 * time.Millisecond):
			return fmt.Errorf("run %s on %s: %w", shorten(name), c.hop.Alias, c.Err())
		}
	}
}

// kill ends a command as far as SSH can: a signal, which sshd delivers except
// in a login as root, and the end of its streams.
func kill(s *ssh.Session) {
	// Errors mean that it has ended, which is what is wanted.
	_ = s.Signal(ssh.SIGTERM)
	_ = s.Close()
}

func (c *Conn) exitError(err error, name string, said *tail) error {
	if err == nil {
		return nil
	}
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return &ExitError{Command: name, Host: c.hop.Alias, Code: exit.ExitStatus(), Signal: exit.Signal(), Stderr: said.String()}
	}
	var missing *ssh.ExitMissingError
	if err = c.lost(err); errors.As(err, &missing) {
		err = fmt.Errorf("%w: the session ended without an exit status", ErrLost)
	}
	return fmt.Errorf("run %s on %s: %w", shorten(name), c.hop.Alias, err)
}

// Process is a running command whose streams the caller holds.
type Process struct {
	Stdin  io.WriteCloser
	Stdout io.Reader // must be read, or the command waits
	Stderr io.Reader // may be left unread: the last 64 KiB are kept

	conn  *Conn
	name  string
	said  *tail
	errs  *mailbox
	ended chan struct{}
	err   error // set before ended is closed
	stop  context.CancelFunc
}

// Start runs a command and gives its streams. When ctx ends the command is
// ended as by Close.
func (c *Conn) Start(ctx context.Context, args ...string) (*Process, error) {
	return c.StartCommand(ctx, Command{Args: args})
}

// StartCommand is Start for a script; the command's streams are not used.
func (c *Conn) StartCommand(ctx context.Context, cmd Command) (*Process, error) {
	line, err := cmd.line()
	if err != nil {
		return nil, err
	}
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	p := &Process{conn: c, name: cmd.name(), said: &tail{}, errs: newMailbox(), ended: make(chan struct{})}
	// Neither fails on a session that has not started.
	p.Stdin, _ = s.StdinPipe()
	p.Stdout, _ = s.StdoutPipe()
	p.Stderr = p.errs
	s.Stderr = io.MultiWriter(p.said, p.errs)
	ctx, p.stop = context.WithCancel(ctx)
	started := make(chan struct{})
	wait := func() error {
		close(started)
		return s.Wait()
	}
	go func() {
		p.err = c.await(ctx, s, line, p.name, p.said, wait)
		p.errs.close()
		close(p.ended)
	}()
	select {
	case <-started:
		return p, nil
	case <-p.ended:
		p.stop()
		select {
		case <-started: // A short command.
			return p, nil
		default:
			return nil, p.err
		}
	}
}

// Wait waits for the end of the command and returns what Run would.
func (p *Process) Wait() error {
	<-p.ended
	p.stop()
	return p.err
}

// Close ends the command if it still runs, and waits for it.
func (p *Process) Close() error {
	p.stop()
	<-p.ended
	return nil
}

// Done is closed when the command has ended.
func (p *Process) Done() <-chan struct{} { return p.ended }

// gate passes writes on until it is shut.
type gate struct {
	mu   sync.Mutex
	w    io.Writer
	done bool
}

func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done || g.w == nil {
		return len(b), nil
	}
	return g.w.Write(b)
}

func (g *gate) shut() {
	g.mu.Lock()
	g.done = true
	g.mu.Unlock()
}

// tail keeps the last maxStderr bytes.
type tail struct {
	mu  sync.Mutex
	buf []byte
	cut bool
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - maxStderr; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
		t.cut = true
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut {
		return "…" + string(t.buf)
	}
	return string(t.buf)
}

// mailbox is a pipe that never blocks its writer: it drops the oldest bytes.
type mailbox struct {
	mu   sync.Mutex
	more *sync.Cond
	buf  []byte
	shut bool
}

func newMailbox() *mailbox {
	m := &mailbox{}
	m.more = sync.NewCond(&m.mu)
	return m
}

func (m *mailbox) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.buf = append(m.buf, b...)
	if over := len(m.buf) - maxStderr; over > 0 {
		m.buf = append(m.buf[:0], m.buf[over:]...)
	}
	m.more.Broadcast()
	return len(b), nil
}

func (m *mailbox) Read(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.buf) == 0 && !m.shut {
		m.more.Wait()
	}
	if len(m.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(b, m.buf)
	m.buf = m.buf[n:]
	return n, nil
}

func (m *mailbox) close() {
	m.mu.Lock()
	m.shut = true
	m.mu.Unlock()
	m.more.Broadcast()
}
