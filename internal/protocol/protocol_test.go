package protocol

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

var digest = strings.Repeat("0a", 32)

func TestReadRequest(t *testing.T) {
	settings := Settings{
		Profile: "strict",
		Env:     map[string]map[string]string{"bowl.service": {"GREETING": "100% \"ok\"\n"}},
		Health:  Health{URL: "http://127.0.0.1:8080/health", Deadline: 5 * time.Second},
	}
	tests := []struct {
		name string
		line string
		want Request
		err  string // a part of the error; "" wants want
	}{
		{"hello", `{"hello":{"protocol":1,"app":"bowl"}}`, Request{Hello: &Hello{1, "bowl"}}, ""},
		{"receive", `{"receive":{"app":"bowl","digest":"` + digest + `","size":8192}}`,
			Request{Receive: &Receive{App: "bowl", Digest: digest, Size: 8192}}, ""},
		{"activate", `{"activate":{"app":"bowl","digest":"` + digest + `","by":"anna@laptop","settings":{"profile":"strict",` +
			`"env":{"bowl.service":{"GREETING":"100% \"ok\"\n"}},"health":{"url":"http://127.0.0.1:8080/health","deadline":5000000000}}}}`,
			Request{Activate: &Activate{App: "bowl", Digest: digest, By: "anna@laptop", Settings: settings}}, ""},
		{"forget", `{"forget":{"app":"bowl"}}`, Request{Forget: &Forget{"bowl"}}, ""},
		{"data", `{"data":{"app":"bowl"}}`, Request{Data: &DataOf{"bowl"}}, ""},
		{"check", activateWith(`"state":{"check":["/usr/bin/bowl","check","$X %n"]}`), Request{Activate: &Activate{App: "bowl", Digest: digest,
			Settings: Settings{State: State{Check: []string{"/usr/bin/bowl", "check", "$X %n"}}}}}, ""},

		{"nothing", `{}`, Request{}, "has 0"},
		{"two", `{"status":{"app":"a"},"recover":{"app":"a"}}`, Request{}, "has 2"},
		{"unknown request", `{"reboot":{}}`, Request{}, "unknown field"},
		{"unknown field", `{"status":{"app":"a","path":"/etc"}}`, Request{}, "unknown field"},
		{"two values", `{"status":{"app":"a"}} {}`, Request{}, "more than one"},
		{"half a value", `{"status":`, Request{}, "JSON"},
		{"empty line", ``, Request{}, "JSON"},
		{"a list", `[]`, Request{}, "cannot unmarshal"},
		{"path as app", `{"status":{"app":"../etc"}}`, Request{}, "no app's name"},
		{"app in capitals", `{"hello":{"protocol":1,"app":"Bowl"}}`, Request{}, "no app's name"},
		{"app with newline", `{"hello":{"protocol":1,"app":"bowl\n"}}`, Request{}, "no app's name"},
		{"app too long", `{"hello":{"protocol":1,"app":"` + strings.Repeat("b", 33) + `"}}`, Request{}, "no app's name"},
		{"short digest", `{"receive":{"app":"bowl","digest":"0a","size":4096}}`, Request{}, "no digest"},
		{"digest in capitals", `{"receive":{"app":"bowl","digest":"` + strings.ToUpper(digest) + `","size":4096}}`, Request{}, "no digest"},
		{"base is a path", `{"receive":{"app":"bowl","digest":"` + digest + `","size":4096,"base":"../x"}}`, Request{}, "base"},
		{"no size", `{"receive":{"app":"bowl","digest":"` + digest + `"}}`, Request{}, "size"},
		{"odd size", `{"receive":{"app":"bowl","digest":"` + digest + `","size":4097}}`, Request{}, "multiple of 4096"},
		{"huge size", `{"receive":{"app":"bowl","digest":"` + digest + `","size":9223372036854775807}}`, Request{}, "size"},
		{"control characters in by", `{"activate":{"app":"bowl","digest":"` + digest + `","settings":{"health":{"deadline":0}},"by":"\u001b[2J"}}`,
			Request{}, "cannot be printed"},
		{"profile is a path", activateWith(`"profile":"../x"`), Request{}, "profile"},
		{"unit of another app", activateWith(`"env":{"sshd.service":{"A":"b"}}`), Request{}, "no unit of bowl"},
		{"unit of another app with the same beginning", activateWith(`"env":{"bowling.service":{"A":"b"}}`), Request{}, "no unit of bowl"},
		{"unit is a path", activateWith(`"env":{"bowl-/../x.service":{"A":"b"}}`), Request{}, "no unit of bowl"},
		{"environment of a socket", activateWith(`"env":{"bowl.socket":{"A":"b"}}`), Request{}, "no service"},
		{"bad variable", activateWith(`"env":{"bowl.service":{"A B":"c"}}`), Request{}, "no variable's name"},
		{"our variable", activateWith(`"env":{"bowl.service":{"DEVBOX_RELEASE":"c"}}`), Request{}, "set by devbox"},
		{"NUL in a value", activateWith(`"env":{"bowl.service":{"A":"\u0000"}}`), Request{}, "NUL"},
		{"health file URL", activateWith(`"health":{"url":"file:///etc/shadow","deadline":1}`), Request{}, "health URL"},
		{"health URL and command", activateWith(`"health":{"url":"http://a/","command":"true","deadline":1}`), Request{}, "one of them"},
		{"endless deadline", activateWith(`"health":{"deadline":900000000000000}`), Request{}, "deadline"},
		{"data of a path", `{"data":{"app":"../x"}}`, Request{}, "no app's name"},
		{"a command of its own", `{"data":{"app":"bowl","check":["/bin/sh"]}}`, Request{}, "unknown field"},
		{"data without a release", `{"activate":{"app":"bowl","digest":"` + digest + `","with_data":true,"settings":{"health":{"deadline":0}}}}`, Request{}, "history alone"},
		{"a release with its data", `{"activate":{"app":"bowl","release":"r3","with_data":true,"settings":{"health":{"deadline":0}}}}`,
			Request{Activate: &Activate{App: "bowl", Release: "r3", WithData: true}}, ""},
		{"snapshots at other times", activateWith(`"state":{"snapshot":"always"}`), Request{}, "before-activate"},
		{"no check", activateWith(`"state":{"check":[]}`), Request{}, "no program"},
		{"check in no folder", activateWith(`"state":{"check":["bowl"]}`), Request{}, "path of a program"},
		{"check by a detour", activateWith(`"state":{"check":["/usr/../bin/sh"]}`), Request{}, "path of a program"},
		{"control characters in a check", activateWith(`"state":{"check":["/bin/x","a\nb"]}`), Request{}, "control characters"},
		{"endless check", activateWith(`"state":{"check":["/bin/x"` + strings.Repeat(`,"y"`, maxArgs) + `]}`), Request{}, "words"},
		{"long check", activateWith(`"state":{"check":["/bin/x","` + strings.Repeat("y", maxCommand) + `"]}`), Request{}, "words"},
		{"negative deadline", activateWith(`"health":{"deadline":-1}`), Request{}, "deadline"},
		{"too long", `{"status":{"app":"` + strings.Repeat("a", MaxLine) + `"}}`, Request{}, ErrTooLong.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := bufio.NewReader(strings.NewReader(tt.line + "\nwhat follows"))
			got, err := ReadRequest(r)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Fatalf("got %+v, %v", got, err)
			}
			if rest, _ := io.ReadAll(r); string(rest) != "what follows" {
				t.Errorf("it read past its line, left is %q", rest)
			}
		})
	}
}

