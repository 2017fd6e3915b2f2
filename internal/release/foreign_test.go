package release

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/sync/delta"
)

// An app's units take no other's place: neither one of a package, nor one of
// another app. Nor can its logs be read as this app's.
func TestUnitsOfOthers(t *testing.T) {
	f, h, one := first(t)
	f.write("usr/lib/systemd/system/bowl-ssh.service", "[Service]\n")
	f.write("usr/lib/systemd/system/bowl-getty@.service", "[Service]\n")
	must(t, os.Symlink("/usr/lib/systemd/system/ssh.service", filepath.Join(f.root, unitDir, "bowl-sshd.service")))
	must(t, os.Symlink("/dev/null", filepath.Join(f.root, unitDir, "bowl-masked.service")))
	f.write(unitDir+"/bowl-mine.service", "[Service]\n") // a person's
	f.write(attachedDir+"/bowl-x.service.d/"+markerName, "# Drop-in created for image '/var/lib/portables/bowl-x.raw', do not edit.\n")
	for unit, from := range map[string]string{
		"bowl-ssh.service":        "usr/lib/systemd/system/bowl-ssh.service",
		"bowl-getty@tty1.service": "usr/lib/systemd/system/bowl-getty@.service",
		"bowl-sshd.service":       "etc/systemd/system/bowl-sshd.service",
		"bowl-mine.service":       "etc/systemd/system/bowl-mine.service",
		"bowl-x.service":          "var/lib/portables/bowl-x.raw",
		"bowl-masked.service":     "", // what a person masked is the app's all the same
		"bowl-new.service":        "",
	} {
		digest := f.put(h, unit, map[string]string{"bowl.service": unitsOne["bowl.service"], unit: "[Service]\nExecStart=/x\n"})
		err := h.Activate(context.Background(), protocol.Activate{App: "bowl", Digest: digest, DryRun: true}, func(protocol.Event) {})
		logs := h.OwnUnit("bowl", unit)
		if from == "" {
			if err != nil || logs != nil {
				t.Errorf("%s: %v, %v", unit, err, logs)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "from "+filepath.Join(f.root, from)) || hint.Of(err) == "" {
			t.Errorf("%s: %v, want one from %s", unit, err, from)
		}
		if logs == nil || !strings.Contains(logs.Error(), "is not of bowl") {
			t.Errorf("logs of %s: %v", unit, logs)
		}
	}
	for _, unit := range []string{"ssh.service", "bowlx.service", "../bowl.service"} {
		if h.OwnUnit("bowl", unit) == nil {
			t.Errorf("logs of %s", unit)
		}
	}
	if err := h.OwnUnit("bowl", "bowl.service"); err != nil {
		t.Error(err)
	}
	if st, err := h.Status(context.Background(), "bowl"); err != nil || st.Current.Digest != one {
		t.Errorf("%+v, %v", st, err)
	}
}

// Names that portabled would install and that are not safe to: the drop-ins of
// bowl-.service are those of every unit of that beginning.
func TestUnitNamesThatAreRefused(t *testing.T) {
	f, h, _ := first(t)
	for _, unit := range []string{"bowl-.service", "bowl-x-.service", "bowl-@.service", `bowl-\x41.service`, "bowl-" + strings.Repeat("x", 128) + ".service"} {
		digest := f.put(h, unit, map[string]string{"bowl.service": unitsOne["bowl.service"], unit: "[Service]\nExecStart=/x\n"})
		if r, err := f.activate(h, digest, protocol.Settings{}); err == nil || !strings.Contains(err.Error(), "is no unit of bowl") || hint.Of(err) == "" || len(f.did) > 0 {
			t.Errorf("%s: %+v, %v, did %v", unit, r, err, f.did)
		}
	}
}

// An image that is none, or is cut off, is refused before anything is done.
func TestBrokenImages(t *testing.T) {
	f, h, one := first(t)
	path, _, _ := packUnits(t, "two", unitsTwo)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := slices.Clone(whole)
	for i := 1024 + 16; i < 1024+128; i++ { // behind the magic of erofs
		damaged[i] ^= 0xff
	}
	squashfs := make([]byte, 8192)
	copy(squashfs, "hsqs")
	for name, data := range map[string][]byte{
		"zeros": make([]byte, 4096), "cut off": whole[:len(whole)/8192*4096], "damaged": damaged, "the magic of a squashfs": squashfs,
	} {
		path := filepath.Join(t.TempDir(), "image")
		must(t, os.WriteFile(path, data, 0o644))
		sums, err := delta.Sum(context.Background(), bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		var stream bytes.Buffer
		if err := encode(&stream, built{path, sums.Digest().String(), int64(len(data)), sums}, nil); err != nil {
			t.Fatal(err)
		}
		if err := h.Receive(context.Background(), protocol.Receive{App: "bowl", Digest: sums.Digest().String(), Size: int64(len(data))}, &stream, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r, err := f.activate(h, sums.Digest().String(), protocol.Settings{}); err == nil || !strings.Contains(err.Error(), "broken image") || len(f.did) > 0 {
			t.Errorf("%s: %+v, %v, did %v", name, r, err, f.did)
		}
	}
	if st, err := h.Status(context.Background(), "bowl"); err != nil || st.Current.Digest != one || st.Problem != "" {
		t.Errorf("%+v, %v", st, err)
	}
}
