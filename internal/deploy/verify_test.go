package deploy

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"devbox/internal/protocol"
	"devbox/internal/ui"
)

// A build warns of what systemd says of the units, asks it once for the same
// units, and not at all if it is older than the hosts' and knows less.
func TestVerifyUnits(t *testing.T) {
	p := appWithTool(t)
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	calls := filepath.Join(bin, "calls")
	systemd := func(version string) {
		t.Helper()
		script := "#!/bin/sh\n[ \"$1\" = --version ] && { echo 'systemd " + version + "'; exit; }\necho verify >>" + calls +
			"\necho \"${2#--root=}/usr/lib/systemd/system/shop.service:2: Unknown key 'Foo' in section [Service], ignoring.\" >&2\n"
		if err := os.WriteFile(filepath.Join(bin, "systemd-analyze"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, version, page, description string
		warns                            bool
		asked                            int // in all
	}{
		{"an older systemd", "252 (252.39-1~deb12u1)", "one", "a", false, 0},
		{"the hosts'", "257 (257.8-1~deb13u2)", "one", "a", true, 1},
		{"another page", "257 (257.8-1~deb13u2)", "two", "a", true, 1},
		{"another unit file", "259~rc1 (259~rc1-1)", "two", "b", true, 2},
	} {
		systemd(c.version)
		save(t, p.Config.Dir, "tree/etc/page", c.page)
		save(t, p.Config.Dir, "tree/usr/lib/systemd/system/shop.service", "[Service]\nExecStart=/usr/bin/tool\nFoo="+c.description+"\n")
		a, err := p.Build(t.Context(), runtime.GOARCH, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		found := p.Verify(t.Context(), a)
		if warns := len(found) == 1 && found[0].Warning && strings.Contains(found[0].String(), "shop.service:2: Unknown key 'Foo'"); warns != c.warns || len(found) > 1 {
			t.Errorf("%s: found %+v", c.name, found)
		}
		b, _ := os.ReadFile(calls)
		if n := strings.Count(string(b), "verify"); n != c.asked {
			t.Errorf("%s: asked %d times in all, want %d", c.name, n, c.asked)
		}
		if said := released(t, p, a); strings.Contains(said, "warning: usr/lib/systemd/system/shop.service:2: Unknown key") != c.warns {
			t.Errorf("%s: up says %q", c.name, said)
		}
	}
}

// released is what a person hears when p, which was built as a, becomes a release.
func released(t *testing.T, p *Project, a *Artifact) string {
	t.Helper()
	s, err := greet(t.Context(), fakeHost(t, nil, welcome(protocol.Welcome{Arch: runtime.GOARCH, Images: []string{a.Digest.String()}}), turn{
		want:   protocol.Request{Activate: &protocol.Activate{App: "shop", Digest: a.Digest.String(), Settings: p.settings(false), By: whoAmI()}},
		answer: []protocol.Event{{Result: &protocol.Result{Outcome: protocol.Committed}, Done: true}},
	}), "shop")
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if _, err := p.Release(t.Context(), ui.New(&said, &said, ui.Options{}), &Host{Session: s, project: p}); err != nil {
		t.Fatal(err)
	}
	return said.String()
}
