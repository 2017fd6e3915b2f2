package scripts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A build that was killed leaves its folder to the next one to remove; one that
// still runs keeps its own.
func TestToolSweepsUp(t *testing.T) {
	cache, bin := t.TempDir(), t.TempDir()
	folder := filepath.Join(cache, "devbox/tools/litestream/v0.5.18/linux_amd64")
	running := fmt.Sprintf(".build.%d", os.Getpid())
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{running, fmt.Sprintf(".build.%d", dead.Process.Pid), ".build.a1b2c3"} {
		if err := os.MkdirAll(filepath.Join(folder, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Stands in for minutes of compiling: `go build -o litestream …` makes the file.
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte("#!/bin/sh\n[ $1 != build ] || echo >litestream\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	sh := exec.Command("./tool.sh", "example.org/cmd/litestream", "v0.5.18")
	sh.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "XDG_CACHE_HOME="+cache, "GOOS=linux", "GOARCH=amd64")
	out, err := sh.Output()
	if err != nil || strings.TrimSpace(string(out)) != filepath.Join(folder, "litestream") {
		t.Fatalf("printed %q, %v", out, err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{running, "litestream"}; !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
}
