package vm

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"golang.org/x/crypto/ssh"

	"devbox/internal/hint"
	template "devbox/templates/lima"
)

func TestParseLimaVersion(t *testing.T) {
	tests := []struct {
		out  string
		want limaVersion
		err  string
	}{
		{"limactl version 1.2.3\n", limaVersion{1, 2, 3}, ""},
		{"limactl version 2.0.0-beta.1", limaVersion{2, 0, 0}, ""},
		{"limactl version v2.2", limaVersion{2, 2, 0}, ""},
		{"limactl version 1.0.0-12-gabcdef.m", limaVersion{1, 0, 0}, ""},
		{"limactl version <unknown>", limaVersion{}, ""},
		{"limactl version 0.23.2", limaVersion{0, 23, 2}, "0.23.2 is too old"},
		{"colima version 1.0", limaVersion{}, "not a version of limactl"},
		{"", limaVersion{}, "not a version of limactl"},
	}
	for _, tt := range tests {
		got, err := parseLimaVersion(tt.out)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("parseLimaVersion(%q) = %v, %v; want %v, %q", tt.out, got, err, tt.want, tt.err)
		}
	}
}

func TestCheckLimaPath(t *testing.T) {
	home := strings.Repeat("h", 70)
	tests := []struct {
		goos, name string
		over       string
	}{
		{"linux", strings.Repeat("n", 10), ""},
		{"linux", strings.Repeat("n", 11), "1 characters too long"},
		{"darwin", strings.Repeat("n", 6), ""},
		{"darwin", strings.Repeat("n", 11), "5 characters too long"},
	}
	for _, tt := range tests {
		err := checkLimaPath(tt.goos, home, tt.name)
		if (err == nil) != (tt.over == "") || err != nil && (!strings.Contains(err.Error(), tt.over) || !strings.Contains(hint.Of(err), "LIMA_HOME")) {
			t.Errorf("checkLimaPath(%s, %d+%d) = %v; want %q", tt.goos, len(home), len(tt.name), err, tt.over)
		}
	}
}

func TestLastMessage(t *testing.T) {
	for stderr, want := range map[string]string{
		`time="2026" level=info msg="hello"` + "\n" + `time="2026" level=fatal msg="no \"disk\""` + "\n": `no "disk"`,
		"level=fatal msg=degraded\n": "degraded",
		"plain words\nand more\n":    "and more",
		"":                           "",
	} {
		if got := lastMessage(stderr); got != want {
			t.Errorf("lastMessage(%q) = %q; want %q", stderr, got, want)
		}
	}
}

func TestDecodeLimaList(t *testing.T) {
	tests := []struct {
		name, out string
		want      []string
		problems  []string
		err       string
	}{
		{"none", "", nil, nil, ""},
		{"lines", `{"name":"a","errors":[{}]}` + "\n" + `{"name":"b"}` + "\n", []string{"a", "b"}, nil, ""},
		{"2.x on a terminal", "{\n  \"name\": \"a\",\n  \"errors\": [\"no disk\"]\n}\n", []string{"a"}, []string{"no disk"}, ""},
		{"cut off", `{"name":"a"`, nil, nil, "unexpected EOF"},
		{"nameless", `{}`, nil, nil, "no name"},
		{"an array", `[{"name":"a"}]`, nil, nil, "cannot unmarshal array"},
		{"port", `{"name":"a","sshLocalPort":70000}`, nil, nil, "SSH port 70000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeLimaList([]byte(tt.out))
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v; want %q", err, tt.err)
			}
			var names, problems []string
			for _, i := range got {
				names = append(names, i.Name)
				problems = append(problems, i.problems()...)
			}
			if strings.Join(names, " ") != strings.Join(tt.want, " ") || strings.Join(problems, " ") != strings.Join(tt.problems, " ") {
				t.Errorf("got %v with %v; want %v with %v", names, problems, tt.want, tt.problems)
			}
		})
	}
}

