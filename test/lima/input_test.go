package lima

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"devbox/test/harness"
)

// TestBadInput gives devbox what Lima cannot work with. Each message names the
// place and the cure, and nothing is made.
func TestBadInput(t *testing.T) {
	p := project(t)
	p.Edit(t, "devbox.yaml", "machine:\n", "machine:\n  driver: lima\n")
	path := os.Getenv("PATH")
	for _, bad := range []struct {
		what string
		do   func(*testing.T)
		says []string
	}{
		{
			what: "a base image with the wrong digest",
			do: func(t *testing.T) {
				p.Write(t, "base.qcow2", "not the image that the digest is of")
				p.Edit(t, "devbox.yaml", "  driver: lima\n", "  driver: lima\n  base:\n"+image("amd64")+image("arm64"))
			},
			says: []string{"machine.base.", "sha256:e3b0c442", "digest"},
		},
		{
			what: "a limactl that is too old",
			do: func(t *testing.T) {
				bin := filepath.Join(p.Home, "old")
				p.Write(t, "../old/limactl", "#!/bin/sh\necho limactl version 0.23.2\n")
				if err := os.Chmod(filepath.Join(bin, "limactl"), 0o755); err != nil {
					t.Fatal(err)
				}
				// An empty cache: the limactl that devbox built would do instead.
				set(p, "PATH", bin+":"+path)
				set(p, "XDG_CACHE_HOME", filepath.Join(p.Home, "empty"))
			},
			says: []string{"limactl 0.23.2 is too old", "1.0.0 or newer", "devbox doctor --fix"},
		},
		{
			what: "a name too long for Lima's sockets",
			do: func(t *testing.T) {
				set(p, "LIMA_HOME", filepath.Join(p.Home, strings.Repeat("long", 20)))
			},
			says: []string{`machine name "bowl" is`, "too long for the sockets", "export LIMA_HOME="},
		},
	} {
		t.Run(bad.what, func(t *testing.T) {
			undo, env := p.Undo(t, "devbox.yaml"), p.Env
			bad.do(t)
			r := p.Run(t, "up")
			made, _ := filepath.Glob(filepath.Join(p.Home, "*", "bowl", "lima.yaml"))
			undo()
			p.Env = env
			if r.Code != 1 {
				t.Errorf("want exit 1: %s", r)
			}
			for _, text := range append(bad.says, "error: ", "hint: ") {
				if !strings.Contains(r.Stderr, text) {
					t.Errorf("the message does not say %q: %s", text, r)
				}
			}
			t.Log(r.Stderr)
			if len(made) > 0 {
				t.Errorf("it made %v", made)
			}
			if s := p.Status(t); s.Machine.State != "missing" {
				t.Errorf("the machine is %s", s.Machine.State)
			}
		})
	}
}

// image is an entry of machine.base with the digest of an empty file.
func image(arch string) string {
	return "    " + arch + ":\n      url: base.qcow2\n      digest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
}

// set gives a variable of devbox's environment another value.
func set(p *harness.Project, name, value string) {
	env := []string{name + "=" + value}
	for _, v := range p.Env {
		if !strings.HasPrefix(v, name+"=") {
			env = append(env, v)
		}
	}
	p.Env = env
}
