package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
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
			"15:04:05 ✗ 0ms  main.go: build-failed, the running release serves on  │ build ▆▆▆▆▆▆▆▆▆ 300ms · restart ▆▆▆ 100ms"},
		{"a bad image", deploy.Cycle{Trigger: []string{"a", "b", "c"}, Outcome: deploy.BadImage, Error: "x"},
			"15:04:05 ✗ 0ms  a, b, c: bad-image, the running release serves on"},
		{"rolled back", deploy.Cycle{Trigger: []string{"a", "b", "c", "d", "e"}, Outcome: protocol.RolledBack, Release: "r5", Serving: "r4", Error: "x",
			Restart: []protocol.UnitWhy{app}, Stay: []protocol.UnitWhy{socket}, Phases: phases[1:]},
			"15:04:05 ✗ 0ms r5  a, b, c and 2 more: rolled back, r4 serves on; restarted shop.service (usr/bin/shop changed); " +
				"shop.socket stays (its unit file is the same)  │ restart ▆▆▆▆▆▆▆▆▆▆▆▆ 100ms"},
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

// What a person sees of a watch: cycles and the app's lines on stdout, what is
// about them on stderr, how it went at the end.
func TestTranscriptOfAWatch(t *testing.T) {
	at := time.Date(2026, 11, 22, 15, 4, 5, 0, time.UTC)
	save := func(took time.Duration) deploy.WatchEvent {
		return deploy.WatchEvent{Cycle: &deploy.Cycle{At: at, Trigger: []string{"main.go"}, Outcome: protocol.Unchanged, Took: took}}
	}
	events := []deploy.WatchEvent{
		{Note: "watching 3 files in 1 folders of /shop"},
		{Cycle: &deploy.Cycle{At: at, Outcome: protocol.Unchanged, Took: time.Hour}}, // no save
		{Log: &deploy.LogLine{Unit: "shop.service", Invocation: "9f1c22aa", Message: "hello"}},
		save(100 * time.Millisecond), save(300 * time.Millisecond), save(200 * time.Millisecond),
		{Cycle: &deploy.Cycle{At: at, Trigger: []string{"main.go"}, Outcome: deploy.BuildFailed, Error: "no semicolon", Hint: "add one"}},
	}
	for _, c := range []struct {
		name      string
		json      bool
		quiet     bool
		out, said string
	}{
		{"for a person", false, false, `15:04:05 ✓ 60m00s  all: the image is the same, nothing restarted
shop[9f1c] │ hello
15:04:05 ✓ 100ms  main.go: the image is the same, nothing restarted
15:04:05 ✓ 300ms  main.go: the image is the same, nothing restarted
15:04:05 ✓ 200ms  main.go: the image is the same, nothing restarted
15:04:05 ✗ 0ms  main.go: build-failed, the running release serves on
`, `watching 3 files in 1 folders of /shop
error: no semicolon
hint: add one
3 saves kept, 1 failed; from save to running: p50 200ms, p95 300ms
`},
		{"for a script", true, true, `{"note":"watching 3 files in 1 folders of /shop"}
{"cycle":{"at":"2026-11-22T15:04:05Z","outcome":"unchanged","wire_bytes":0,"took":3600000000000}}
{"cycle":{"at":"2026-11-22T15:04:05Z","trigger":["main.go"],"outcome":"unchanged","wire_bytes":0,"took":100000000}}
{"cycle":{"at":"2026-11-22T15:04:05Z","trigger":["main.go"],"outcome":"unchanged","wire_bytes":0,"took":300000000}}
{"cycle":{"at":"2026-11-22T15:04:05Z","trigger":["main.go"],"outcome":"unchanged","wire_bytes":0,"took":200000000}}
{"cycle":{"at":"2026-11-22T15:04:05Z","trigger":["main.go"],"outcome":"build-failed","wire_bytes":0,"took":0,"error":"no semicolon","hint":"add one"}}
{"kept":3,"failed":1,"p50":200000000,"p95":300000000}
`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, said strings.Builder
			w := &transcript{app: &app{ui: ui.New(&out, &said, ui.Options{JSON: c.json}), json: c.json}, quiet: c.quiet}
			for _, e := range events {
				w.report(e)
			}
			w.summary()
			if out.String() != c.out {
				t.Errorf("printed\n%s\nwant\n%s", &out, c.out)
			}
			if said.String() != c.said {
				t.Errorf("said\n%s\nwant\n%s", &said, c.said)
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
		{"busy with another provision", fmt.Errorf("apply: %w", provision.ErrBusy), exitBusy},
		{"refused", &deploy.HostError{}, exitFailed},
		{"lost", deploy.ErrLost, exitUnknown},
		{"lost with the connection", fmt.Errorf("read from devbox-host: %w", remote.ErrLost), exitUnknown},
		{"lost, and what the host said then", fmt.Errorf("%w: %w", deploy.ErrLost, &deploy.HostError{Code: protocol.CodePolicy}), exitUnknown},
		{"lost before it began", &deploy.NotBegunError{Err: deploy.ErrLost}, exitFailed},
		{"a secret that is not there", &deploy.HostError{Code: protocol.CodeNoSecret}, exitBadInput},
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
	if err := interruption(ctx, full, "again"); !errors.Is(err, full) {
		t.Errorf("without an interrupt: %v", err)
	}
	cancel(errInterrupted)
	for _, err := range []error{full, fmt.Errorf("read: %w", context.Canceled)} {
		got := interruption(ctx, err, "again")
		if got.Error() != "interrupted" || strings.Join(hint.All(got), "|") != "again" || exitCode(got) != exitInterrupted {
			t.Errorf("%v became %v, cures %q", err, got, hint.All(got))
		}
	}
	// What came of the release that was waited for.
	if err := interruption(ctx, deploy.ErrLost, "again"); !errors.Is(err, deploy.ErrLost) {
		t.Errorf("a lost connection became %v", err)
	}
	if err := interruption(ctx, nil, "again"); err != nil {
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

func TestDataLines(t *testing.T) {
	now := time.Date(2026, 11, 24, 8, 0, 14, 0, time.UTC)
	three := int64(3)
	for _, tt := range []struct {
		in   protocol.Data
		want []string
	}{
		{protocol.Data{Integrity: "ok", Schema: &three, Rows: map[string]int64{"press": 12_030, "room": 4}, Newest: now.Add(-14 * time.Second)},
			[]string{"data     12,034 rows in 2 tables, schema 3, newest change 14s ago, integrity ok"}},
		{protocol.Data{Rows: map[string]int64{"press": 1}}, []string{"data     1 row in 1 table"}},
		{protocol.Data{Rows: map[string]int64{"press": 1_234_567}}, []string{"data     1,234,567 rows in 1 table"}},
		{protocol.Data{Schema: new(int64), Integrity: "torn", Problem: "integrity: torn", Log: []string{"page 7"}},
			[]string{"data     schema 0", "problem  with the data: integrity: torn", "         page 7"}},
		{protocol.Data{}, []string{"data     its check says nothing of it"}},
	} {
		if got := dataLines(&tt.in, now); !slices.Equal(got, tt.want) {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
	// Data that is not well makes all of it not well.
	runs := protocol.Status{Current: &protocol.Release{ID: "r1"}}
	for problem, well := range map[string]bool{"": true, "integrity: torn": false} {
		if r := (report{Host: &runs, Data: &protocol.Data{Problem: problem}}); r.well() != well {
			t.Errorf("with %q: well is %v", problem, r.well())
		}
	}
}

// Who brings a release back is told what it finds, before being asked.
func TestAnOfferToBringBackARelease(t *testing.T) {
	var out, said strings.Builder
	a := &app{ui: ui.New(&out, &said, ui.Options{})}
	target := &deploy.Target{Name: "prod", Target: config.Target{Host: "shop.example"}}
	a.printOffer(target, &deploy.Offer{
		Plan:  protocol.Plan{Release: "r8", Of: "r6", Restart: []protocol.UnitWhy{{Unit: "shop.service", Why: "usr/bin/shop changed"}}},
		Cycle: &deploy.Cycle{Serving: "r7", Version: "0a1b2c3d4e5f", Migration: &protocol.Migration{Release: "r6", From: 2, To: 3}},
	}, a.ui.Result)
	want := `r8, which is r6 again, on prod (shop.example), instead of r7
  image     0a1b2c3d4e5f
  restart   shop.service: usr/bin/shop changed
  data      r6 was kept on data of schema 2, which has been migrated to 3 since
  note      what the app itself has stored is not rolled back
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
	out.Reset()
	back := &deploy.Offer{Plan: protocol.Plan{Release: "r8", Of: "r6", Data: time.Now().Add(-125 * time.Minute)}, Cycle: &deploy.Cycle{Serving: "r7"}}
	a.printOffer(target, back, a.ui.Result)
	at := back.Plan.Data.Local().Format(time.DateTime)
	if want := "  data      as it was on " + at + "; what was written in the 2h05min since is put aside, not deleted\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("got\n%s\nwant %s", &out, want)
	}
	if got, want := a.question(target, back), "bring r6 and its data of "+at+" back on prod?"; got != want {
		t.Errorf("asks %q, want %q", got, want)
	}
}

func TestStatusOfAHostThatDoesNotAnswer(t *testing.T) {
	var out, said strings.Builder
	a := &app{ui: ui.New(&out, &said, ui.Options{})}
	a.printStatus(report{Machine: &machineReport{"nspawn", vm.Status{State: vm.Running}}, Problem: "connection refused"})
	if want := "machine  nspawn, running\nproblem  connection refused\n"; out.String() != want {
		t.Errorf("printed %q, want %q", &out, want)
	}
	if want := "hint: `devbox up` puts right what it can\n"; said.String() != want {
		t.Errorf("said %q, want %q", &said, want)
	}
}

// A rehearsal that failed, or of which not all is known, does not say that all is well.
func TestPrintDrill(t *testing.T) {
	at := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	data := func(newest time.Time, presses int64) *protocol.Data {
		return &protocol.Data{Integrity: "ok", Newest: newest, Rows: map[string]int64{"press": presses}}
	}
	for _, c := range []struct {
		name, verdict  string
		live, restored *protocol.Data
		lost           time.Duration
		err            string
	}{
		{name: "all", live: data(at, 5), restored: data(at, 5), verdict: "  press: 5 rows\n  nothing would have been lost: the newest change, of 2026-11-25T10:00:00Z, is there\n"},
		{name: "the last", live: data(at, 6), restored: data(at, 5), lost: 2 * time.Second, verdict: "  press: 5 rows of 6\n  the last 2.0s would have been lost: 2026-11-25T10:00:00Z is the newest change that came back\n"},
		{name: "fewer", live: data(at, 6), restored: data(at, 5), verdict: "  press: 5 rows of 6\n  the newest change, of 2026-11-25T10:00:00Z, is there, but not all rows: they are not replicated, or were deleted meanwhile\n"},
		{name: "a table too few", live: &protocol.Data{Newest: at, Rows: map[string]int64{"press": 1, "room": 2}}, restored: data(at, 1), verdict: "  press: 1 row\n  room: 0 rows of 2\n  the newest change, of 2026-11-25T10:00:00Z, is there, but not all rows: they are not replicated, or were deleted meanwhile\n"},
		{name: "rows alone", live: data(time.Time{}, 5), restored: data(time.Time{}, 5), verdict: "  press: 5 rows\n  when something was written last, its check does not tell: compare the rows\n"},
		{name: "gone, rows alone", restored: data(time.Time{}, 5), verdict: "  press: 5 rows\n  what was there besides cannot be known\n"},
		{name: "failed", live: data(at, 5), restored: &protocol.Data{}, err: "nothing came back", verdict: "  press: 0 rows of 5\n"},
	} {
		var out strings.Builder
		a := &app{ui: ui.New(&out, io.Discard, ui.Options{})}
		a.printDrill(&deploy.Drill{Of: "prod", Release: "r7", Version: "abc", Live: c.live, Restored: c.restored, Lost: c.lost, Error: c.err})
		how := "prod r7 (abc) came back on a new machine\n"
		if c.err != "" {
			how = "prod r7 (abc) was rehearsed on a new machine\n"
		}
		if got := out.String(); !strings.HasPrefix(got, how) || !strings.HasSuffix(got, c.verdict) || c.err != "" && strings.Contains(got, "newest") {
			t.Errorf("%s: %s\nwant %s…%s", c.name, got, how, c.verdict)
		}
	}
}
