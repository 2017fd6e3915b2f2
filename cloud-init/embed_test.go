package cloudinit

import (
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

type file struct {
	Users []struct {
		Name string
		Keys []string `yaml:"ssh_authorized_keys"`
	}
}

func TestRender(t *testing.T) {
	for _, keys := range [][]string{
		nil,
		{"ssh-ed25519 AAAA me@laptop"},
		{"ssh-ed25519 AAAA", `restrict,command="x: 'y'" ssh-rsa BBBB it's #1`},
	} {
		text := string(Render(keys))
		var f file
		if err := yaml.Unmarshal([]byte(text), &f); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if len(f.Users) != 1 || f.Users[0].Name != "deploy" || !reflect.DeepEqual(f.Users[0].Keys, keys) {
			t.Errorf("Render(%q) gives %+v", keys, f)
		}
		if strings.Contains(text, "devbox:keys") {
			t.Errorf("the marker is left in\n%s", text)
		}
		if example := strings.Contains(text, "you@laptop"); example != (keys == nil) {
			t.Errorf("Render(%q) shows the example: %v", keys, example)
		}
		if !strings.HasPrefix(text, "#cloud-config\n") || !strings.Contains(text, "runcmd:") {
			t.Errorf("not whole:\n%s", text)
		}
	}
}
