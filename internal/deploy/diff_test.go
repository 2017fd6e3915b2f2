package deploy

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"devbox/internal/config"
	"devbox/internal/drift"
	"devbox/internal/facts"
	"devbox/internal/provision"
)

func TestDeclared(t *testing.T) {
	const (
		cloudConfig = "#cloud-config\npackages: [sudo]\nusers:\n  - name: deploy\n    ssh_authorized_keys:\n" +
			"      - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICesAQcC8i/mnaskZgwBLNOnBRX1OL3+uLJI6rJS4/g9 ann@laptop\n" +
			"write_files:\n  - {path: /etc/motd, content: hello}\n"
		service = "[Service]\nExecStart=/usr/bin/bowl\n"
	)
	dir := t.TempDir()
	units := "deployment/portable/usr/lib/systemd/system/"
	for name, text := range map[string]string{
		"server.yaml": cloudConfig, units + "bowl.service": service, units + "other.service": service, units + "bowl.service.d/x.conf": service,
	} {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := &Project{Config: &config.Config{Name: "bowl", Dir: dir, CloudInit: "server.yaml", Image: config.Image{Tree: "deployment/portable", Profile: "strict"}}}
	got, err := p.declared()
	if err != nil {
		t.Fatal(err)
	}
	want := drift.Repo{
		App: "bowl", CloudConfig: "server.yaml", Hash: provision.Hash([]byte(cloudConfig)), Version: provision.Version, Profile: "strict",
		Packages: []string{"cloud-init", "python3-jsonschema", "sudo", "sudo"},
		Files:    map[string][]byte{"/etc/motd": []byte("hello")},
		Users:    map[string][]string{"deploy": {"SHA256:oLEPUmkxCxKTN/eLERfHe/EyFADP7OmRSxDvYIdjrtc"}},
		Units:    map[string]string{"bowl.service": facts.Digest([]byte(service))},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "server.yaml"), []byte("#cloud-config\nhostname: x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := p.declared(); err == nil || !Mistaken(err) {
		t.Errorf("a cloud-config that cannot be applied: %v", err)
	}
}

func TestAHostThatSaysTooMuch(t *testing.T) {
	b := &bounded{&bytes.Buffer{}, 4}
	if _, err := b.Write([]byte("1234")); err != nil {
		t.Error(err)
	}
	if _, err := b.Write([]byte("5")); err == nil || b.to.Len() != 4 {
		t.Errorf("%v, %q", err, b.to)
	}
}
