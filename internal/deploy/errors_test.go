package deploy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"devbox/internal/hint"
	"devbox/internal/image"
	"devbox/internal/protocol"
	"devbox/internal/remote"
)

func TestRolledBackText(t *testing.T) {
	for _, c := range []struct {
		name   string
		result protocol.Result
		want   string
	}{
		{"back to the one before, with the unit's log", protocol.Result{Outcome: protocol.RolledBack, Release: "r5", Serving: "r4",
			Failure: &protocol.Failure{Unit: "shop.service", Cause: "exited at once with status 1", Log: []string{"panic: no", "goroutine 1"}}},
			"release r5 was not kept: shop.service: exited at once with status 1\n  panic: no\n  goroutine 1\nr4 serves on"},
		{"no unit is to blame", protocol.Result{Outcome: protocol.RolledBack, Release: "r5", Serving: "r4", Failure: &protocol.Failure{Cause: "GET http://x answered 500"}},
			"release r5 was not kept: GET http://x answered 500\nr4 serves on"},
		{"the first release", protocol.Result{Outcome: protocol.Failed, Release: "r1", Failure: &protocol.Failure{Cause: "not ready within 10s"}},
			"release r1 was not kept: not ready within 10s\nnothing serves: there was no release before"},
		{"neither is well", protocol.Result{Outcome: protocol.Failed, Release: "r5", Serving: "r4", Failure: &protocol.Failure{Cause: "x"}},
			"release r5 was not kept: x\nr4 may not serve either; `devbox status` tells"},
		{"what is in place already is not well", protocol.Result{Outcome: protocol.Failed, Release: "r5", Serving: "r5", Failure: &protocol.Failure{Unit: "shop.service", Cause: "killed by SIGKILL"}},
			"release r5 is in place but not well: shop.service: killed by SIGKILL"},
		{"no failure told", protocol.Result{Outcome: protocol.RolledBack, Release: "r5", Serving: "r4"},
			"release r5 was not kept: no cause given\nr4 serves on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := (&RolledBackError{Result: c.result}).Error(); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// A connection that is lost before anything was touched leaves nothing unknown.
func TestLostBeforeItBegan(t *testing.T) {
	o := &Offer{Cycle: &Cycle{}}
	_, err := o.begun(fmt.Errorf("ship: %w", ErrLost))
	if !errors.As(err, new(*NotBegunError)) || o.Cycle.Outcome != NotBegun || !strings.Contains(hint.Of(err), "nothing that runs was touched") {
		t.Errorf("%v, hint %q, %+v", err, hint.Of(err), o.Cycle)
	}
	if _, err = o.begun(&HostError{Text: "no"}); errors.As(err, new(*NotBegunError)) {
		t.Errorf("an answer is taken for a lost connection: %v", err)
	}
}

func TestProblemsNameTheirCure(t *testing.T) {
	p := Problems{
		{Path: "usr/bin/shop", Text: "is not executable", Cure: "chmod +x it"},
		{Text: "no unit"},
	}
	want := "the image has 2 problem(s):\n  usr/bin/shop: is not executable; chmod +x it\n  no unit"
	if got := p.Error(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestOutcomeOfAFailedCycle(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		host string // the outcome that the host gave
		want string
	}{
		{"build", fmt.Errorf("x: %w", &BuildError{Command: "make", Err: errors.New("exit status 2")}), "", BuildFailed},
		{"image", Problems{image.Problem{Text: "no unit"}}, "", BadImage},
		{"rolled back", &RolledBackError{Result: protocol.Result{Outcome: protocol.RolledBack}}, protocol.RolledBack, protocol.RolledBack},
		{"failed on the host", &RolledBackError{Result: protocol.Result{Outcome: protocol.Failed}}, protocol.Failed, protocol.Failed},
		{"session lost", fmt.Errorf("ship: %w", ErrLost), "", HostLost},
		{"connection lost", fmt.Errorf("ship: %w", remote.ErrLost), "", HostLost},
		{"refused", hint.Wrap(&HostError{Text: "no space left on device"}, "delete something"), "", protocol.Failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			cycle := Cycle{Outcome: c.host}
			cycle.fail(c.err)
			if cycle.Outcome != c.want || cycle.Error != c.err.Error() || cycle.Hint != hint.Of(c.err) {
				t.Errorf("got %+v, want outcome %s", cycle, c.want)
			}
		})
	}
}
