// Package cloudinit holds the cloud-config that `devbox init` writes into a
// user's repository as cloud-init/server.yaml.
package cloudinit

import (
	_ "embed"
	"strings"
)

//go:embed server.yaml
var server string

// marker stands above the lines that keys replace.
const marker = "    #devbox:keys\n"

// Render returns the cloud-config with the public keys, each a line as in
// authorized_keys, of those who may deploy. Without keys the example that
// shows where they go is left in place, as a comment.
func Render(keys []string) []byte {
	before, rest, _ := strings.Cut(server, marker)
	if len(keys) == 0 {
		return []byte(before + rest)
	}
	for strings.HasPrefix(strings.TrimLeft(rest, " "), "#") {
		_, rest, _ = strings.Cut(rest, "\n")
	}
	var b strings.Builder
	b.WriteString(before + "    ssh_authorized_keys:\n")
	for _, k := range keys {
		b.WriteString("      - " + quote(strings.TrimSpace(k)) + "\n")
	}
	return []byte(b.String() + rest)
}

// quote makes a YAML scalar of a key, whose comment may hold anything.
func quote(key string) string {
	if !strings.ContainsAny(key, `:#"'\{}[]&*!|>%@`+"`\t\n") {
		return key
	}
	return `'` + strings.ReplaceAll(strings.Join(strings.Fields(key), " "), `'`, `''`) + `'`
}
