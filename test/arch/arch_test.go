// Package arch holds the import rules of ARCHITECTURE.md: imports run
// downwards only, and packages beside each other do not know each other.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed lists, for every package of devbox, which of its packages it may
// import. A new package needs a line here, and thereby a thought.
var allowed = map[string][]string{
	"internal/hint":       {},
	"internal/config":     {"internal/hint"},
	"internal/ui":         {"internal/hint"},
	"internal/protocol":   {"internal/hint"},
	"internal/image":      {"internal/hint"},
	"internal/sync/delta": {"internal/hint"},
	"internal/sync/watch": {"internal/hint"},
	"internal/remote":     {"internal/hint"},
	"internal/forward":    {"internal/hint", "internal/remote"},
	"internal/vm":         {"internal/hint", "templates/lima"},
	"internal/vm/vmtest":  {"internal/hint", "internal/vm"},
	"internal/provision":  {"internal/hint"},
	"internal/release":    {"internal/hint", "internal/protocol", "internal/image", "internal/sync/delta"},
	"internal/deploy": {"internal/hint", "internal/config", "internal/ui", "internal/protocol", "internal/image",
		"internal/sync/delta", "internal/sync/watch", "internal/remote", "internal/forward", "internal/vm", "internal/provision"},
	"templates/lima": {},
	"cloud-init":     {},
	"cmd/devbox": {"internal/hint", "internal/config", "internal/ui", "internal/deploy", "internal/protocol",
		"internal/remote", "internal/forward", "internal/vm", "cloud-init"},
	"cmd/devbox-host": {"internal/hint", "internal/protocol", "internal/release", "internal/image", "internal/sync/delta"},
}

// adapters are outside libraries that one package alone may import.
var adapters = map[string]string{
	"github.com/lima-vm/lima/":              "internal/vm",
	"github.com/spf13/cobra":                "cmd/",
	"github.com/fsnotify/fsnotify":          "internal/sync/watch",
	"golang.org/x/crypto/ssh/knownhosts":    "internal/remote",
	"github.com/coreos/go-systemd/v22/dbus": "internal/release",
	"github.com/erofs/go-erofs":             "internal/image",
}

func TestImportsRunDownwards(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, "devbox/")
		if strings.HasPrefix(name, "test/") {
			continue // tests may look anywhere
		}
		seen++
		may, known := allowed[name]
		if !known {
			t.Errorf("%s is not in the picture: say in this test and in ARCHITECTURE.md what it may import", name)
			continue
		}
		for _, imp := range p.Imports {
			if own, ok := strings.CutPrefix(imp, "devbox/"); ok && !slices.Contains(may, own) {
				t.Errorf("%s must not import %s", name, own)
			}
			for lib, owner := range adapters {
				if strings.HasPrefix(imp, lib) && !strings.HasPrefix(name, owner) {
					t.Errorf("%s must not import %s: %s is its adapter", name, imp, owner)
				}
			}
		}
	}
	if seen < len(allowed)-2 {
		t.Errorf("saw %d packages of %d: is the list of packages complete?", seen, len(allowed))
	}
}
