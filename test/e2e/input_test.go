package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"devbox/internal/protocol"
	"devbox/test/harness"
)

const yaml = "devbox.yaml"

// testBadInput gives devbox what cannot work. Each time the message names the
// place and the cure, and the machine is as before.
func testBadInput(t *testing.T, p *harness.Project) {
	const build = "command: scripts/build.sh"
	for _, bad := range []struct {
		what string
		do   func(*testing.T)
		code int
		says []string
	}{
		{
			what: "unknown and wrong fields, all at once", code: 2,
			do: func(t *testing.T) {
				p.Edit(t, yaml, "health:", "heath:")
				p.Edit(t, yaml, "deadline: 4s", "deadline: soon")
				p.Edit(t, yaml, "  ports: [\"", "  ports: [\"http\", \"")
			},
			says: []string{"devbox.yaml:", "heath", `did you mean "health"`, "machine.ports"},
		},
		{
			what: "a wrong value", code: 2,
			do:   func(t *testing.T) { p.Edit(t, yaml, "deadline: 4s", "deadline: soon") },
			says: []string{"devbox.yaml:", "health.deadline", "soon"},
		},
		{
			what: "an underscore in the name", code: 2,
			do:   func(t *testing.T) { p.Edit(t, yaml, "name: bowl", "name: bowl_api") },
			says: []string{"devbox.yaml:", "name", "bowl_api", "write bowl-api"},
		},
		{
			what: "a tree that cannot be read", code: 1,
			do: func(t *testing.T) {
				path := filepath.Join(p.Dir, "deployment/portable/etc/pipe")
				if err := syscall.Mkfifo(path, 0o644); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.Remove(path) })
			},
			says: []string{"deployment/portable/etc/pipe", "hint: "},
		},
		{
			what: "a tree that is not there", code: 2,
			do:   func(t *testing.T) { p.Edit(t, yaml, "tree: deployment/portable", "tree: deployment/elsewhere") },
			says: []string{"devbox.yaml:", "image.tree", "deployment/elsewhere"},
		},
		{
			what: "a program of another architecture", code: 2,
			do: func(t *testing.T) {
				p.Write(t, "cmd/tiny/main.go", "package main\n\nfunc main() {}\n")
				t.Cleanup(func() { os.RemoveAll(filepath.Join(p.Dir, "cmd/tiny")) })
				p.Edit(t, yaml, build, `command: scripts/build.sh && rm $DEVBOX_STAGE/usr/bin/bowl && GOARCH=arm64 go build -o $DEVBOX_STAGE/usr/bin/bowl ./cmd/tiny`)
			},
			says: []string{"usr/bin/bowl", "arm64", "amd64"},
		},
		{
			what: "a missing program", code: 2,
			do:   func(t *testing.T) { p.Edit(t, yaml, build, build+` && rm $DEVBOX_STAGE/usr/bin/bowl`) },
			says: []string{"bowl.service", "/usr/bin/bowl"},
		},
		{
			what: "a port in use", code: 1,
			do: func(t *testing.T) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
				p.Edit(t, yaml, "  ports: [\"", fmt.Sprintf("  ports: [\"%d:8080\", \"", l.Addr().(*net.TCPAddr).Port))
			},
			says: []string{"in use", "machine.ports"},
		},
		{
			what: "a cloud-config with a mistake", code: 2,
			do: func(t *testing.T) {
				p.Write(t, "cloud-init/server.yaml", p.Read(t, "cloud-init/server.yaml")+"\npakages: [curl]\n")
			},
			says: []string{"cloud-init/server.yaml", "pakages"},
		},
	} {
		t.Run(bad.what, func(t *testing.T) {
			before := p.Status(t)
			undo := p.Undo(t, yaml, "cloud-init/server.yaml")
			t.Cleanup(undo)
			bad.do(t)
			r := p.Run(t, "up")
			undo()
			if r.Code != bad.code {
				t.Errorf("want exit %d: %s", bad.code, r)
			}
			for _, text := range append(bad.says, "error: ") {
				if !strings.Contains(r.Stderr, text) {
					t.Errorf("the message does not say %q: %s", text, r)
				}
			}
			if r.Stdout != "" {
				t.Errorf("it has a result: %s", r.Stdout)
			}
			t.Logf("%s", r.Stderr)
			unchanged(t, p, before)
		})
	}
}

func unchanged(t *testing.T, p *harness.Project, before harness.Status) {
	t.Helper()
	if after := p.Status(t); after.Serving() != before.Serving() || after.Code != 0 {
		t.Errorf("it changed something: exit %d %v\n%s\n%s", after.Code, after.Ports, before.Serving(), after.Serving())
	}
	if got := strings.TrimSpace(p.Get(t, "/version")); got == "" {
		t.Error("the app does not answer any more")
	}
}

// testDiskFull fills the machine's disk, which is a small one.
func testDiskFull(t *testing.T, p *harness.Project) {
	before := p.Status(t)
	// All but 20 MB: an image needs more.
	p.Inside(t, `fallocate -l $(($(stat -f -c "%a*%S" /var) - 20000000)) /var/full`)
	t.Cleanup(func() { p.Run(t, "ssh", "sudo", "rm", "-f", "/var/full") })
	defer p.Undo(t, page)()
	p.Write(t, page, p.Read(t, page)+"<!-- too much -->\n")
	// What devbox keeps ready for the next image is space, too.
	p.Inside(t, `rm -f /var/lib/devbox/bowl/images/.next-* && fallocate -l $(($(stat -f -c "%a*%S" /var) - 20000000)) /var/full.2; true`)
	t.Cleanup(func() { p.Run(t, "ssh", "sudo", "rm", "-f", "/var/full.2") })
	r := p.Run(t, "up")
	if r.Code != 1 || !strings.Contains(r.Stderr, "not enough space in /var/lib/devbox/bowl") || !strings.Contains(r.Stderr, "hint: free some space") {
		t.Errorf("want exit 1 and what there is not enough of: %s", r)
	}
	t.Log(r.Stderr)
	unchanged(t, p, before)

	p.Inside(t, "rm -f /var/full /var/full.2")
	if c := p.Must(t, "up", "--json").Cycle(t); c.Outcome != protocol.Committed {
		t.Errorf("with space again: %s", c.Outcome)
	}
}
