// Package version tells which build of the app runs.
package version

import (
	"runtime/debug"
	"strings"
)

// maxLen bounds what the environment may put on every page.
const maxLen = 64

// Of picks the version to show: what the host says it runs (the image's version, which also tells apart two images
// with the same binary), else what the Go toolchain wrote into the binary, else "devel".
func Of(fromHost string) string {
	if v := strings.TrimSpace(fromHost); v != "" {
		return v[:min(len(v), maxLen)]
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return ofBuild(info)
}

func ofBuild(info *debug.BuildInfo) string {
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	if revision != "" {
		return revision + dirty
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	return "devel"
}