func activateWith(settings string) string {
	if !strings.Contains(settings, `"health"`) {
		settings += `,"health":{"deadline":0}`
	}
	return `{"activate":{"app":"bowl","digest":"` + digest + `","settings":{` + settings + `}}}`
}

func TestReadRequestAtTheEnd(t *testing.T) {
	if _, err := ReadRequest(bufio.NewReader(strings.NewReader(""))); !errors.Is(err, io.EOF) {
		t.Errorf("between requests: %v", err)
	}
	if _, err := ReadRequest(bufio.NewReader(strings.NewReader(`{"hello"`))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("within a request: %v", err)
	}
}

func TestEventsComeBackAsTheyWere(t *testing.T) {
	want := Event{Result: &Result{Outcome: RolledBack, Release: "r2", Serving: "r1",
		Plan:    Plan{Reload: true, Restart: []UnitWhy{{"bowl.service", "unit file changed"}}, Changed: []FileEdit{{"usr/bin/bowl", "changed"}}},
		Phases:  []Phase{{"switch", time.Millisecond}},
		Failure: &Failure{Unit: "bowl.service", Cause: "exited with status 1", Log: []string{"a <b>"}},
	}, Done: true}
	var b bytes.Buffer
	if err := WriteEvent(&b, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadEvent(bufio.NewReader(&b))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A result must arrive, however long the log that comes with it.
func TestLongEventsAreShortened(t *testing.T) {
	long := Event{Result: &Result{Outcome: Failed, Failure: &Failure{Cause: "c", Log: []string{strings.Repeat("x", MaxLine)}}}, Done: true}
	var b bytes.Buffer
	if err := WriteEvent(&b, long); err != nil {
		t.Fatal(err)
	}
	got, err := ReadEvent(bufio.NewReader(&b))
	if err != nil || got.Result == nil || got.Result.Failure.Cause != "c" || !got.Done {
		t.Errorf("got %+v, %v", got, err)
	}
	if len(long.Result.Failure.Log) != 1 {
		t.Error("the caller's event was changed")
	}
	b.Reset()
	big := Settings{Profile: "strict", Env: map[string]map[string]string{"bowl.service": {"A": strings.Repeat("x", MaxLine)}}}
	if err := WriteEvent(&b, Event{Releases: &[]Release{{ID: "r1", Settings: big, Signature: "s", Cause: "c"}}}); err != nil {
		t.Fatal(err)
	}
	if got, err = ReadEvent(bufio.NewReader(&b)); err != nil || !reflect.DeepEqual(*got.Releases, []Release{{ID: "r1", Cause: "c"}}) {
		t.Errorf("releases: %+v, %v", got.Releases, err)
	}
	b.Reset()
	if err := WriteEvent(&b, Event{Status: &Status{Current: &Release{ID: "r1", Settings: big}}}); err != nil {
		t.Fatal(err)
	}
	if got, err = ReadEvent(bufio.NewReader(&b)); err != nil || got.Status.Current.ID != "r1" || got.Status.Current.Settings.Profile != "strict" || len(big.Env) != 1 {
		t.Errorf("status: %+v, %v", got.Status, err)
	}
}

// What a release may have run is signed with it. What was signed before there
// was a State stays signed.
func TestWhatIsSigned(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range []State{{}, {Snapshot: BeforeActivate}, {Check: []string{"/bin/x"}}, {Check: []string{"/bin/x", "y"}}} {
		text, err := SignedText("bowl", digest, Settings{State: s})
		if err != nil || seen[string(text)] {
			t.Errorf("%+v: %q, %v", s, text, err)
		}
		seen[string(text)] = true
	}
	const before = "settings ff6f024bce19acf42ed91403f5cdab9f50344551d500b5e068c6e3ec7015da76"
	if text, err := SignedText("bowl", digest, Settings{Profile: "strict", Trial: 1}); err != nil || !strings.Contains(string(text), before) {
		t.Errorf("%s, %v", text, err)
	}
}

func FuzzReadRequest(f *testing.F) {
	for _, s := range []string{
		`{"hello":{"protocol":1,"app":"bowl"}}`, `{"receive":{"app":"bowl","digest":"` + digest + `","size":8192,"base":"` + digest + `"}}`,
		activateWith(`"env":{"bowl.service":{"A":"b"}}`), activateWith(`"health":{"url":"http://[::1]:80/","deadline":1}`), `{}`,
		`{"releases":{"app":"bowl"}}`, `{"data":{"app":"bowl"}}`, activateWith(`"state":{"check":["/usr/bin/bowl","check"]}`), `{"activate":{"app":"bowl","release":"r12","settings":{"health":{"deadline":0}},"keep":5}}`,
		`{"activate":{"app":"bowl","release":"previous","settings":{"health":{"deadline":0}}}}`,
		`{"activate":{"app":"bowl","digest":"` + digest + `","signature":"-----BEGIN SSH SIGNATURE-----\nU1NI","settings":{"trial":1,"health":{"url":"http://x/","expect":"${DEVBOX_VERSION}","deadline":1}}}}`, "\x00", `{"a":`,
	} {
		f.Add([]byte(s + "\n"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		req, err := ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		// What is accepted cannot reach outside of the app's own names.
		for _, app := range []string{appOf(req)} {
			if app == "" || strings.ContainsAny(app, "/._\n ") || len(app) > maxName {
				t.Errorf("app %q was accepted", app)
			}
		}
		if a := req.Activate; a != nil {
			if a.Release != "" && strings.ContainsAny(a.Release, "/.\n ") || len(a.Signature) > maxSignature {
				t.Errorf("%+v was accepted", a)
			}
			if _, err := SignedText(a.App, a.Digest, a.Settings); err != nil {
				t.Errorf("%+v cannot be signed: %v", a, err)
			}
			for unit := range a.Settings.Env {
				if !strings.HasPrefix(unit, a.App) || strings.ContainsAny(unit, "/\n \x00") {
					t.Errorf("unit %q was accepted", unit)
				}
			}
		}
	})
}

func appOf(r Request) string {
	switch {
	case r.Hello != nil:
		return r.Hello.App
	case r.Receive != nil:
		return r.Receive.App
	case r.Activate != nil:
		return r.Activate.App
	case r.Status != nil:
		return r.Status.App
	case r.Releases != nil:
		return r.Releases.App
	case r.Data != nil:
		return r.Data.App
	case r.Recover != nil:
		return r.Recover.App
	case r.Forget != nil:
		return r.Forget.App
	}
	return ""
}

func FuzzReadEvent(f *testing.F) {
	f.Add([]byte(`{"welcome":{"protocol":1,"build":"x","arch":"arm64"},"done":true}` + "\n"))
	f.Add([]byte(`{"phase":{"name":"switch","took":1}}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ReadEvent(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := WriteEvent(&b, e); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		}
	})
}
