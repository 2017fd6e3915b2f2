package deploy

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"devbox/internal/config"
	"devbox/internal/forward"
	"devbox/internal/hint"
	"devbox/internal/remote/sshtest"
	"devbox/internal/ui"
	"devbox/internal/vm"
)

// deaf is a machine that runs and that no one reaches until it is started again.
type deaf struct {
	vm.Machine // what is not below is not to be called
	server     *sshtest.Server
	port       int
	started    int
}

func (d *deaf) Endpoint(context.Context) (vm.Endpoint, error) {
	return vm.Endpoint{Host: "127.0.0.1", Port: d.port, User: d.server.User, IdentityFile: d.server.Identity, KnownHostsFile: d.server.KnownHosts}, nil
}

func (d *deaf) Start(context.Context, vm.Progress) error {
	d.started++
	d.port = d.server.Port
	return nil
}

func TestAMachineThatDoesNotAnswerIsStartedOnceMore(t *testing.T) {
	server := sshtest.Start(t)
	p := &Project{Paths: Paths{Home: t.TempDir()}}
	for _, c := range []struct {
		name    string
		port    int
		started int
	}{
		{"it answers", server.Port, 0},
		{"its network is gone", sshtest.FreePort(t), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &deaf{server: server, port: c.port}
			var said bytes.Buffer
			conn, e, err := p.logIn(context.Background(), ui.New(&said, &said, ui.Options{}), m)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if m.started != c.started || e.Port != server.Port {
				t.Errorf("started %d times, port %d", m.started, e.Port)
			}
			if strings.Contains(said.String(), "get an answer from the machine") != (c.started > 0) {
				t.Errorf("said %q", &said)
			}
		})
	}
}

func TestAPortInUseIsFoundBeforeAMachineIsMade(t *testing.T) {
	p, m := twin(t, t.TempDir()), &shelf{state: vm.Missing}
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	p.Config.Machine.Ports = []config.Port{{Client: port, Guest: 80}}
	u := ui.New(&bytes.Buffer{}, &bytes.Buffer{}, ui.Options{})
	err = p.start(t.Context(), u, m, "")
	var used *forward.PortInUseError
	if !errors.As(err, &used) || used.Port != port || !strings.Contains(hint.Of(err), "machine.ports") || len(m.did) > 0 {
		t.Fatalf("error %v, cure %q, did %q", err, hint.Of(err), m.did)
	}
	taken.Close()
	if err := p.start(t.Context(), u, m, ""); err != nil || len(m.did) != 2 {
		t.Errorf("once it is free: %v, did %q", err, m.did)
	}
}
