package forward

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"devbox/internal/hint"
	"devbox/internal/remote/sshtest"
)

func TestPortInUse(t *testing.T) {
	s := sshtest.Start(t)
	spec := newSpec(t, s, echo(t, "one"), echo(t, "two"))
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", spec.Ports[1].Client))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tryStart(t, spec)
	var inUse *PortInUseError
	if !errors.As(err, &inUse) {
		t.Fatalf("got %v", err)
	}
	want := PortInUseError{Port: spec.Ports[1].Client, Process: fmt.Sprintf("forward.test (pid %d)", os.Getpid())}
	if *inUse != want || !strings.Contains(hint.Of(err), "machine.ports") {
		t.Errorf("got %+v, cure %q; want %+v", *inUse, hint.Of(err), want)
	}
	if status, err := Running(spec.Dir); err != nil || status.Pid != 0 {
		t.Errorf("something runs all the same: %+v, %v", status, err)
	}
	if _, err := talk(spec.Ports[0].Client, "hi"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the other port: %v", err)
	}

	// One that runs goes on as it is when it cannot be replaced.
	narrow := spec
	narrow.Ports = spec.Ports[:1]
	before := start(t, narrow)
	if _, err := tryStart(t, spec); !errors.As(err, &inUse) {
		t.Fatalf("got %v", err)
	}
	if after, err := Running(spec.Dir); err != nil || after.Pid != before.Pid {
		t.Errorf("it was %+v and is %+v, %v", before, after, err)
	}
	wantTalk(t, spec.Ports[0].Client, "one")

	ln.Close()
	start(t, spec)
	wantTalk(t, spec.Ports[1].Client, "two")
	// Its own ports are in nobody's way, another machine's are.
	if err := CanListen(t.Context(), spec.Dir, spec.Ports); err != nil {
		t.Error(err)
	}
	if err := CanListen(t.Context(), t.TempDir(), spec.Ports); !errors.As(err, &inUse) {
		t.Errorf("another machine: %v", err)
	}
}
