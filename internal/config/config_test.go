package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"devbox/internal/hint"
)

const full = `
name: bowl
build:
  command: |
    go build -o "$DEVBOX_STAGE/usr/bin/bowl" .
    go vet .
  dir: cmd
image:
  tree: deployment/portable
  files:
    - {from: bin/tool, to: /usr/bin/tool, mode: 0755}
    - from: deployment/extra.yml
      to: /etc/bowl/extra.yml
      mode: "640"
  format: squashfs
  profile: strict
watch:
  paths: [., ../]
  ignore: ["*.md", /dist]
cloud_init: deployment/server.yaml
machine:
  driver: nspawn
  cpus: 4
  memory: 512MiB
  disk: 20 GiB
  base:
    arm64:
      url: https://example.com/debian.qcow2
      digest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
  ports:
    - 8080
    - 8443:443
    - "9000:80"
env:
  bowl.service: {LOG_LEVEL: debug, WORKERS: 010, DEBUG: yes, EMPTY: ""}
  bowl-worker@.service:
health:
  url: http://127.0.0.1:8080/healthz
  deadline: 1m30s
targets:
  prod:
    host: bowl.example.com
    port: 2222
    user: admin
    env: {bowl.service: {LOG_LEVEL: warn}}
    health: {url: "http://127.0.0.1:8080/healthz", expect: "${DEVBOX_VERSION}"}
    trial: 1m
    keep: 9
    signing_key: ~/.ssh/id_ed25519.pub
  spare: {host: spare}
state:
  check: [/usr/bin/bowl, check, "010"]
  snapshot: before-activate
deploy_user: ops
`

