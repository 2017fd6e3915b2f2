package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"devbox/internal/config"
	"devbox/internal/deploy"
	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/provision"
	"devbox/internal/remote"
	"devbox/internal/ui"
	"devbox/internal/vm"
)

func TestCycleLine(t *testing.T) {
	at := time.Date(2026, 11, 22, 15, 4, 5, 0, time.UTC)
	app := protocol.UnitWhy{Unit: "shop.service", Why: "usr/bin/shop changed"}
	socket := protocol.UnitWhy{Unit: "shop.socket", Why: "its unit file is the same"}
	gone := protocol.UnitWhy{Unit: "shop-old.service", Why: "the image has it no more"}
	phases := []protocol.Phase{{Name: "build", Took: 300 * time.Millisecond}, {Name: "restart", Took: 100 * time.Millisecond}}
	for _, c := range []struct {
		name string
		in   deploy.Cycle
		want string
	}{
		{"a save", deploy.Cycle{Trigger: []string{"main.go"}, Outcome: protocol.Committed, Release: "r3", Took: 420 * time.Millisecond,
			Restart: []protocol.UnitWhy{app}, Stay: []protocol.UnitWhy{socket}, Remove: []protocol.UnitWhy{gone}, Phases: phases},
			"15:04:05 ✓ 420ms r3  main.go: restarted shop.service (usr/bin/shop changed); removed shop-old.service; " +
				"shop.socket stays (its unit file is the same)  │ build ▆▆▆▆▆▆▆▆▆ 300ms · restart ▆▆▆ 100ms"},
		{"a save that concerns no unit", deploy.Cycle{Trigger: []string{"README"}, Outcome: protocol.Committed, Release: "r4", Stay: []protocol.UnitWhy{socket}},
			"15:04:05 ✓ 0ms r4  README: no unit had to restart; shop.socket stays (its unit file is the same)"},
		{"the first one", deploy.Cycle{Outcome: protocol.Unchanged, Release: "r3"}, "15:04:05 ✓ 0ms r3  all: the image is the same, nothing restarted"},
		{"a change taken back", deploy.Cycle{Trigger: []string{}, Outcome: protocol.Unchanged, Release: "r3"},
			"15:04:05 ✓ 0ms r3  as it was before: the image is the same, nothing restarted"},
		{"what does not compile", deploy.Cycle{Trigger: []string{"main.go"}, Outcome: deploy.BuildFailed, Error: "x", Phases: phases},
			"15:04:05 ✗ 0ms  main.go: build-failed, the running release serves on"},
		{"a bad image", deploy.Cycle{Trigger: []string{"a", "b", "c"}, Outcome: deploy.BadImage, Error: "x"},
			"15:04:05 ✗ 0ms  a, b, c: bad-image, the running release serves on"},
		{"rolled back", deploy.Cycle{Trigger: []string{"a", "b", "c", "d", "e"}, Outcome: protocol.RolledBack, Release: "r5", Serving: "r4", Error: "x"},
			"15:04:05 ✗ 0ms r5  a, b, c and 2 more: rolled back, r4 serves on"},
		{"the host is gone", deploy.Cycle{Trigger: []string{"a"}, Outcome: deploy.HostLost, Error: "x"}, "15:04:05 ✗ 0ms  a: host-lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.At = at
			if got := cycleLine(&c.in); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestLogLine(t *testing.T) {
	for _, c := range []struct {
		in   deploy.LogLine
		want string
	}{
		{deploy.LogLine{Unit: "shop.service", Invocation: "9f1c22aa", Message: "hello"}, "shop[9f1c] │ hello"},
		{deploy.LogLine{Unit: "shop-backup.service", Message: "hello"}, "shop-backup[] │ hello"},
	} {
		if got := logLine(&c.in); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestUnitName(t *testing.T) {
	for in, want := range map[string]string{"shop": "shop.service", "shop.service": "shop.service", "shop.socket": "shop.socket", "shop@a": "shop@a.service"} {
		if got := unitName(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	wrapped := func(err error) error { return silent{fmt.Errorf("up: %w", err)} }
	for _, c := range []struct {
		name string
		err  error
		want int
	}{
		{"anything", errors.New("disk full"), exitFailed},
		{"wrong use", badInput{errors.New("no such flag")}, exitBadInput},
		{"devbox.yaml", config.Mistakes{{}}, exitBadInput},
		{"image", deploy.Problems{{}}, exitBadInput},
		{"cloud-config, by its schema on the machine", fmt.Errorf("apply: %w", provision.Problems{{}}), exitBadInput},
		{"another folder's machine", &deploy.OwnedError{}, exitBadInput},
		{"rolled back", &deploy.RolledBackError{Result: protocol.Result{Outcome: protocol.RolledBack}}, exitRolledBack},
		{"nothing may serve", &deploy.RolledBackError{Result: protocol.Result{Outcome: protocol.Failed}}, exitFailed},
		{"busy", &deploy.HostError{Code: protocol.CodeBusy}, exitBusy},
		{"refused", &deploy.HostError{}, exitFailed},
		{"lost", deploy.ErrLost, exitUnknown},
		{"lost with the connection", fmt.Errorf("read from devbox-host: %w", remote.ErrLost), exitUnknown},
		{"interrupted", errInterrupted, exitInterrupted},
		{"interrupted while wrong", errors.Join(badInput{context.Canceled}, errInterrupted), exitInterrupted},
		{"the remote command's own", exitWith{errors.New("exit status 42"), 42}, 42},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := exitCode(wrapped(c.err)); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestAnInterruptBlamesNothingElse(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	full := hint.Wrap(fmt.Errorf("unpack: %w", errInterrupted), "free space")
	if err := interruption(ctx, full); !errors.Is(err, full) {
		t.Errorf("without an interrupt: %v", err)
	}
	cancel(errInterrupted)
	for _, err := range []error{full, fmt.Errorf("read: %w", context.Canceled)} {
		got := interruption(ctx, err)
		if got.Error() != "interrupted" || strings.Join(hint.All(got), "|") != "run the same command again: it goes on from here" || exitCode(got) != exitInterrupted {
			t.Errorf("%v became %v, cures %q", err, got, hint.All(got))
		}
	}
	// What came of the release that was waited for.
	if err := interruption(ctx, deploy.ErrLost); !errors.Is(err, deploy.ErrLost) {
		t.Errorf("a lost connection became %v", err)
	}
	if err := interruption(ctx, nil); err != nil {
		t.Error(err)
	}
}

func TestReadYes(t *testing.T) {
	for answer, want := range map[string]bool{"y\n": true, "Yes\n": true, "n\n": false, "\n": false, "": false, "yesterday\n": false} {
		if err := readYes(t.Context(), strings.NewReader(answer)); (err == nil) != want {
			t.Errorf("%q: %v", answer, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	silence, w := io.Pipe()
	defer w.Close()
	if err := readYes(ctx, silence); !errors.Is(err, errInterrupted) {
		t.Errorf("Ctrl-C: %v", err)
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Minute:                "0s",
		5 * time.Second:             "5s",
		3 * time.Minute:             "3min",
		2*time.Hour + 7*time.Minute: "2h07min",
		72 * time.Hour:              "3 days",
	} {
		if got := ago(time.Now().Add(-d)); got != want {
			t.Errorf("%v ago is %q, want %q", d, got, want)
		}
	}
}

func TestStatusOfAHostThatDoesNotAnswer(t *testing.T) {
	var out, said strings.Builder
	a := &app{ui: ui.New(&out, &said, ui.Options{})}
	a.printStatus(report{Machine: machineReport{"nspawn", vm.Status{State: vm.Running}}, Problem: "connection refused"})
	if want := "machine  nspawn, running\nproblem  connection refused\n"; out.String() != want {
		t.Errorf("printed %q, want %q", &out, want)
	}
	if want := "hint: `devbox up` puts right what it can\n"; said.String() != want {
		t.Errorf("said %q, want %q", &said, want)
	}
}
