package deploy

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"devbox/internal/config"
	"devbox/internal/remote"
	"devbox/internal/remote/sshtest"
	"devbox/internal/ui"
)

// Whoever gives up waiting for the timer is told why there is something to wait
// for, and what becomes of it.
func TestLockedOutAndInterrupted(t *testing.T) {
	m := &deaf{server: sshtest.Start(t)}
	m.port = m.server.Port
	p := &Project{Paths: Paths{Home: t.TempDir()}, Config: &config.Config{CloudInit: "server.yaml"}, SSH: remote.Options{Home: t.TempDir()}}
	conn, _, err := p.logIn(t.Context(), ui.New(&bytes.Buffer{}, &bytes.Buffer{}, ui.Options{}), m)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	var said bytes.Buffer
	u := ui.New(&bytes.Buffer{}, &said, ui.Options{})
	g := &Provisioning{
		target: &Target{Target: config.Target{Host: "127.0.0.1", Port: sshtest.FreePort(t), User: "root"}, Name: "prod", project: p},
		ask:    remember(p.SSH), trial: trialTime, root: asAdmin{conn: conn}, conn: conn,
	}
	interrupted, why := errors.New("interrupted"), errors.New("nobody gets in")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(300*time.Millisecond, func() { cancel(interrupted) })
	if err := g.lockedOut(ctx, u, why); !errors.Is(err, interrupted) || !errors.Is(err, why) {
		t.Errorf("it ends with %v", err)
	}
	for _, want := range []string{"nobody gets in\n", "undone there by itself: in 3m0s"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is not said:\n%s", want, said.String())
		}
	}
}
