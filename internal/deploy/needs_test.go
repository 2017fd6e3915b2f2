package deploy

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"devbox/internal/config"
	"devbox/internal/ui"
	"devbox/internal/vm"
)

func TestNeeds(t *testing.T) {
	for format, want := range map[string][]vm.Need{
		"erofs":    {{Tool: "ssh", Package: "openssh-client"}},
		"squashfs": {{Tool: "ssh", Package: "openssh-client"}, {Tool: "mksquashfs", Package: "squashfs-tools"}},
	} {
		p := &Project{Config: &config.Config{Image: config.Image{Format: format}}}
		if got := p.Needs(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", format, got, want)
		}
	}
}

// contained is a shelf of the nspawn driver.
type contained struct{ *shelf }

func (contained) Driver() string { return vm.DriverNspawn }

// A base image does nothing for a container: up says so, each time.
func TestABaseThatHasNoEffectIsTold(t *testing.T) {
	p, m := twin(t, t.TempDir()), &shelf{state: vm.Missing}
	p.Config.Machine.Base = map[string]config.Base{"amd64": {URL: "base.qcow2"}}
	for _, c := range []struct {
		machine vm.Machine
		told    bool
	}{{contained{m}, true}, {contained{m}, true}, {m, false}} {
		var said bytes.Buffer
		if err := p.start(t.Context(), ui.New(&said, &said, ui.Options{}), c.machine, ""); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(said.String(), "note: machine.base has no effect"); got != c.told {
			t.Errorf("%s: said %q", c.machine.Driver(), &said)
		}
	}
}
