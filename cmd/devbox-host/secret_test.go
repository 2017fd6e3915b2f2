package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"devbox/internal/hint"
)

// What is refused before anything is read or changed. No message repeats what
// could be a value.
func TestSecretRefuses(t *testing.T) {
	root := t.TempDir()
	for _, c := range []struct {
		args, in string
		want     string
		usage    bool
	}{
		{"", "", "secret takes set, list or rm", true},
		{"get bowl key", "", "secret takes set, list or rm", true},
		{"set bowl", "", "secret set takes an APP and a NAME, and a value on stdin alone", true},
		{"set bowl key hunter2", "", "and a value on stdin alone", true},
		{"list", "", "secret list takes an APP", true},
		{"list --force bowl", "", "--force is for secret rm", true},
		{"list ../etc", "", "no app's name", false},
		{"set bowl ../../hunter2", "x", "that is no secret's name", false},
		{"rm bowl hunter2/x", "", "that is no secret's name", false},
		{"rm bowl hunter2", "", "bowl has no secret hunter2", false},
		{"set bowl key", "", "the value is empty", false},
		{"set bowl key", strings.Repeat("x", 64<<10+1), "more than 64 KiB", false},
		{"set --json bowl key", `{"value":"aHVudGVy`, "the value did not come whole; nothing was changed", false},
		{"set --json bowl key", "", "the value did not come whole", false},
		{"set --json bowl key", `{"value":""}`, "the value is empty", false},
		{"set --json bowl key", "hunter2", "the value did not come whole", false},
	} {
		var out strings.Builder
		err := secrets(t.Context(), root, strings.Fields(c.args), strings.NewReader(c.in), &out)
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, errUsage) != c.usage || out.Len() > 0 {
			t.Errorf("secret %s: %v, %q", c.args, err, out.String())
		}
		if err != nil && !strings.HasPrefix(c.args, "rm bowl hunter2") && strings.Contains(err.Error()+hint.Of(err), "hunter2") {
			t.Errorf("secret %s: the message repeats the value: %v", c.args, err)
		}
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The policy decides on secrets as on everything else of an app.
func TestSecretIsTheAppsUsers(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "etc/devbox/policy.conf")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("[App bowl]\nUser=anna\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for user, allowed := range map[string]bool{"anna": true, "bert": false} {
		t.Setenv("SUDO_USER", user)
		var out strings.Builder
		err := secrets(t.Context(), root, []string{"list", "bowl"}, strings.NewReader(""), &out)
		if allowed != (err == nil) || !allowed && exitCode(err) != exitPolicy {
			t.Errorf("%s: %v", user, err)
		}
	}
}

func TestForgetNamesWhatStays(t *testing.T) {
	root := t.TempDir()
	store := filepath.Join(root, "etc/credstore.encrypted")
	if err := os.MkdirAll(store, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bowl.key", "shop.key"} {
		if err := os.WriteFile(filepath.Join(store, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := noteSecrets(root, "bowl", &out); err != nil || out.String() != "its secret key stays: devbox-host secret rm bowl key\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
