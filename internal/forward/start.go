package forward

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"devbox/internal/hint"
)

const (
	startTimeout = 20 * time.Second
	stopTimeout  = 5 * time.Second
	maxLog       = 1 << 20 // bytes; a longer log starts afresh with the next process
)

// reply is the one line that the new process says on its stdout.
type reply struct {
	Listening bool            `json:"listening,omitempty"`
	InUse     *PortInUseError `json:"in_use,omitempty"`
	Error     string          `json:"error,omitempty"`
	Cure      string          `json:"cure,omitempty"`
}

// Start sees to it that a process forwards as spec says, and returns when its
// ports are open. One that runs with the same spec is left alone, one with
// another is replaced. The process is exe with args, which must call [Child].
// A port that is taken is a [*PortInUseError].
func Start(ctx context.Context, spec Spec, exe string, args ...string) (Status, error) {
	if err := spec.validate(); err != nil {
		return Status{}, err
	}
	digest, err := spec.digest()
	if err != nil {
		return Status{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	release, err := exclude(ctx, spec.startFile())
	if err != nil {
		return Status{}, fmt.Errorf("forward ports: %w", err)
	}
	defer release()
	status, err := Running(spec.Dir)
	if err == nil && status.Pid != 0 && status.Spec == digest {
		return status, nil
	}
	// Before the one that works is ended for one that could not take its place.
	if err := spec.canListen(ctx, status.Ports); err != nil {
		return Status{}, fmt.Errorf("forward ports: %w", err)
	}
	if err := end(ctx, spec.lockFile()); err != nil {
		return Status{}, err
	}
	if len(spec.Ports) == 0 {
		return Status{}, nil
	}
	if err := spawn(ctx, spec, exe, args); err != nil {
		return Status{}, fmt.Errorf("forward ports: %w", err)
	}
	return Running(spec.Dir)
}

// CanListen says whether [Start] can open the ports for dir: a port that is
// taken, other than by dir's own process, is a [*PortInUseError].
func CanListen(ctx context.Context, dir string, ports []Port) error {
	status, err := Running(dir)
	if err != nil {
		return err
	}
	if err := (Spec{Ports: ports}).canListen(ctx, status.Ports); err != nil {
		return fmt.Errorf("forward ports: %w", err)
	}
	return nil
}

// canListen opens and closes the ports of s, except those that are open for it
// already.
func (s Spec) canListen(ctx context.Context, open []Port) error {
	for _, p := range s.Ports {
		if slices.ContainsFunc(open, func(o Port) bool { return o.Client == p.Client }) {
			continue
		}
		ln, err := listen(ctx, p.Client)
		if err != nil {
			return err
		}
		ln.Close()
	}
	return nil
}

func spawn(ctx context.Context, spec Spec, exe string, args []string) error {
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	log, err := openLog(spec.LogFile())
	if err != nil {
		return err
	}
	defer log.Close()
	said, say, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	cmd := exec.Command(exe, args...)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), say, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	say.Close()
	if err != nil {
		return err
	}
	// Reaped whenever it ends, should this process live longer.
	go func() { _ = cmd.Wait() }()

	stop := context.AfterFunc(ctx, func() { said.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(said, 64<<10)).ReadBytes('\n')
	var r reply
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	switch {
	case ctx.Err() != nil:
		_ = cmd.Process.Kill() // It may have ended by itself.
		return fmt.Errorf("wait for %s to open its ports: %w", exe, context.Cause(ctx))
	case err != nil:
		_ = cmd.Process.Kill()
		return hint.Errorf("read "+spec.LogFile(), "%s ended before its ports were open%s", exe, lastLine(spec.LogFile()))
	case r.Listening:
		return nil
	case r.InUse != nil:
		return hint.Wrap(r.InUse, r.InUse.cure())
	case r.Cure != "":
		return hint.Wrap(errors.New(r.Error), r.Cure)
	}
	return errors.New(r.Error)
}

func openLog(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// lastLine is what a process that died had to say.
func lastLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return ": " + last
	}
	return ""
}

// Stop ends the forwarding process of dir, if there is one.
func Stop(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	spec := Spec{Dir: dir}
	release, err := exclude(ctx, spec.startFile())
	if err != nil {
		return fmt.Errorf("stop the port forwarding: %w", err)
	}
	defer release()
	return end(ctx, spec.lockFile())
}

// end ends the holder of the lock: asked first, then forced.
func end(ctx context.Context, lock string) error {
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		gone, err := signalHolder(lock, sig)
		if err != nil {
			return fmt.Errorf("stop the port forwarding: %w", err)
		}
		for deadline := time.Now().Add(stopTimeout); !gone && time.Now().Before(deadline); {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("stop the port forwarding: %w", context.Cause(ctx))
			}
			pid, err := holder(lock)
			if err != nil {
				return err
			}
			gone = pid == 0
		}
		if gone {
			return nil
		}
	}
	pid, _ := holder(lock)
	return fmt.Errorf("stop the port forwarding: process %d does not end", pid)
}

// signalHolder signals whoever holds the lock. The process is taken hold of
// first and the lock looked at again then: where the system has handles of
// processes (Linux), no stranger can have come into its number.
func signalHolder(lock string, sig os.Signal) (gone bool, err error) {
	pid, err := holder(lock)
	if err != nil || pid == 0 {
		return true, err
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return false, err
	}
	defer func() { _ = process.Release() }()
	again, err := holder(lock)
	if err != nil || again == 0 {
		return true, err
	}
	if again != pid {
		return false, fmt.Errorf("process %d took the place of %d meanwhile", again, pid)
	}
	if err := process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return false, fmt.Errorf("signal process %d: %w", pid, err)
	}
	return false, nil
}