func FuzzDecodeLimaList(f *testing.F) {
	f.Add([]byte(`{"name":"a","status":"Running","sshLocalPort":60022,"config":{"plain":true,"mounts":[{"location":"~"}],"provision":[{"script":"x"}]}}` + "\n"))
	f.Add([]byte("{\n\"name\":\"b\",\"errors\":[\"x\",{}]}{\"name\":\"c\"}"))
	f.Fuzz(func(t *testing.T, out []byte) {
		all, err := decodeLimaList(out)
		if err != nil && all != nil {
			t.Error("instances along with an error")
		}
		for _, i := range all {
			if i.Name == "" || i.SSHLocalPort < 0 || i.SSHLocalPort > 65535 {
				t.Errorf("accepted %+v", i)
			}
			i.problems()
			i.changed()
			limaHostKey(i.scripts())
		}
	})
}

func TestLimaYAML(t *testing.T) {
	script, err := newLimaBootScript("bowl")
	if err != nil {
		t.Fatal(err)
	}
	b, err := limaYAML(limaConfig{
		CPUs: 2, MemoryBytes: 1 << 30, DiskBytes: 8 << 30, GoArch: "amd64", GoOS: "linux", BootScript: script,
		Image: limaImage{Location: "/c/disk.qcow2", Digest: "sha256:" + strings.Repeat("ab", 32), Kernel: "/c/vmlinuz", Initrd: "/c/initrd", Cmdline: "root=LABEL=root"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := yaml.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	images := got["images"].([]any)
	image := images[0].(map[string]any)
	if len(images) != 1 || image["location"] != "/c/disk.qcow2" || image["kernel"].(map[string]any)["cmdline"] != "root=LABEL=root" {
		t.Errorf("images = %v; want the one that was chosen and no other", images)
	}
	if got["plain"] != true || got["arch"] != "x86_64" || got["memory"] != "1073741824" || got["firmware"].(map[string]any)["legacyBIOS"] != true {
		t.Errorf("configuration:\n%s", b)
	}
	if got["mounts"] != nil || got["minimumLimaVersion"] != nil {
		t.Errorf("mounts or a minimum version in:\n%s", b)
	}
	if got["ssh"].(map[string]any)["loadDotSSHPubKeys"] != false {
		t.Errorf("ssh = %v", got["ssh"])
	}
	provision := got["provision"].([]any)[0].(map[string]any)
	if provision["mode"] != "boot" || provision["script"] != script {
		t.Errorf("provision = %v", provision)
	}
}

func TestLimaDefaultImages(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		pinned, newest, err := limaDefaultImages(arch)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`^sha512:[0-9a-f]{128}$`).MatchString(pinned.Digest) || !strings.Contains(pinned.Location, "-"+arch+"-") {
			t.Errorf("pinned image of %s: %+v", arch, pinned)
		}
		if newest.Digest != "" || !strings.Contains(newest.Location, arch) {
			t.Errorf("newest image of %s: %+v", arch, newest)
		}
	}
	if _, _, err := limaDefaultImages("riscv64"); err == nil {
		t.Error("an image for riscv64")
	}
}

// The script, run with other paths, installs the key that the machine is
// pinned to, and does nothing the second time.
func TestLimaBootScript(t *testing.T) {
	script, err := newLimaBootScript("bowl")
	if err != nil {
		t.Fatal(err)
	}
	etc := t.TempDir()
	calls := filepath.Join(etc, "calls")
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte("#!/bin/sh\necho \"$@\" >>"+calls+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		cmd := exec.Command("sh", "-c", strings.ReplaceAll(script, "/etc/ssh", etc))
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	pem, err := os.ReadFile(filepath.Join(etc, "devbox_host_ed25519_key"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	want := limaHostKey([]string{"#!/bin/sh\n", script})
	if want == nil || string(signer.PublicKey().Marshal()) != string(want.Marshal()) {
		t.Error("the script installs another key than the one it names")
	}
	conf, err := os.ReadFile(filepath.Join(etc, "sshd_config.d", "10-devbox-host-key.conf"))
	if err != nil || string(conf) != "HostKey "+etc+"/devbox_host_ed25519_key\n" {
		t.Errorf("sshd's configuration: %q, %v", conf, err)
	}
	if b, _ := os.ReadFile(calls); strings.Count(string(b), "\n") != 1 {
		t.Errorf("systemctl calls of two runs:\n%swant one", b)
	}
	if left, _ := filepath.Glob(filepath.Join(etc, ".devbox*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestLimaHostKeyOnlyOurs(t *testing.T) {
	for _, script := range []string{"", "#!/bin/sh", limaMark, limaMark + "\n", limaMark + "\n" + limaKeyMark + "nonsense\n"} {
		if limaHostKey([]string{script}) != nil {
			t.Errorf("a host key in %q", script)
		}
	}
}

func TestEmulateScript(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"qemu-system-x86_64", "qemu-system-aarch64"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nfor a; do echo \"$a\"; done\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	dir := filepath.Join(t.TempDir(), "with space")
	env, err := emulateIn(dir, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if len(env) != 1 || !strings.HasPrefix(env[0], "PATH="+dir+":") {
		t.Errorf("environment %q does not put the script first", env)
	}
	if _, err := emulateIn(dir, "arm64"); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, in, want string }{
		{"qemu-system-x86_64", "-m 1024|-cpu host|-machine q35,accel=kvm|-drive file=a b,if=virtio",
			"-m 1024|-cpu max|-machine q35|-drive file=a b,if=virtio|-accel tcg,thread=multi,tb-size=256"},
		{"qemu-system-aarch64", "-cpu host|-machine virt,accel=kvm", "-cpu max|-machine virt|-accel tcg,thread=multi,tb-size=256"},
		{"qemu-system-x86_64", "-cpu help|-machine q35,accel=kvm", "-cpu help|-machine q35|-accel tcg,thread=multi,tb-size=256"},
		{"qemu-system-x86_64", "-M none|-accel help", "-M none|-accel help"},
		{"qemu-system-x86_64", "--version", "--version"},
		{"qemu-system-x86_64", "-machine q35,vmport=off|-accel tcg,thread=multi,tb-size=512", "-machine q35,vmport=off|-accel tcg,thread=multi,tb-size=512"},
		{"qemu-system-x86_64", "-machine q35|-accel kvm", "-machine q35|-accel tcg,thread=multi,tb-size=256"},
	}
	split := func(s string) []string {
		var all []string
		for _, pair := range strings.Split(s, "|") {
			all = append(all, strings.SplitN(pair, " ", 2)...)
		}
		return all
	}
	for _, tt := range tests {
		out, err := exec.Command(filepath.Join(dir, tt.name), split(tt.in)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.TrimSpace(string(out)), strings.Join(split(tt.want), "\n"); got != want {
			t.Errorf("%s\n%q; want\n%q", tt.in, got, want)
		}
	}
}

func TestLimaBase(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	pinned, newest, err := limaDefaultImages("amd64")
	if err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("cd", 64)
	newest.Digest = "sha512:" + sum
	built := Disk{Image: "/c/d.qcow2", Kernel: "/c/k", Initrd: "/c/i", Cmdline: "root=LABEL=root", Digest: "sha256:" + strings.Repeat("ef", 32)}
	fromPackages := limaImage{Location: built.Image, Digest: built.Digest, Kernel: built.Kernel, Initrd: built.Initrd, Cmdline: built.Cmdline}
	sums := sum + "  debian-13-genericcloud-amd64.qcow2\n"
	asked := BaseImage{URL: "https://example.org/d.qcow2", Digest: "sha256:" + strings.Repeat("01", 32)}
	tests := []struct {
		name   string
		base   map[string]BaseImage
		status int // of the pinned image; 0: no server
		sums   string
		want   limaImage
		says   string
		err    string
	}{
		{"online", nil, 200, "", pinned, "cloud image debian-13-genericcloud-amd64-2", ""},
		{"pinned image gone", nil, 404, sums, newest, "no longer has", ""},
		{"pinned image gone, no sum", nil, 404, "x\n", limaImage{}, "", "SHA512SUMS does not name"},
		{"offline", nil, 0, "", fromPackages, "from packages", ""},
		{"server broken", nil, 503, "", fromPackages, "HTTP status 503", ""},
		{"asked for", map[string]BaseImage{"amd64": asked}, 0, "", limaImage{Location: asked.URL, Digest: asked.Digest}, "machine.base.amd64", ""},
		{"asked for another architecture", map[string]BaseImage{"arm64": asked}, 0, "", limaImage{}, "", "machine.base: no image for amd64"},
		{"asked for without digest", map[string]BaseImage{"amd64": {URL: asked.URL}}, 0, "", limaImage{}, "", `machine.base.amd64: "" is not a digest`},
		{"asked for no such file", map[string]BaseImage{"amd64": {URL: "/nowhere/d", Digest: asked.Digest}}, 0, "", limaImage{}, "", "machine.base.amd64: open /nowhere/d"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				switch {
				case tt.status == 0:
					return nil, errors.New("no route to host")
				case strings.HasSuffix(r.URL.Path, "/latest/SHA512SUMS"):
					w.WriteString(tt.sums)
				case r.URL.String() == pinned.Location && r.Method == http.MethodHead:
					w.WriteHeader(tt.status)
				default:
					t.Errorf("unexpected %s %s", r.Method, r.URL)
				}
				return w.Result(), nil
			})}
			var steps []string
			b := limaBase{spec: Spec{Base: tt.base}, goarch: "amd64", client: client,
				build: func(context.Context, DiskOptions, Progress) (*Disk, error) { return &built, nil }}
			got, err := b.choose(t.Context(), func(s string) { steps = append(steps, s) })
			if got != tt.want && tt.err == "" {
				t.Errorf("choose() = %+v; want %+v", got, tt.want)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("choose() error = %v; want %q", err, tt.err)
			}
			if tt.says != "" && !strings.Contains(strings.Join(steps, "\n"), tt.says) {
				t.Errorf("it said %q; want %q", steps, tt.says)
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func writeTestKey(t *testing.T, path string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
}

// scriptSigner is the private key that a boot script installs.
func scriptSigner(t *testing.T, script string) ssh.Signer {
	t.Helper()
	m := regexp.MustCompile(`(?m)^echo (\S+) \| base64 -d`).FindStringSubmatch(script)
	text, err := base64.StdEncoding.DecodeString(m[1])
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// sshServer lets everybody in and returns its port.
func sshServer(t *testing.T, hostKey ssh.Signer) int {
	t.Helper()
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		return nil, nil
	}}
	config.AddHostKey(hostKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if server, _, _, err := ssh.NewServerConn(conn, config); err == nil {
					server.Wait()
				}
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}

func TestCheckFree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "made", "yet")
	if err := checkFree(dir, 1, ""); err != nil {
		t.Error(err)
	}
	err := checkFree(dir, 1<<62, "make room")
	if err == nil || !strings.Contains(err.Error(), "MiB free") || !strings.Contains(hint.Of(err), "make room") {
		t.Errorf("checkFree() = %v, hint %q", err, hint.Of(err))
	}
}

// The module files must pin the version that the folder and `--version` claim.
func TestLimaToolsPinned(t *testing.T) {
	if want := "require " + limaModule + " v" + LimaVersion + "\n"; !strings.Contains(string(template.ToolsMod), want) {
		t.Errorf("limactl.mod lacks %q", want)
	}
	if want := limaModule + " v" + LimaVersion + " h1:"; !strings.Contains(string(template.ToolsSum), want) {
		t.Errorf("limactl.sum lacks %q", want)
	}
}

func TestInstallLimaWithoutGo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	cache := t.TempDir()
	_, err := InstallLima(t.Context(), cache, nil)
	if err == nil || hint.Of(err) == "" {
		t.Errorf("InstallLima() = %v, hint %q; want one with a cure", err, hint.Of(err))
	}
	if left, _ := os.ReadDir(cache); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A limactl that was built is found where PATH has none.
func TestFindBuiltLimactl(t *testing.T) {
	cache := t.TempDir()
	built := filepath.Join(limaToolsDir(cache), "bin", "limactl")
	if err := os.MkdirAll(filepath.Dir(built), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(built, []byte("#!/bin/sh\necho limactl version "+LimaVersion+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	ctl, err := findLimactl(t.Context(), cache)
	if err != nil || ctl.path != built || ctl.version.String() != LimaVersion {
		t.Errorf("findLimactl() = %+v, %v; want %s of %s", ctl, err, built, LimaVersion)
	}
	fakeLimactl(t, "0.23.0")
	if ctl, err := findLimactl(t.Context(), cache); err != nil || ctl.path != built {
		t.Errorf("findLimactl() with an old one on PATH = %+v, %v; want %s", ctl, err, built)
	}
	if _, err := findLimactl(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "0.23.0 is too old") {
		t.Errorf("findLimactl() with nothing but an old one = %v", err)
	}
}
