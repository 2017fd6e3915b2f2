package deploy

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"devbox/internal/remote"

	"golang.org/x/crypto/ssh"
)

// What was right for one connection serves the next; what is asked for again
// during one was wrong.
func TestRemember(t *testing.T) {
	asked := 0
	m := remember(remote.Options{Answer: func(context.Context, remote.Question) (string, error) {
		asked++
		return string(rune('a' + asked)), nil
	}})
	var o remote.Options
	for _, step := range []struct {
		fresh bool
		user  string
		want  string
	}{
		{true, "root", "b"}, {true, "root", "b"}, {false, "root", "c"}, {true, "root", "c"}, {false, "deploy", "d"}, {false, "deploy", "e"}, {true, "deploy", "e"},
	} {
		if step.fresh {
			o = m.options()
		}
		got, err := o.Answer(t.Context(), remote.Question{User: step.user, Host: "h", Prompt: "p"})
		if err != nil || got != step.want {
			t.Errorf("%+v: %q, %v", step, got, err)
		}
	}
	if m.options().Passphrase != nil {
		t.Error("it asks where nobody is to be asked")
	}
}

func TestOffered(t *testing.T) {
	dir := t.TempDir()
	plain, locked := filepath.Join(dir, "plain"), filepath.Join(dir, "locked")
	command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", plain)
	command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", locked)
	var want []string
	for _, f := range []string{plain, locked} {
		text, err := os.ReadFile(f + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(text)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, ssh.FingerprintSHA256(key))
		if err := os.Remove(f + ".pub"); err != nil {
			t.Fatal(err)
		}
	}
	got := offered(remote.Hop{IdentityFiles: []string{plain, filepath.Join(dir, "none"), locked}})
	if len(got) != 2 || ssh.FingerprintSHA256(got[0]) != want[0] || ssh.FingerprintSHA256(got[1]) != want[1] {
		t.Errorf("%v, want %v", got, want)
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
