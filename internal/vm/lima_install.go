package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"devbox/internal/hint"
	template "devbox/templates/lima"
)

// LimaVersion is the version of Lima that InstallLima builds. The module files
// in templates/lima require the same.
const LimaVersion = "1.2.3"

const limaModule = "github.com/lima-vm/lima"

// limaToolsDir is where InstallLima puts Lima: bin/limactl and share/lima.
func limaToolsDir(cacheDir string) string {
	return filepath.Join(cacheDir, "lima-"+LimaVersion+"-"+runtime.GOARCH)
}

// InstallLima builds limactl and the guest agent from Lima's Go module into
// cacheDir, unless they are there, and returns the path of limactl. All drivers
// find it there; PATH goes first. It needs a Go toolchain and the module proxy.
func InstallLima(ctx context.Context, cacheDir string, p Progress) (string, error) {
	dir := limaToolsDir(cacheDir)
	path := filepath.Join(dir, "bin", "limactl")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if runtime.GOOS != "linux" {
		// On macOS limactl needs cgo and a signature to use the hypervisor.
		return "", hint.Errorf("run `brew install lima`", "devbox builds limactl on Linux only")
	}
	arch, err := limaArch(runtime.GOARCH)
	if err != nil {
		return "", err
	}
	if _, err := exec.LookPath("go"); err != nil {
		return "", hint.Errorf("install Go (https://go.dev/dl), or Lima itself (https://lima-vm.io)", "build limactl: no go command")
	}
	lock, err := takeLock(ctx, filepath.Join(cacheDir, "lima.lock"), p)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, err := os.Stat(path); err == nil { // the one we waited for built it
		return path, nil
	}
	work := filepath.Join(cacheDir, "lima-unfinished")
	if err := removeTree(work); err != nil { // what a killed build left
		return "", err
	}
	defer os.RemoveAll(work)
	mod, out := filepath.Join(work, "mod"), filepath.Join(work, "out")
	if err := os.MkdirAll(mod, 0o755); err != nil {
		return "", err
	}
	for name, content := range map[string][]byte{"go.mod": template.ToolsMod, "go.sum": template.ToolsSum} {
		if err := os.WriteFile(filepath.Join(mod, name), content, 0o644); err != nil {
			return "", err
		}
	}
	for _, part := range []struct{ pkg, out string }{
		{"cmd/limactl", "bin/limactl"},
		{"cmd/lima-guestagent", "share/lima/lima-guestagent.Linux-" + arch},
	} {
		p.Step("build %s %s from its module (a minute or two)", filepath.Base(part.pkg), LimaVersion)
		if err := goBuild(ctx, lock, mod, limaModule+"/"+part.pkg, filepath.Join(out, part.out)); err != nil {
			return "", err
		}
	}
	if err := os.Rename(out, dir); err != nil {
		return "", fmt.Errorf("install limactl: %w", err)
	}
	return path, nil
}

// goBuild builds one program of the pinned module in dir. `go install
// PKG@VERSION` would ask the proxy for the list of versions, which some do not
// serve; a module that pins everything asks for nothing but what it names.
func goBuild(ctx context.Context, lock *os.File, dir, pkg, out string) error {
	build := tool{
		args: []string{"go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false",
			"-ldflags=-s -w -X " + limaModule + "/pkg/version.Version=" + LimaVersion, "-o", out, pkg},
		dir: dir, lock: lock,
		env: []string{"CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GO111MODULE=on", "GOOS=", "GOARCH="},
	}
	if _, err := build.run(ctx); err != nil {
		err = fmt.Errorf("build %s: %w", pkg, err)
		if ctx.Err() != nil {
			return err
		}
		if err = hint.Full(err, roomFor(dir, "XDG_CACHE_HOME")); hint.Of(err) != "" {
			return err
		}
		return hint.Wrap(err, "see that the Go module proxy can be reached")
	}
	return nil
}
