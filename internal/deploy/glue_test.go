package deploy

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"devbox/internal/config"
	"devbox/internal/image"
	"devbox/internal/protocol"
	"devbox/internal/remote/sshtest"
	"devbox/internal/ui"
)

// The image has what the build made, image.tree over that, and image.files
// over both, with their modes.
func TestImageFilesGoIntoTheImage(t *testing.T) {
	p := appWithTool(t)
	save(t, p.Config.Dir, "one.conf", "one")
	if err := os.MkdirAll(filepath.Join(p.Config.Dir, "more/below"), 0o755); err != nil {
		t.Fatal(err)
	}
	save(t, p.Config.Dir, "more/below/two", "two")
	p.Config.Image.Files = []config.File{
		{From: "one.conf", To: "/etc/page", Mode: 0o640},
		{From: "more", To: "/usr/share/more"},
	}
	p.Config.Build.Command = `mkdir -p "$DEVBOX_STAGE/etc" && echo built | tee "$DEVBOX_STAGE/etc/page" >"$DEVBOX_STAGE/etc/built"`
	img, err := image.Open(built(t, p))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	for name, want := range map[string]struct {
		text string
		mode fs.FileMode
	}{"etc/built": {"built\n", 0o644}, "etc/page": {"one", 0o640}, "usr/share/more/below/two": {"two", 0o644}} {
		text, err := fs.ReadFile(img.FS(), name)
		if err != nil {
			t.Error(err)
			continue
		}
		if info, err := fs.Stat(img.FS(), name); err != nil || string(text) != want.text || info.Mode() != want.mode {
			t.Errorf("%s is %q, %v, %v; want %+v", name, text, info.Mode(), err, want)
		}
	}
}

func TestSettingsReachTheHost(t *testing.T) {
	env := map[string]map[string]string{"shop.service": {"A": "b"}}
	p := &Project{Config: &config.Config{
		Image:  config.Image{Profile: "strict"},
		Env:    env,
		Health: config.Health{URL: "http://localhost/healthz", Command: "test -e /ready", Deadline: config.Duration(4 * time.Second)},
		State:  config.State{Check: []string{"/bin/x"}, Snapshot: "before-activate"}, // of servers alone
	}}
	for slow, deadline := range map[bool]time.Duration{false: 4 * time.Second, true: 48 * time.Second} {
		want := protocol.Settings{Profile: "strict", Env: env,
			Health: protocol.Health{URL: "http://localhost/healthz", Command: "test -e /ready", Deadline: deadline},
			State:  protocol.State{Check: []string{"/bin/x"}}}
		if got := p.settings(slow); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// A static program for the host comes of the build whatever the caller builds for.
func TestBuildIsForTheHost(t *testing.T) {
	for name, value := range map[string]string{"GOOS": "plan9", "GOARCH": "mips", "CGO_ENABLED": "1", "DEVBOX_STAGE": "/elsewhere"} {
		t.Setenv(name, value)
	}
	p := appWithTool(t)
	p.Config.Build.Command = `echo "$GOOS $GOARCH $CGO_ENABLED $DEVBOX_CACHE" >"$DEVBOX_STAGE/seen"`
	stage, err := p.runBuild(t.Context(), "arm64")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(stage, "seen")); string(got) != "linux arm64 0 "+p.Paths.Cache+"\n" {
		t.Errorf("it saw %q", got)
	}
}

// The build of a devbox that was killed goes on, into a folder that is no
// longer anybody's.
func TestAnotherBuildStillWritesIntoItsStage(t *testing.T) {
	p := appWithTool(t)
	p.Config.Build.Command = `echo one >"$DEVBOX_STAGE/file"`
	orphans, err := p.runBuild(t.Context(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	p.Config.Build.Command = fmt.Sprintf(`mkdir -p %[1]s && echo orphan >%[1]s/late; echo two >"$DEVBOX_STAGE/file"`, orphans)
	stage, err := p.runBuild(t.Context(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := filepath.Glob(stage + "/*"); err != nil || !reflect.DeepEqual(found, []string{stage + "/file"}) {
		t.Errorf("the stage has %q, %v", found, err)
	}
	if _, err := p.runBuild(t.Context(), "amd64"); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(p.stages() + "/*"); err != nil || len(left) != 2 { // this one, and what the command makes again
		t.Errorf("left %q, %v", left, err)
	}
}

func TestArchitectureIsTheHosts(t *testing.T) {
	for machine, want := range map[string]string{"x86_64": "amd64", "aarch64": "arm64", "riscv64": "", "armv7l": "", "": ""} {
		if got, err := goArch(machine); got != want || (err == nil) != (want != "") || err != nil && !strings.Contains(err.Error(), "x86_64 and aarch64") {
			t.Errorf("%q is %q, %v", machine, got, err)
		}
	}
	m := &deaf{server: sshtest.Start(t)}
	m.port = m.server.Port
	conn, _, err := (&Project{Paths: Paths{Home: t.TempDir()}}).logIn(t.Context(), ui.New(&bytes.Buffer{}, &bytes.Buffer{}, ui.Options{}), m)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := askArch(t.Context(), conn); err != nil || got != runtime.GOARCH {
		t.Errorf("this host says that it is %q, %v", got, err)
	}
}

// The commit that an image was built from goes to the host with it.
func TestRevisionGoesIntoTheHistory(t *testing.T) {
	p := appWithTool(t)
	for _, args := range [][]string{
		{"init", "--quiet"}, {"add", "."},
		{"-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=first"},
	} {
		if out, err := exec.Command("git", append([]string{"-C", p.Config.Dir}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v: %s", args, err, out)
		}
	}
	head, err := exec.Command("git", "-C", p.Config.Dir, "rev-parse", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, mark := range []string{"", "-dirty"} {
		a, err := p.Build(t.Context(), runtime.GOARCH, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		want := string(head[:12]) + mark
		s, err := greet(t.Context(), fakeHost(t, nil, welcome(protocol.Welcome{Images: []string{a.Digest.String()}}), turn{
			want:   protocol.Request{Activate: &protocol.Activate{App: "shop", Digest: a.Digest.String(), Settings: p.settings(false), By: whoAmI(), Source: want}},
			answer: []protocol.Event{{Result: &protocol.Result{Outcome: protocol.Committed}, Done: true}},
		}), "shop")
		if err != nil {
			t.Fatal(err)
		}
		h := &Host{Session: s, project: p}
		if err := h.Deliver(context.Background(), a, &Cycle{}, t.Logf); err != nil {
			t.Fatal(err)
		}
		save(t, p.Config.Dir, "tree/etc/page", "not committed")
	}
}

func TestBuildSquashfs(t *testing.T) {
	if _, err := exec.LookPath("mksquashfs"); err != nil {
		t.Skip("needs mksquashfs (package squashfs-tools)")
	}
	p := appWithTool(t)
	p.Config.Image.Format = "squashfs"
	first := built(t, p)
	// There is no packing over a squashfs image.
	if err := p.prepareNext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(p.imageDir(), nextPrefix+"*")); len(left) > 0 {
		t.Errorf("prepared %q", left)
	}
	save(t, p.Config.Dir, "tree/etc/page", "two")
	second := built(t, p)
	for path, want := range map[string]string{first: "one", second: "two"} {
		img, err := image.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if page, err := fs.ReadFile(img.FS(), "etc/page"); err != nil || string(page) != want || img.Format != image.Squashfs {
			t.Errorf("%s is of %s, its page %q, %v", path, img.Format, page, err)
		}
		img.Close()
	}
}
