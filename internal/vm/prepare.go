package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"devbox/internal/hint"
)

// MissingPackages are the Debian packages that a driver still needs here,
// those of the base image's builder included. None are known for macOS.
func MissingPackages(driver string) []string {
	if runtime.GOOS != "linux" {
		return nil
	}
	var missing []string
	need := func(tool, pkg string) {
		if _, err := lookTool(tool); err != nil && !slices.Contains(missing, pkg) {
			missing = append(missing, pkg)
		}
	}
	if driver == DriverNspawn {
		for _, t := range nspawnTools {
			need(t.tool, t.pkg)
		}
		return missing
	}
	qemu := map[string][2]string{
		"amd64": {"qemu-system-x86_64", "qemu-system-x86"},
		"arm64": {"qemu-system-aarch64", "qemu-system-arm"},
	}[runtime.GOARCH]
	need(qemu[0], qemu[1])
	need("qemu-img", "qemu-utils")
	need("ssh", "openssh-client")
	need("mmdebstrap", "mmdebstrap") // builds the base image where the pinned one cannot be fetched
	need("newuidmap", "uidmap")      // lets it do so without root
	return missing
}

// Prepare installs what a driver needs: Debian's packages, as root or through
// sudo without a password, and limactl, built from its Go module where there
// is none. It does nothing where nothing is missing.
func Prepare(ctx context.Context, driver string, spec Spec, p Progress) error {
	if err := installPackages(ctx, MissingPackages(driver), p); err != nil {
		return err
	}
	if driver != DriverLima {
		return nil
	}
	if _, err := findLimactl(ctx, spec.CacheDir); err == nil {
		return nil
	}
	p.Step("build limactl %s from its Go module", LimaVersion)
	_, err := InstallLima(ctx, spec.CacheDir, p)
	return err
}

func installPackages(ctx context.Context, packages []string, p Progress) error {
	if len(packages) == 0 {
		return nil
	}
	list := strings.Join(packages, " ")
	var root []string
	if os.Geteuid() != 0 {
		root = []string{"sudo", "-n"}
		if err := exec.CommandContext(ctx, "sudo", "-n", "true").Run(); err != nil {
			return hint.Errorf(fmt.Sprintf("run as root: apt-get update && apt-get install -y %s", list),
				"install %s: this needs root, and sudo does not work without a password", list)
		}
	}
	if _, err := lookTool("apt-get"); err != nil {
		return hint.Errorf("install what these Debian packages hold with your system's package manager: "+list,
			"install %s: there is no apt-get here", list)
	}
	for _, args := range [][]string{
		{"apt-get", "update", "-qq"},
		slices.Concat([]string{"apt-get", "install", "-y", "-qq", "--no-install-recommends"}, packages),
	} {
		p.Step("%s", strings.Join(args, " "))
		t := tool{args: append(slices.Clone(root), args...), env: []string{"DEBIAN_FRONTEND=noninteractive"}}
		if _, err := t.run(ctx); err != nil {
			return fmt.Errorf("install %s: %w", list, err)
		}
	}
	return nil
}
