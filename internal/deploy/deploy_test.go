package deploy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/protocol"
)

func prod(p *Project) *Target {
	return &Target{Name: "prod", project: p, Target: config.Target{Host: "shop.example", Keep: 4, Trial: config.Duration(time.Second),
		Env:    map[string]map[string]string{"shop.service": {"LEVEL": "warn"}},
		Health: config.Health{URL: "http://127.0.0.1/", Expect: "${DEVBOX_VERSION}", Deadline: config.Duration(time.Minute)}}}
}

// A server's releases have the settings of its target, not the dev machine's.
func TestSettingsOfATarget(t *testing.T) {
	p := &Project{Config: &config.Config{Name: "shop", Image: config.Image{Profile: "strict"}, Env: map[string]map[string]string{"shop.service": {"DEV": "1"}},
		State: config.State{Check: []string{"/bin/x"}, Snapshot: "before-activate"}}}
	want := protocol.Settings{
		Profile: "strict", Env: map[string]map[string]string{"shop.service": {"LEVEL": "warn"}}, Trial: time.Second,
		Health: protocol.Health{URL: "http://127.0.0.1/", Expect: "${DEVBOX_VERSION}", Deadline: time.Minute},
		State:  protocol.State{Check: []string{"/bin/x"}, Snapshot: protocol.BeforeActivate},
	}
	h := &Host{project: p, target: prod(p)}
	if got := h.settings(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if err := want.Validate("shop"); err != nil {
		t.Error(err)
	}
}

func TestOnlyWhatIsGreenAtHomeIsProven(t *testing.T) {
	p := appWithTool(t)
	a, err := p.Build(t.Context(), runtime.GOARCH, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ran := devSeen{arch: runtime.GOARCH, all: []protocol.Release{
		{ID: "r3", Digest: strings.Repeat("0", 64), Outcome: protocol.Committed}, {ID: "r2", Digest: a.Digest.String(), Outcome: protocol.Committed}}}
	other := devSeen{arch: runtime.GOARCH, all: ran.all[:1]}
	failed := devSeen{arch: runtime.GOARCH, all: []protocol.Release{{ID: "r4", Digest: a.Digest.String(), Outcome: protocol.RolledBack, Cause: "not healthy"}}}
	down := devSeen{why: "the dev machine cannot be asked: it is off"}
	for _, c := range []struct {
		name  string
		dev   devSeen
		allow bool
		proof string
		err   string
	}{
		{"it ran", ran, false, "ran on the dev machine as r2", ""},
		{"it ran, and need not have", ran, true, "ran on the dev machine as r2", ""},
		{"another ran", other, false, "", "the source has changed since it last ran"},
		{"another ran, allowed", other, true, "is not proven: the source has changed since it last ran on the dev machine", ""},
		{"it failed there", failed, false, "", "it was not kept on the dev machine (r4: not healthy)"},
		{"nothing ever ran", devSeen{arch: runtime.GOARCH}, false, "", "nothing has run on the dev machine yet"},
		{"nobody knows", down, false, "", "it is off"},
		{"nobody knows, allowed", down, true, "is not proven: " + down.why, ""},
	} {
		o := &Offer{}
		err := o.prove(c.dev, a, DeployOptions{Unproven: c.allow})
		if o.Proof != c.proof || (err == nil) != (c.err == "") {
			t.Errorf("%s: %q, %v", c.name, o.Proof, err)
		}
		if err != nil && (!errors.As(err, new(*UnprovenError)) || !strings.Contains(err.Error(), c.err) || !strings.Contains(hint.Of(err), "devbox up")) {
			t.Errorf("%s: %v (%s)", c.name, err, hint.Of(err))
		}
	}
}

// What is activated is what was planned: in the place of the release that ran
// then, and for a rollback the one that "previous" meant then.
func TestWhatWasAgreedToIsWhatIsAsked(t *testing.T) {
	p := &Project{Config: &config.Config{Name: "shop"}}
	for _, c := range []struct {
		serving, of, instead, release string
	}{
		{"r5", "r4", "r5", "r4"},
		{"r5", "", "r5", protocol.Previous},
		{"", "", protocol.NoRelease, protocol.Previous},
	} {
		ask := protocol.Activate{App: "shop", Release: protocol.Previous, By: whoAmI(), Keep: 4, DryRun: true}
		result := protocol.Result{Outcome: protocol.Planned, Serving: c.serving, Plan: protocol.Plan{Release: "r6", Of: c.of, Digest: strings.Repeat("a", 64)}}
		s, err := greet(t.Context(), fakeHost(t, nil, welcome(protocol.Welcome{}),
			turn{want: protocol.Request{Activate: &ask}, answer: []protocol.Event{{Result: &result, Done: true}}}), "shop")
		if err != nil {
			t.Fatal(err)
		}
		target := prod(p)
		o := &Offer{target: target, host: &Host{Session: s, project: p, target: target}, Cycle: &Cycle{}, req: protocol.Activate{Release: protocol.Previous}}
		if err := o.plan(t.Context()); err != nil || o.req.Instead != c.instead || o.req.Release != c.release {
			t.Errorf("asks for %s instead of %s, %v; want %+v", o.req.Release, o.req.Instead, err, c)
		}
		if o.Cycle.Of != c.of || o.Cycle.Version != strings.Repeat("a", 12) {
			t.Errorf("tells of %+v", o.Cycle)
		}
	}
}

func TestHowALostActivationEnded(t *testing.T) {
	p := &Project{Config: &config.Config{Name: "shop"}}
	req := protocol.Activate{App: "shop", Digest: strings.Repeat("a", 64), By: "ann@laptop"}
	probe := req
	probe.DryRun = true
	planned := turn{want: protocol.Request{Activate: &probe}, answer: []protocol.Event{{Result: &protocol.Result{Outcome: protocol.Planned}, Done: true}}}
	releases := func(all ...protocol.Release) turn {
		return turn{want: protocol.Request{Releases: &protocol.ReleasesOf{App: "shop"}}, answer: []protocol.Event{{Releases: &all, Done: true}}}
	}
	status := func(runs string) turn {
		return turn{want: protocol.Request{Status: &protocol.StatusOf{App: "shop"}}, answer: []protocol.Event{{Status: &protocol.Status{Current: &protocol.Release{ID: runs}}, Done: true}}}
	}
	r := func(by, outcome, cause string) protocol.Release {
		return protocol.Release{ID: "r7", By: by, Outcome: outcome, Cause: cause}
	}
	for _, c := range []struct {
		name   string
		script []turn
		want   protocol.Result
		err    string
	}{
		{"it was kept", []turn{planned, releases(r("ann@laptop", protocol.Committed, "")), status("r7")}, protocol.Result{Outcome: protocol.Committed, Serving: "r7"}, ""},
		{"it was not", []turn{planned, releases(r("ann@laptop", protocol.RolledBack, "not healthy")), status("r6")},
			protocol.Result{Outcome: protocol.RolledBack, Serving: "r6", Failure: &protocol.Failure{Cause: "not healthy"}}, ""},
		{"the power went", []turn{planned, releases(r("ann@laptop", protocol.Interrupted, "interrupted")), status("r6")},
			protocol.Result{Outcome: protocol.RolledBack, Serving: "r6", Failure: &protocol.Failure{Cause: "interrupted"}}, ""},
		{"the power went, and nothing ran before", []turn{planned, releases(r("ann@laptop", protocol.Interrupted, "interrupted")), status("")},
			protocol.Result{Outcome: protocol.Failed, Failure: &protocol.Failure{Cause: "interrupted"}}, ""},
		{"the host refuses a second plan", []turn{{want: planned.want, answer: []protocol.Event{{Error: "no", Code: protocol.CodeNoImage}}},
			releases(r("ann@laptop", protocol.Committed, "")), status("r7")}, protocol.Result{Outcome: protocol.Committed, Serving: "r7"}, ""},
		{"it goes on", []turn{{want: planned.want, answer: []protocol.Event{{Error: "ann activates", Code: protocol.CodeBusy}}}}, protocol.Result{}, errUnderWay.Error()},
		{"it never began", []turn{planned, releases(), status("r6")}, protocol.Result{}, "nothing was changed"},
		{"another image of mine", []turn{planned, releases(protocol.Release{ID: "r7", By: "ann@laptop", Digest: "other", Outcome: protocol.Committed}), status("r7")},
			protocol.Result{}, "nothing was changed"},
		{"somebody else was faster", []turn{planned, releases(r("bob@laptop", protocol.Committed, "")), status("r7")}, protocol.Result{}, "nothing was changed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := greet(t.Context(), fakeHost(t, nil, append([]turn{welcome(protocol.Welcome{})}, c.script...)...), "shop")
			if err != nil {
				t.Fatal(err)
			}
			o := &Offer{Plan: protocol.Plan{Release: "r7"}, req: req}
			got, err := o.ended(t.Context(), &Host{Session: s, project: p})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			c.want.Release, c.want.Plan = "r7", o.Plan
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// The image that was brought to a server stays here, whatever happens to those
// of the dev machine, and the next is sent against it.
func TestTheShippedImageIsABase(t *testing.T) {
	p := appWithTool(t)
	target := prod(p)
	first, err := p.Build(t.Context(), runtime.GOARCH, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for range 2 {
		if err := target.shipped().keepOnly(first); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(p.imageDir()); err != nil {
		t.Fatal(err)
	}
	h := &Host{Session: &Session{Welcome: protocol.Welcome{Current: first.Digest.String()}}, project: p, target: target}
	base, err := h.base()
	if err != nil || base == nil || base.digest != first.Digest {
		t.Fatalf("base %v, %v", base, err)
	}
	base.Close()
	if other, err := (&Host{Session: h.Session, project: p}).base(); err != nil || other != nil {
		t.Errorf("the dev machine's base is %v, %v", other, err)
	}

	save(t, p.Config.Dir, "tree/etc/page", "two")
	second, err := p.Build(t.Context(), runtime.GOARCH, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := target.shipped().keepOnly(second); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(target.shipped().dir)
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	name := "shop_" + second.Version() + ".raw"
	if err != nil || !slices.Equal(names, []string{name, name + ".sums"}) {
		t.Errorf("kept %q, %v", names, err)
	}
}

// ssh-keygen asks for pass phrases and touches itself, and hears of Ctrl-C
// before devbox does.
func TestSigningThatIsInterrupted(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "ssh-keygen"), []byte("#!/bin/sh\nkill -INT $$\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	target := prod(&Project{Config: &config.Config{Name: "shop", Dir: bin}})
	target.SigningKey = "ssh-keygen" // any file
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("interrupted")
	time.AfterFunc(200*time.Millisecond, func() { cancel(reason) })
	if _, err := target.sign(ctx, protocol.Activate{Digest: strings.Repeat("a", 64), Settings: target.settings()}); !errors.Is(err, reason) {
		t.Errorf("got %v, want %v", err, reason)
	}
}

func TestSign(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("needs ssh-keygen (package openssh-client)")
	}
	p := &Project{Config: &config.Config{Name: "shop", Dir: t.TempDir()}, Paths: Paths{Home: t.TempDir()}}
	key := filepath.Join(p.Paths.Home, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	target := prod(p)
	a := protocol.Activate{Digest: strings.Repeat("a", 64), Settings: target.settings()}
	if sig, err := target.sign(t.Context(), a); sig != "" || err != nil {
		t.Errorf("without a key: %q, %v", sig, err)
	}
	target.SigningKey = "~/none"
	if _, err := target.sign(t.Context(), a); err == nil || !strings.Contains(hint.Of(err), "targets.prod.signing_key") {
		t.Errorf("a key that is not there: %v (%s)", err, hint.Of(err))
	}
	target.SigningKey = "~/key"
	sig, err := target.sign(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	a.App, a.Signature = "shop", sig
	if err := a.Validate(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "sig")
	if err := os.WriteFile(file, []byte(sig), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func(settings protocol.Settings) error {
		text, err := protocol.SignedText("shop", a.Digest, settings)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("ssh-keygen", "-Y", "check-novalidate", "-n", "devbox", "-s", file)
		cmd.Stdin = bytes.NewReader(text)
		return cmd.Run()
	}
	if err := verify(a.Settings); err != nil {
		t.Errorf("its own text: %v", err)
	}
	a.Settings.Health.Command = "id"
	if verify(a.Settings) == nil {
		t.Error("the signature is good for other settings too")
	}
}
