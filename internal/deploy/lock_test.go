package deploy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Nobody waits without knowing for what.
func TestAMachineThatAnotherDevboxHolds(t *testing.T) {
	p := &Project{Paths: Paths{State: t.TempDir()}}
	p.Config = NoProject(p.Paths).Config
	var said []string
	say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	unlock, err := p.lockMachine(t.Context(), say)
	if err != nil || len(said) > 0 {
		t.Fatalf("%v, said %q", err, said)
	}
	ctx, cancel := context.WithTimeout(t.Context(), tellAfter+500*time.Millisecond)
	defer cancel()
	if _, err := p.lockMachine(ctx, say); err == nil || !strings.Contains(err.Error(), "sets up or ends this machine") {
		t.Errorf("got %v", err)
	}
	if len(said) != 1 || said[0] != "waiting for another devbox that sets up or ends this machine" {
		t.Errorf("said %q", said)
	}
	unlock()
	unlock, err = p.lockMachine(t.Context(), say)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
