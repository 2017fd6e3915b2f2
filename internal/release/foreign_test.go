package release

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// An app's units take no other's place: neither one of a package, nor one of
// another app. Nor can its logs be read as this app's.
func TestUnitsOfOthers(t *testing.T) {
	f, h, one := first(t)
	f.write("usr/lib/systemd/system/bowl-ssh.service", "[Service]\n")
	f.write("usr/lib/systemd/system/bowl-getty@.service", "[Service]\n")
	must(t, os.Symlink("/usr/lib/systemd/system/ssh.service", filepath.Join(f.root, unitDir, "bowl-sshd.service")))
	must(t, os.Symlink("/dev/null", filepath.Join(f.root, unitDir, "bowl-masked.service")))
	f.write(attachedDir+"/bowl-x.service.d/"+markerName, "# Drop-in created for image '/var/lib/portables/bowl-x.raw', do not edit.\n")
	for unit, from := range map[string]string{
		"bowl-ssh.service":        "usr/lib/systemd/system/bowl-ssh.service",
		"bowl-getty@tty1.service": "usr/lib/systemd/system/bowl-getty@.service",
		"bowl-sshd.service":       "etc/systemd/system/bowl-sshd.service",
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
