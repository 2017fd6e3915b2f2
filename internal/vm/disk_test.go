package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A disk of an older devbox starts its kernel as this one would.
func TestReadDisk(t *testing.T) {
	dir := t.TempDir()
	if _, err := readDisk(dir); err == nil {
		t.Error("an unfinished one is read")
	}
	for name, text := range map[string]string{
		"disk.json": `{"Cmdline": "root=/dev/sda", "Arch": "arm64", "Digest": "sha256:ab"}`, "disk.qcow2": "", "vmlinuz": "", "initrd": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d, err := readDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"root=LABEL=root", "panic=5", "console=ttyAMA0"} {
		if !strings.Contains(" "+d.Cmdline+" ", " "+word+" ") {
			t.Errorf("the kernel is started with %q, without %s", d.Cmdline, word)
		}
	}
	if d.Image != filepath.Join(dir, "disk.qcow2") || d.Digest != "sha256:ab" {
		t.Errorf("got %+v", d)
	}
	if err := os.Remove(d.Kernel); err != nil {
		t.Fatal(err)
	}
	if _, err := readDisk(dir); err == nil {
		t.Error("one without its kernel is read")
	}
}
