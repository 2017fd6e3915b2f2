// Package lima holds the Lima template of a devbox machine and the module files
// that limactl is built from where it is not installed.
package lima

import _ "embed"

// Debian13 is the template; devbox completes it for each machine.
//
//go:embed debian13.yaml
var Debian13 []byte

// ToolsMod and ToolsSum are the go.mod and go.sum of a module that requires
// Lima and nothing else, with all versions and checksums pinned.
//
//go:embed limactl.mod
var ToolsMod []byte

//go:embed limactl.sum
var ToolsSum []byte