// repo makes a folder with the files (a trailing slash makes a folder) and
// devbox.yaml, and returns the path of the latter.
func repo(t testing.TB, yaml string, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		path := filepath.Join(dir, f)
		if strings.HasSuffix(f, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, FileName)
	if err := os.WriteFile(path, []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadEveryField(t *testing.T) {
	path := repo(t, full, "cmd/", "deployment/portable/", "deployment/server.yaml")
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Dir:   filepath.Dir(path),
		Name:  "bowl",
		Build: Build{Command: "go build -o \"$DEVBOX_STAGE/usr/bin/bowl\" .\ngo vet .\n", Dir: "cmd"},
		Image: Image{
			Tree: "deployment/portable",
			Files: []File{
				{From: "bin/tool", To: "/usr/bin/tool", Mode: 0o755},
				{From: "deployment/extra.yml", To: "/etc/bowl/extra.yml", Mode: 0o640},
			},
			Format:  "squashfs",
			Profile: "strict",
		},
		Watch:     Watch{Paths: []string{".", "../"}, Ignore: []string{"*.md", "/dist"}},
		CloudInit: "deployment/server.yaml",
		Machine: Machine{
			Driver: "nspawn", CPUs: 4, Memory: 512 << 20, Disk: 20 << 30,
			Base: map[string]Base{"arm64": {
				URL:    "https://example.com/debian.qcow2",
				Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
			}},
			Ports: []Port{{8080, 8080}, {8443, 443}, {9000, 80}},
		},
		Env: map[string]map[string]string{
			"bowl.service":         {"LOG_LEVEL": "debug", "WORKERS": "010", "DEBUG": "yes", "EMPTY": ""},
			"bowl-worker@.service": {},
		},
		Health: Health{URL: "http://127.0.0.1:8080/healthz", Deadline: Duration(90 * time.Second)},
		Targets: map[string]Target{
			"prod": {
				Host: "bowl.example.com", Port: 2222, User: "admin",
				Env:    map[string]map[string]string{"bowl.service": {"LOG_LEVEL": "warn"}},
				Health: Health{URL: "http://127.0.0.1:8080/healthz", Expect: "${DEVBOX_VERSION}", Deadline: Duration(10 * time.Second)},
				Trial:  Duration(time.Minute), Keep: 9, SigningKey: "~/.ssh/id_ed25519.pub",
			},
			"spare": {
				Host: "spare", User: "root", Trial: Duration(10 * time.Second), Keep: 5,
				Health: Health{URL: "http://127.0.0.1:8080/healthz", Deadline: Duration(90 * time.Second)}, // the dev machine's
			},
		},
		State:      State{Check: []string{"/usr/bin/bowl", "check", "010"}, Snapshot: "before-activate"},
		DeployUser: "ops",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if p := got.Abs(got.Image.Tree); p != filepath.Join(want.Dir, "deployment", "portable") {
		t.Errorf("Abs(tree) = %s", p)
	}
}

func TestLoadDefaults(t *testing.T) {
	path := repo(t, "name: bowl\nbuild: {command: make}\nmachine:\nwatch:\n", "cloud-init/server.yaml")
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Dir:        filepath.Dir(path),
		Name:       "bowl",
		Build:      Build{Command: "make", Dir: "."},
		Image:      Image{Format: "erofs", Profile: "default"},
		Watch:      Watch{Paths: []string{"."}},
		CloudInit:  "cloud-init/server.yaml",
		Machine:    Machine{Driver: "auto", CPUs: 2, Memory: 2 << 30, Disk: 10 << 30},
		Health:     Health{Deadline: Duration(10 * time.Second)},
		State:      State{Snapshot: "none"},
		DeployUser: "deploy",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Each testdata/bad/X.yaml is a file with mistakes; X.golden is all that is
// said about it.
func TestMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d bad files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			_, err := Load(file)
			var ms Mistakes
			if !errors.As(err, &ms) {
				t.Fatalf("Load: %v, want Mistakes", err)
			}
			got := err.Error() + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			for _, m := range ms {
				if m.Cure == "" {
					t.Errorf("no cure for: %v", m)
				}
			}
		})
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "bowl": true, "bowl-2": true, strings.Repeat("x", 32): true,
		"": false, "-a": false, "a-": false, "2a": false, "A": false, "a.b": false, "a b": false, "ä": false, strings.Repeat("x", 33): false,
	} {
		_, err := Load(repo(t, "name: '"+name+"'\nbuild: {command: make}\n", "cloud-init/server.yaml"))
		if (err == nil) != want {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestTheNameInACureIsAllowed(t *testing.T) {
	for name, want := range map[string]string{
		"my_shop": "write my-shop", "Hello_App": "write hello-app", "Shop": "write shop",
		"_shop": "write lower-case letters", "2_shops": "write lower-case letters", "My shop": "write lower-case letters",
	} {
		_, err := Load(repo(t, "name: '"+name+"'\nbuild: {command: make}\n", "cloud-init/server.yaml"))
		if err == nil || !strings.Contains(err.Error(), "; "+want) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestLoadWithoutFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), FileName))
	if err == nil || !strings.Contains(hint.Of(err), "devbox init") {
		t.Errorf("error %v, cure %q", err, hint.Of(err))
	}
}

func TestFind(t *testing.T) {
	path := repo(t, "name: x\n", "a/b/", "c/devbox.yaml/")
	for _, sub := range []string{".", "a/b", "c"} { // c/devbox.yaml is a folder: not it
		got, err := Find(filepath.Join(filepath.Dir(path), sub))
		if err != nil || got != path {
			t.Errorf("Find(%s) = %s, %v; want %s", sub, got, err, path)
		}
	}
	if got, err := Find(t.TempDir()); err == nil || hint.Of(err) == "" {
		t.Errorf("Find in an empty folder = %s, %v", got, err)
	}
}

