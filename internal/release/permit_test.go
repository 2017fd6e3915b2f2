package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"devbox/internal/hint"
	"devbox/internal/policy"
	"devbox/internal/protocol"
)

// wantRefusal wants the policy's no, with what to do about it.
func wantRefusal(t *testing.T, what string, err error, part string) {
	t.Helper()
	var coded *CodedError
	if !errors.As(err, &coded) || coded.Code != protocol.CodePolicy || !strings.Contains(err.Error(), part) || !strings.Contains(hint.Of(err), "/etc/devbox/") {
		t.Errorf("%s: %v (hint %q), want a refusal with %q", what, err, hint.Of(err), part)
	}
}

// Nothing of an app is told or changed for a user who may not touch it, or if
// nobody knows who may.
func TestPolicyOnUsers(t *testing.T) {
	f, h, one := first(t)
	f.write(filepath.Join(stateDir, "shop/state.json"), "{}")
	all := map[string]func() error{
		"hello":    func() error { _, err := h.Hello(context.Background(), "bowl"); return err },
		"welcome":  func() error { _, err := h.Welcome(context.Background(), "bowl"); return err },
		"status":   func() error { _, err := h.Status(context.Background(), "bowl"); return err },
		"releases": func() error { _, err := h.Releases(context.Background(), "bowl"); return err },
		"units":    func() error { _, err := h.Units("bowl"); return err },
		"a unit":   func() error { return h.OwnUnit("bowl", "bowl.service") },
		"recover":  func() error { _, err := h.Recover(context.Background(), "bowl", Online); return err },
		"forget":   func() error { return h.Forget(context.Background(), "bowl") },
		"receive": func() error {
			return h.Receive(context.Background(), protocol.Receive{App: "bowl", Digest: one, Size: 4096}, strings.NewReader(""), nil)
		},
		"activate": func() error { _, err := f.request(h, protocol.Activate{Digest: one, All: true}); return err },
	}
	for _, tt := range []struct{ user, policy, err string }{
		{"carl", "[App bowl]\nUser=anna\n", "the user carl may not touch the app bowl"},
		{"carl", "[Policy]\nAllowedApps=shop\n", "this host is not for the app bowl"},
		{"carl", "[App bowl]\nUsers=carl\n", "this host's policy cannot be followed"},
	} {
		f.write(policy.File, tt.policy)
		h.user, f.did = tt.user, nil
		for name, ask := range all {
			wantRefusal(t, name, ask(), tt.err)
		}
		if len(f.did) > 0 {
			t.Errorf("%s: did %v", tt.err, f.did)
		}
		events := talk(t, h, fmt.Sprintf(`{"hello":{"protocol":%d,"app":"bowl"}}`, protocol.Version)+"\n"+`{"status":{"app":"bowl"}}`+"\n")
		if events[0].Code != protocol.CodePolicy || events[0].Hint == "" || events[1].Error == "" {
			t.Errorf("%s: %+v", tt.err, events)
		}
	}
	if apps, err := h.Apps(); err == nil {
		t.Errorf("with a policy that cannot be followed: %v", apps)
	}
	// root puts things right also then, and starts nothing new.
	h.user = "root"
	for name, ask := range all {
		switch name {
		case "activate":
			wantRefusal(t, "root: activate", ask(), "cannot be followed")
		case "forget", "receive":
		default:
			if err := ask(); err != nil {
				t.Errorf("root: %s: %v", name, err)
			}
		}
	}
	f.write(policy.File, "[App bowl]\nUser=anna\n")
	for user, want := range map[string][]string{"carl": {"shop"}, "anna": {"bowl", "shop"}, "root": {"bowl", "shop"}} {
		h.user = user
		if apps, err := h.Apps(); err != nil || !slices.Equal(apps, want) {
			t.Errorf("%s sees %v, %v, want %v", user, apps, err, want)
		}
	}
	h.user = "anna"
	if r, err := f.request(h, protocol.Activate{Digest: one, All: true}); err != nil || r.Outcome != protocol.Committed {
		t.Errorf("anna: %+v, %v", r, err)
	}
}

func TestPolicyOnProfiles(t *testing.T) {
	f, h, _ := first(t)
	two := f.put(h, "two", unitsTwo)
	trusted := protocol.Settings{Profile: "trusted"}
	_, err := f.activate(h, two, trusted)
	wantRefusal(t, "without a policy", err, "does not allow bowl the profile trusted")
	f.write(policy.File, "[App bowl]\nAllowedProfiles=trusted\n")
	if _, err := f.activate(h, two, trusted); err == nil || !strings.Contains(err.Error(), "this host has no portable profile") {
		t.Errorf("allowed, and not on this host: %v", err)
	}
	_, err = f.request(h, protocol.Activate{Release: "r1", All: true})
	wantRefusal(t, "a release of before the policy", err, "the profile default: it allows trusted")
}

