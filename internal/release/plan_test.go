package release

import (
	"reflect"
	"strings"
	"testing"

	"devbox/internal/image"
	"devbox/internal/protocol"
)

const installed = "[Install]\nWantedBy=multi-user.target\n"

func parsed(t *testing.T, name, text string) unitFile {
	t.Helper()
	u, err := image.ParseUnit(name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return newUnitFile(u, []byte(text))
}

// running is a unit as it is after an activation of t.
func running(p place, t target, u unitFile) seenUnit {
	s := seenUnit{Body: u.Body, Sandboxed: true, State: UnitState{Active: "active", Invocation: "i"}}
	if u.Type == "service" {
		s.DropIn = t.dropIn(p, u.Name)
	}
	return s
}

func TestMakePlan(t *testing.T) {
	p := place{"/", "bowl"}
	service := parsed(t, "bowl.service", "[Unit]\nAfter=bowl-store.service\n[Service]\nType=notify\n"+installed)
	socket := parsed(t, "bowl.socket", "[Socket]\nListenStream=80\n[Install]\nWantedBy=sockets.target\n")
	store := parsed(t, "bowl-store.service", "[Service]\nExecStart=/x\n"+installed)
	restore := parsed(t, "bowl-restore.service", "[Service]\nType=oneshot\nExecStart=/x\n")
	backup := parsed(t, "bowl-backup.service", "[Service]\nExecStart=/x\n")
	all := target{Release: protocol.Release{ID: "r1", Digest: "00"}, Units: []unitFile{backup, restore, store, service, socket}}
	healthy := func() seen {
		s := seen{Linked: true, Units: map[string]seenUnit{}}
		for _, u := range all.Units {
			s.Units[u.Name] = running(p, all, u)
		}
		for _, name := range []string{restore.Name, backup.Name} {
			u := s.Units[name]
			u.State = UnitState{Active: "inactive"}
			s.Units[name] = u
		}
		return s
	}
	edit := func(name string, f func(*seenUnit)) func(*seen) {
		return func(s *seen) {
			u := s.Units[name]
			f(&u)
			s.Units[name] = u
		}
	}
	down := func(u *seenUnit) { u.State = UnitState{Active: "inactive"} }
	tests := []struct {
		name    string
		seen    func(*seen)
		reasons map[string]why
		down    Down
		want    Plan // without Public
	}{
		{name: "nothing to do"},
		{name: "only another image", seen: func(s *seen) { s.Linked = false }, want: Plan{Switch: true}},
		{name: "a file that a service reads", seen: func(s *seen) { s.Linked = false },
			reasons: map[string]why{"bowl.service": {Restart: true, Text: "usr/share/x changed"}},
			want:    Plan{Switch: true, Restart: []string{"bowl.service"}}},
		{name: "restarts in the order of After=",
			reasons: map[string]why{"bowl.service": {Restart: true, Text: "x"}, "bowl-store.service": {Restart: true, Text: "x"}},
			want:    Plan{Restart: []string{"bowl-store.service", "bowl.service"}}},
		{name: "a oneshot is not run out of turn, what is idle is not started",
			reasons: map[string]why{"bowl-restore.service": {Restart: true, Text: "x"}, "bowl-backup.service": {Restart: true, Text: "x"}}},
		{name: "an idle service that runs right now restarts", seen: edit("bowl-backup.service", func(u *seenUnit) { u.State.Active = "active" }),
			reasons: map[string]why{"bowl-backup.service": {Restart: true, Text: "x"}},
			want:    Plan{Restart: []string{"bowl-backup.service"}}},
		{name: "what ran before runs again, also if it need not", reasons: map[string]why{"bowl-backup.service": {Restart: true, Ran: true, Text: "x"}},
			want: Plan{Restart: []string{"bowl-backup.service"}}},
		{name: "nothing is attached", seen: func(s *seen) { *s = seen{Units: map[string]seenUnit{}} },
			want: Plan{Switch: true, Attach: true, Reload: true,
				DropIns: map[string]string{"bowl.service": all.dropIn(p, "bowl.service"), "bowl-store.service": all.dropIn(p, "bowl-store.service"),
					"bowl-restore.service": all.dropIn(p, "bowl-restore.service"), "bowl-backup.service": all.dropIn(p, "bowl-backup.service")},
				Enable: []string{"bowl-store.service", "bowl.service", "bowl.socket"}, Release: []string{"bowl.service"}, Sockets: []string{"bowl.socket"},
				Restart: []string{"bowl-store.service", "bowl.service"}}},
		{name: "a unit file differs", seen: edit("bowl-store.service", func(u *seenUnit) { u.Body = []byte("[Service]\nExecStart=/y\n" + installed) }),
			want: Plan{Attach: true, Reload: true, Restart: []string{"bowl-store.service"}}},
		{name: "[Install] went", seen: edit("bowl-backup.service", func(u *seenUnit) { u.Body = []byte("[Service]\nExecStart=/x\n" + installed) }),
			want: Plan{Attach: true, Reload: true, Disable: []string{"bowl-backup.service"}}},
		{name: "[Install] changed", seen: edit("bowl-store.service", func(u *seenUnit) {
			u.Body = []byte("[Service]\nExecStart=/x\n[Install]\nWantedBy=basic.target\n")
		}), want: Plan{Attach: true, Reload: true, Disable: []string{"bowl-store.service"}, Enable: []string{"bowl-store.service"},
			Restart: []string{"bowl-store.service"}}},
		{name: "no sandbox", seen: edit("bowl.service", func(u *seenUnit) { u.Sandboxed = false }),
			want: Plan{Attach: true, Reload: true, Restart: []string{"bowl.service"}}},
		{name: "environment differs", seen: edit("bowl.service", func(u *seenUnit) { u.DropIn = "old" }),
			want: Plan{Reload: true, DropIns: map[string]string{"bowl.service": all.dropIn(p, "bowl.service")}, Restart: []string{"bowl.service"}}},
		{name: "a socket changes: its service makes room", seen: edit("bowl.socket", func(u *seenUnit) { u.Body = []byte("[Socket]\nListenStream=81\n[Install]\nWantedBy=sockets.target\n") }),
			want: Plan{Attach: true, Reload: true, Release: []string{"bowl.service"}, Sockets: []string{"bowl.socket"}, Restart: []string{"bowl.service"}}},
		{name: "a socket is down: its service makes room", seen: edit("bowl.socket", down),
			want: Plan{Release: []string{"bowl.service"}, Sockets: []string{"bowl.socket"}, Restart: []string{"bowl.service"}}},
		{name: "socket and service are down", seen: func(s *seen) { edit("bowl.socket", down)(s); edit("bowl.service", down)(s) },
			want: Plan{Release: []string{"bowl.service"}, Sockets: []string{"bowl.socket"}, Restart: []string{"bowl.service"}}},
		{name: "another service is down: it does not judge the release", seen: edit("bowl-store.service", down),
			reasons: map[string]why{"bowl.service": {Restart: true, Text: "x"}},
			want:    Plan{Restart: []string{"bowl.service"}, Nudge: []string{"bowl-store.service"}}},
		{name: "a service is down: restart it", seen: edit("bowl-store.service", down), down: DownRestart,
			want: Plan{Restart: []string{"bowl-store.service"}}},
		{name: "a service that keeps failing is down", seen: edit("bowl-store.service", func(u *seenUnit) { u.State = UnitState{Active: "activating", Sub: "auto-restart"} }),
			down: DownRestart, want: Plan{Restart: []string{"bowl-store.service"}}},
		{name: "a unit vanished", seen: func(s *seen) { s.Units["bowl-old.service"] = seenUnit{Body: []byte("x")} },
			want: Plan{Vanished: []string{"bowl-old.service"}, Reload: true}},
		{name: "a socket vanished: its service must start without it", seen: func(s *seen) {
			s.Units["bowl-store.socket"] = seenUnit{Body: []byte("[Socket]\nListenStream=81\n"), State: UnitState{Active: "active"}}
		}, want: Plan{Vanished: []string{"bowl-store.socket"}, Reload: true, Restart: []string{"bowl-store.service"}}},
		{name: "a socket of another name vanished", seen: func(s *seen) {
			s.Units["bowl-old.socket"] = seenUnit{Body: []byte("[Socket]\nListenStream=81\nService=bowl-store.service\n"), State: UnitState{Active: "active"}}
		}, want: Plan{Vanished: []string{"bowl-old.socket"}, Reload: true, Restart: []string{"bowl-store.service"}}},
		{name: "a socket goes to another service: the old one lets go of the port", seen: edit("bowl.socket", func(u *seenUnit) {
			u.Body = []byte("[Socket]\nListenStream=80\nService=bowl-store.service\n[Install]\nWantedBy=sockets.target\n")
		}), want: Plan{Attach: true, Reload: true, Release: []string{"bowl-store.service", "bowl.service"}, Sockets: []string{"bowl.socket"},
			Restart: []string{"bowl-store.service", "bowl.service"}}},
		{name: "a socket vanished whose service is idle", seen: func(s *seen) {
			s.Units["bowl-backup.socket"] = seenUnit{Body: []byte("[Socket]\nListenStream=81\n"), State: UnitState{Active: "active"}}
		}, want: Plan{Vanished: []string{"bowl-backup.socket"}, Reload: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := healthy()
			if tt.seen != nil {
				tt.seen(&s)
			}
			got := makePlan(p, all, s, tt.reasons, tt.down)
			if got.Empty() != (tt.name == "nothing to do" || tt.name == "a oneshot is not run out of turn, what is idle is not started") {
				t.Errorf("Empty() is %v", got.Empty())
			}
			told := map[string]bool{}
			for _, list := range [][]protocol.UnitWhy{got.Public.Restart, got.Public.Stay, got.Public.Remove} {
				for _, u := range list {
					if told[u.Unit] || u.Why == "" {
						t.Errorf("%s is told twice or without a reason", u.Unit)
					}
					told[u.Unit] = true
				}
			}
			if len(told) != len(all.Units)+len(got.Vanished) {
				t.Errorf("the plan tells of %v", told)
			}
			got.Public = protocol.Plan{}
			if tt.want.DropIns == nil {
				tt.want.DropIns = map[string]string{}
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestPlanRestartsInstancesOfATemplate(t *testing.T) {
	p := place{"/", "bowl"}
	u := parsed(t, "bowl@.service", "[Service]\nExecStart=/x\n"+installed)
	to := target{Release: protocol.Release{ID: "r1"}, Units: []unitFile{u}}
	is := running(p, to, u)
	is.State, is.Instances = UnitState{}, map[string]UnitState{"bowl@a.service": {Active: "active"}, "bowl@b.service": {Active: "active"}}
	got := makePlan(p, to, seen{Linked: true, Units: map[string]seenUnit{u.Name: is}}, map[string]why{u.Name: {Restart: true, Text: "x"}}, DownRestart)
	if want := []string{"bowl@a.service", "bowl@b.service"}; !reflect.DeepEqual(got.Restart, want) {
		t.Errorf("restarts %v, want %v", got.Restart, want)
	}
	// Going back, those that were touched, and those that have ended.
	back := map[string]why{"bowl@b.service": {Restart: true, Ran: true, Text: "x"}, "bowl@c.service": {Restart: true, Ran: true, Text: "x"}}
	got = makePlan(p, to, seen{Linked: true, Units: map[string]seenUnit{u.Name: is}}, back, DownNudge)
	if want := []string{"bowl@b.service", "bowl@c.service"}; !reflect.DeepEqual(got.Restart, want) {
		t.Errorf("going back restarts %v, want %v", got.Restart, want)
	}
	// Without its template an instance has nothing to run from.
	got = makePlan(p, target{}, seen{Linked: true, Units: map[string]seenUnit{u.Name: is}}, nil, DownNudge)
	if want := []string{"bowl@.service", "bowl@a.service", "bowl@b.service"}; !reflect.DeepEqual(got.Vanished, want) {
		t.Errorf("vanished %v, want %v", got.Vanished, want)
	}
	is.Instances = nil
	if got := makePlan(p, to, seen{Linked: true, Units: map[string]seenUnit{u.Name: is}}, nil, DownRestart); !got.Empty() {
		t.Errorf("a template without instances gives work: %+v", got)
	}
}

func TestJudge(t *testing.T) {
	r1, r2 := protocol.Release{ID: "r1"}, protocol.Release{ID: "r2"}
	tests := []struct {
		name string
		st   state
		j    *journal
		want verdict
	}{
		{"no journal", state{Current: &r1}, nil, nothing},
		{"nothing at all", state{}, nil, nothing},
		{"not committed", state{Current: &r1, Last: 1}, &journal{From: &r1, To: r2}, undo},
		{"committed", state{Current: &r2, Previous: &r1, Last: 2}, &journal{From: &r1, To: r2}, complete},
		{"first, not committed", state{}, &journal{To: r1}, undo},
		{"first, committed", state{Current: &r1, Last: 1}, &journal{To: r1}, complete},
	}
	for _, tt := range tests {
		if got := judge(tt.st, tt.j); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// To undo, only what was touched is restarted.
func TestTouched(t *testing.T) {
	s := seen{Units: map[string]seenUnit{
		"a.service": {State: UnitState{Active: "active", Invocation: "1"}},
		"b.service": {State: UnitState{Active: "active", Invocation: "2x"}},
		"c.service": {State: UnitState{Active: "failed", Invocation: "3"}},
		"d.service": {State: UnitState{Active: "active", Invocation: "4"}},     // started meanwhile, from the other image
		"e.service": {State: UnitState{Active: "activating", Invocation: "6"}}, // of the other image, starts again and again
		"i.service": {State: UnitState{Active: "activating", Invocation: "7"}}, // did so before, too
		"f.service": {State: UnitState{Active: "inactive"}},
		"g@.service": {Instances: map[string]UnitState{
			"g@1.service": {Active: "active", Invocation: "7"}, "g@2.service": {Active: "active", Invocation: "8x"},
		}},
	}}
	before := map[string]string{"a.service": "1", "b.service": "2", "c.service": "3", "gone.service": "5",
		"g@1.service": "7", "g@2.service": "8", "g@3.service": "9", "h@1.service": "10"}
	got := touched(s, &journal{Before: before, Unwell: []string{"i.service"}}, "r1")
	want := map[string]why{}
	for _, name := range []string{"b.service", "c.service", "d.service", "e.service", "g@2.service", "g@3.service"} {
		want[name] = why{Restart: true, Ran: true, Text: "back to r1"}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDropIn(t *testing.T) {
	r := protocol.Release{Settings: protocol.Settings{Env: map[string]map[string]string{
		"bowl.service": {"B": "2", "A": "say \"100%\" \\ of\n$HOME"}, "bowl-x.service": {"C": "3"},
	}}}
	got := target{Release: r}.dropIn(place{"/", "bowl"}, "bowl.service")
	want := "# Written by devbox-host at each activation.\n[Service]\nEnvironmentFile=-/var/lib/devbox/bowl/release.env\n" +
		`Environment="A=say \"100%%\" \\ of\n$HOME"` + "\n" + `Environment="B=2"` + "\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestUnitFileSettings(t *testing.T) {
	u := parsed(t, "bowl.service", "# no section: \\\n[Unit]\nAfter=a.service b.service %p-x.service\nAfter=c.service\nBefore=d.service\n"+
		"[Service]\nType=simple\nType = oneshot\n[Install]\n; no\nWantedBy=\\\n x.target\n")
	if !u.Oneshot || u.Install != "WantedBy=x.target\n" {
		t.Errorf("%+v", u)
	}
	if !reflect.DeepEqual(u.Order, []string{"a.service", "b.service", "bowl-x.service", "c.service"}) || !reflect.DeepEqual(u.Before, []string{"d.service"}) {
		t.Errorf("%v %v", u.Order, u.Before)
	}
	if parsed(t, "bowl.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\n").Oneshot {
		t.Error("a oneshot that remains has a state to keep")
	}
}

func TestEnding(t *testing.T) {
	for _, tt := range []struct {
		st   UnitState
		want string
	}{
		{UnitState{Result: "exit-code", ExitCode: cldExited, ExitStatus: 1}, "exited with status 1"},
		{UnitState{Result: "signal", ExitCode: cldKilled, ExitStatus: 9}, "killed by SIGKILL"},
		{UnitState{Result: "core-dump", ExitCode: cldDumped, ExitStatus: 11}, "crashed with SIGSEGV"},
		{UnitState{Result: "timeout", ExitCode: cldKilled, ExitStatus: 15}, "not ready within its TimeoutStartSec="},
		{UnitState{Result: "protocol", Type: "notify"}, "ended without saying that it is ready (Type=notify)"},
		{UnitState{Result: "exit-code", ExitCode: cldExited, ExitStatus: 203}, "could not be started: its program cannot be executed (status 203)"},
		{UnitState{Active: "inactive", Result: "success"}, "is inactive"},
	} {
		if got := ending(tt.st); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.st, got, tt.want)
		}
	}
}

func TestMessages(t *testing.T) {
	out := strings.Join([]string{
		`{"MESSAGE":"nobody's, before"}`,
		`{"MESSAGE":"Starting…","_SYSTEMD_INVOCATION_ID":"p","INVOCATION_ID":"a"}`,
		`{"MESSAGE":"one\ntwo","_SYSTEMD_INVOCATION_ID":"a"}`,
		`{"MESSAGE":[104,105,255],"_SYSTEMD_INVOCATION_ID":"a"}`,
		`{"MESSAGE":"\u001b[2Jclean\tline","_SYSTEMD_INVOCATION_ID":"a"}`,
		`{"MESSAGE":null,"_SYSTEMD_INVOCATION_ID":"a"}`,
		"not json",
		`{"MESSAGE":"of another start","_SYSTEMD_INVOCATION_ID":"b"}`,
		`{"MESSAGE":"last words"}`,
	}, "\n")
	want := []string{"one", "two", "hi\uFFFD", "[2Jclean line", "last words"}
	if got := messages([]byte(out), "a"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	never := `{"MESSAGE":"Failed at step EXEC","_SYSTEMD_INVOCATION_ID":"p","INVOCATION_ID":"c"}`
	if got := messages([]byte(out+"\n"+never), "c"); !reflect.DeepEqual(got, []string{"Failed at step EXEC"}) {
		t.Errorf("of a program that never ran: %q", got)
	}
}

func TestNewestErrors(t *testing.T) {
	out := strings.Join([]string{
		`{"MESSAGE":"time=… level=ERROR msg=\"sync error\" n=1","PRIORITY":"6","_SYSTEMD_INVOCATION_ID":"text"}`,
		`{"MESSAGE":"time=… level=ERROR msg=\"sync error\" n=2","PRIORITY":"6","_SYSTEMD_INVOCATION_ID":"text"}`,
		`{"MESSAGE":"time=… level=INFO msg=\"no error\"","PRIORITY":"6","_SYSTEMD_INVOCATION_ID":"text"}`,
		`{"MESSAGE":"{\"level\":\"ERROR\",\"msg\":\"x\"}","PRIORITY":"6","_SYSTEMD_INVOCATION_ID":"json"}`,
		`{"MESSAGE":"disk full","PRIORITY":"3","_SYSTEMD_INVOCATION_ID":"syslog"}`,
		`{"MESSAGE":"level=WARN msg=\"error level\"","PRIORITY":"4","_SYSTEMD_INVOCATION_ID":"well"}`,
		`{"MESSAGE":"the level of errors","_SYSTEMD_INVOCATION_ID":"well"}`,
	}, "\n")
	want := map[string]string{"text": `time=… level=ERROR msg="sync error" n=2`, "json": `{"level":"ERROR","msg":"x"}`, "syslog": "disk full"}
	if got := newestErrors([]byte(out)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
