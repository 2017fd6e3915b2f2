package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devbox/internal/config"
	"devbox/internal/protocol"
)

// What devbox.yaml may say is what a host takes: otherwise it is found out only
// once there is a machine and an image.
func TestSettingsThatAHostRefuses(t *testing.T) {
	for _, c := range []struct{ name, yaml, err string }{
		{"the longest deadline", "health: {deadline: " + protocol.MaxDeadline.String() + "}\n", ""},
		{"longer", "health: {deadline: " + (protocol.MaxDeadline + time.Second).String() + "}\n", "devbox.yaml:4:20: health.deadline: "},
		{"a name of devbox's own", "env: {shop.service: {DEVBOX_X: y}}\n", "DEVBOX_X"},
		{"an address without a host", "health: {url: 'http://:80/'}\n", "health.url"},
		{"secrets of the dev machine", "machine: {secrets: {s3: not-secret}}\n", ""},
		{"a secret by a path", "machine: {secrets: {../s3: x}}\n", "machine.secrets: ../s3: that is no secret's name"},
		{"an app beside that is wrong", "machine: {beside: [../other]}\n", "machine.secrets: key: the value is empty"},
		{"an app beside of the same name", "machine: {beside: [../second]}\n", "are both called shop"},
		{"an app beside itself", "machine: {beside: [.]}\n", "does not run beside itself"},
		{"an app beside that is not there", "machine: {beside: [../third]}\n", "../third/devbox.yaml does not exist"},
		{"a check without end", "state: {check: [/bin/x" + strings.Repeat(", y", 64) + "]}\n", "state: check has 65 words"},
		{"a check by its name alone", "state: {check: [x]}\n", "devbox.yaml:4:17: state.check[0]: "},
		{"a value that fills the file", "env: {shop.service: {X: " + strings.Repeat("x", 33<<10) + "}}\n", "env of shop.service: X: value of 33792 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "shop")
			for _, other := range []string{".", "../other", "../second"} {
				if err := os.MkdirAll(filepath.Join(dir, other), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for name, text := range map[string]string{
				"devbox.yaml": "name: shop\ncloud_init: server.yaml\nbuild: {command: make}\n" + c.yaml, "server.yaml": "#cloud-config\n",
				"../other/devbox.yaml":  "name: other\ncloud_init: ../shop/server.yaml\nbuild: {command: make}\nmachine: {secrets: {key: ''}}\n",
				"../second/devbox.yaml": "name: shop\ncloud_init: ../shop/server.yaml\nbuild: {command: make}\n",
			} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cfg, err := config.Load(filepath.Join(dir, "devbox.yaml"))
			if err == nil {
				err = (&Project{Config: cfg}).CheckFiles()
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("got %v, want %q", err, c.err)
			}
		})
	}
}