// signer makes a key that the policy of f's host knows as anna@example.com.
func (f *fake) signer() (sign func(digest string, s protocol.Settings) string) {
	f.t.Helper()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		f.t.Skip("needs ssh-keygen")
	}
	key := filepath.Join(f.t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("etc/devbox/allowed_signers", "anna@example.com namespaces=\"devbox\" "+string(public))
	f.write(policy.File, "[Policy]\nAllowedSigners=/etc/devbox/allowed_signers\n")
	return func(digest string, s protocol.Settings) string { return signWith(f.t, key, "bowl", digest, s) }
}

func signWith(t *testing.T, key, app, digest string, s protocol.Settings) string {
	t.Helper()
	text, err := protocol.SignedText(app, digest, s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ssh-keygen", "-Y", "sign", "-n", "devbox", "-f", key)
	cmd.Stdin = strings.NewReader(string(text))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// Where the policy asks for signatures, what is not signed does not run: not a
// new release, not an old one, and no other settings or image than were signed.
func TestPolicyOnSignatures(t *testing.T) {
	f, h, one := first(t) // r1 is of before the policy
	sign := f.signer()
	two := f.put(h, "two", unitsTwo)
	hello := env("hello")
	signature := sign(two, hello)
	for _, tt := range []struct {
		name string
		req  protocol.Activate
		err  string
	}{
		{"no signature", protocol.Activate{Digest: two, Settings: hello}, "runs only what is signed"},
		{"a dry run without one", protocol.Activate{Digest: two, Settings: hello, DryRun: true}, "runs only what is signed"},
		{"garbage", protocol.Activate{Digest: two, Settings: hello, Signature: "x"}, "no allowed signer"},
		{"other settings", protocol.Activate{Digest: two, Settings: env("bye"), Signature: signature}, "not one of this app, image and settings"},
		{"another image", protocol.Activate{Digest: one, Settings: hello, Signature: signature}, "not one of this app, image and settings"},
		{"what runs, unsigned", protocol.Activate{Digest: one}, "runs only what is signed"},
		{"an image that is not there", protocol.Activate{Digest: digestOf("ab")}, "runs only what is signed"},
	} {
		_, err := f.request(h, tt.req)
		wantRefusal(t, tt.name, err, tt.err)
		if len(f.did) > 0 {
			t.Errorf("%s: did %v", tt.name, f.did)
		}
	}
	if r, err := f.request(h, protocol.Activate{Digest: two, Settings: hello, Signature: signature}); err != nil || r.Outcome != protocol.Committed {
		t.Fatalf("signed: %+v, %v", r, err)
	}
	_, err := f.request(h, protocol.Activate{Release: "r1"})
	wantRefusal(t, "back to one that is not signed", err, "runs only what is signed")

	three := f.put(h, "three", unitsOne)
	if r, err := f.request(h, protocol.Activate{Digest: three, Signature: sign(three, protocol.Settings{})}); err != nil || r.Outcome != protocol.Committed {
		t.Fatalf("signed: %+v, %v", r, err)
	}
	if r, err := f.request(h, protocol.Activate{Release: "r2"}); err != nil || r.Outcome != protocol.Committed {
		t.Fatalf("back to a signed one: %+v, %v", r, err)
	}
	list, err := h.Releases(context.Background(), "bowl")
	if err != nil || list[0].SignedBy != "anna@example.com" || list[0].Signature != signature || list[len(list)-1].SignedBy != "" {
		t.Errorf("history %+v, %v", list, err)
	}

	// What runs unsigned, from before the policy, is signed later.
	must(t, os.Rename(filepath.Join(f.root, policy.File), filepath.Join(f.root, "policy")))
	four := f.commit(h, "four", 0)
	must(t, os.Rename(filepath.Join(f.root, "policy"), filepath.Join(f.root, policy.File)))
	if r, err := f.request(h, protocol.Activate{Digest: four, Signature: sign(four, protocol.Settings{})}); err != nil || r.Outcome != protocol.Unchanged || len(f.did) > 0 {
		t.Errorf("signed later: %+v, %v, did %v", r, err, f.did)
	}
	if list, err := h.Releases(context.Background(), "bowl"); err != nil || list[0].SignedBy != "anna@example.com" {
		t.Errorf("history %+v, %v", list[0], err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