func TestInitLoads(t *testing.T) {
	for _, folder := range []string{"bowl", "My App_2", "42", "ünï", strings.Repeat("x", 40), "a" + strings.Repeat("-b", 20)} {
		name := NameFor(folder)
		if !nameRE.MatchString(name) || strings.HasSuffix(name, "-") {
			t.Errorf("NameFor(%q) = %q", folder, name)
		}
		path := repo(t, string(Init(InitOptions{Name: name})), "cloud-init/server.yaml", "deployment/portable/")
		c, err := Load(path)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.Name != name || !strings.Contains(c.Build.Command, "$DEVBOX_STAGE/usr/bin/"+name) {
			t.Errorf("loaded %+v", c)
		}
		// What is commented out must be right too, once it is wanted.
		var b strings.Builder
		for line := range strings.Lines(string(Init(InitOptions{Name: name}))) {
			if rest, ok := strings.CutPrefix(line, "# "); ok && strings.ContainsAny(rest, ":") && !strings.Contains(rest, ". ") && (rest[0] == ' ' || strings.HasSuffix(rest, ":\n")) {
				line = rest
			}
			b.WriteString(line)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err = Load(path)
		if err != nil {
			t.Fatalf("%s with its comments: %v\n%s", name, err, b.String())
		}
		if c.Health.URL == "" || c.Env[name+".service"]["LOG_LEVEL"] != "debug" {
			t.Errorf("with its comments: %+v", c)
		}
	}
}

func TestScalarsReadWhatTheyWrite(t *testing.T) {
	for _, s := range []string{"1KiB", "512MiB", "2GiB", "3TiB"} {
		var v Size
		if err := v.parse(s); err != nil || v.String() != s {
			t.Errorf("Size %s: %v, %v", s, v, err)
		}
	}
	for _, s := range []string{"", "2", "2GB", "-1GiB", "0GiB", "1.5GiB", "9999999TiB", "GiB"} {
		var v Size
		if err := v.parse(s); err == nil {
			t.Errorf("Size %q is %v", s, v)
		}
	}
	for _, s := range []string{"8080", "8080:80"} {
		var v Port
		if err := v.parse(s); err != nil || v.String() != s {
			t.Errorf("Port %s: %v, %v", s, v, err)
		}
	}
	for _, s := range []string{"", "0", "65536", "80:", ":80", "1:2:3", "+80", "http", "0x50"} {
		var v Port
		if err := v.parse(s); err == nil {
			t.Errorf("Port %q is %v", s, v)
		}
	}
	for in, want := range map[string]Mode{"0755": 0o755, "644": 0o644, "0o600": 0o600} {
		var v Mode
		if err := v.parse(in); err != nil || v != want {
			t.Errorf("Mode %s: %v, %v", in, v, err)
		}
	}
	for _, s := range []string{"", "0", "4755", "rwxr-xr-x", "0888"} {
		var v Mode
		if err := v.parse(s); err == nil {
			t.Errorf("Mode %q is %v", s, v)
		}
	}
}

// Input that would keep the parser busy for seconds is refused before it.
func TestDecodeRefusesDepthAndSize(t *testing.T) {
	for want, text := range map[string]string{
		"x:3:1: more than 100 brackets are open here; close them": "name: bowl\nimage:\n  " + strings.Repeat("[{", maxDepth),
		"x:1:1: larger than 64 KiB; is this the right file?":      strings.Repeat("a: b\n", maxFile/5+1),
	} {
		c, d := decode([]byte(text))
		if got := d.sorted("x").Error(); c != nil || got != want {
			t.Errorf("got %v %q, want %q", c, got, want)
		}
	}
}

// A file from anyone: read it or say what is wrong, at a place that exists.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(full))
	bad, _ := filepath.Glob("testdata/bad/*.yaml")
	for _, file := range bad {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		c, d := decode(data)
		if c == nil && len(d.mistakes) == 0 {
			t.Fatal("neither a config nor a mistake")
		}
		if c != nil {
			c.Dir = dir
			check(c, d)
		}
		for _, m := range d.sorted("x") {
			if m.Line < 1 || m.Column < 1 || m.Problem == "" {
				t.Errorf("%+v", m)
			}
		}
	})
}
