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

// Need is a program that devbox calls, and Debian's package of it.
type Need struct{ Tool, Package string }

var nspawnNeeds = []Need{
	{"systemd-nspawn", "systemd-container"}, {"mmdebstrap", "mmdebstrap"}, {"ip", "iproute2"}, {"nft", "nftables"},
	{"tar", "tar"}, {"losetup", "mount"},
}

// limaNeeds are the programs that limactl calls.
func limaNeeds(goos, goarch string) []Need {
	all := []Need{{"ssh", "openssh-client"}, {"ssh-keygen", "openssh-client"}}
	if goos != "linux" {
		return all // macOS brings its own hypervisor
	}
	all = append(all, Need{"qemu-img", "qemu-utils"})
	switch goarch {
	case "amd64":
		all = append(all, Need{"qemu-system-x86_64", "qemu-system-x86"})
	case "arm64":
		all = append(all, Need{"qemu-system-aarch64", "qemu-system-arm"})
	}
	return all
}

// diskNeeds are what building a base disk takes, where the pinned image cannot
// be fetched.
func diskNeeds(uid int) []Need {
	all := []Need{{"mmdebstrap", "mmdebstrap"}, {"mke2fs", "e2fsprogs"}, {"qemu-img", "qemu-utils"}}
	if uid != 0 {
		all = append(all, Need{"newuidmap", "uidmap"})
	}
	return all
}

func installed(tool string) bool {
	_, err := lookTool(tool)
	return err == nil
}

// lacking are those of needs that this computer does not have.
func lacking(needs []Need, has func(tool string) bool) []Need {
	return slices.DeleteFunc(slices.Clone(needs), func(n Need) bool { return has(n.Tool) })
}

func packagesOf(needs []Need) []string {
	var all []string
	for _, n := range needs {
		if !slices.Contains(all, n.Package) {
			all = append(all, n.Package)
		}
	}
	return all
}

// notInstalled is the error for what is lacking, nil for nothing. who is what
// needs it, as in "Lima needs".
func notInstalled(who string, lacking []Need) error {
	if len(lacking) == 0 {
		return nil
	}
	var tools []string
	for _, n := range lacking {
		tools = append(tools, n.Tool)
	}
	return hint.Errorf("run `devbox doctor --fix`, or `apt-get install "+strings.Join(packagesOf(lacking), " ")+"`",
		"%s %s, not installed here", who, strings.Join(tools, ", "))
}

// CheckInstalled is the error for those of needs that are not installed here, nil for
// none.
func CheckInstalled(needs []Need) error {
	return notInstalled("devbox needs", lacking(needs, installed))
}

// Prepare installs what a driver needs, and also: Debian's packages, as root or
// through sudo without a password, and limactl, built from its Go module where
// there is none. It does nothing where nothing is missing. As root it installs
// the packages alone and says who is to build limactl.
func Prepare(ctx context.Context, driver string, spec Spec, also []Need, p Progress) error {
	needs := nspawnNeeds
	if driver == DriverLima {
		needs = append(limaNeeds(runtime.GOOS, runtime.GOARCH), diskNeeds(os.Geteuid())...)
	}
	if runtime.GOOS == "linux" {
		needs = slices.Concat(needs, also)
		if err := installPackages(ctx, os.Geteuid(), packagesOf(lacking(needs, installed)), p); err != nil {
			return err
		}
	}
	if driver != DriverLima {
		return nil
	}
	if _, err := findLimactl(ctx, spec.CacheDir); err == nil {
		return nil
	}
	if err := ownCache(os.Geteuid()); err != nil {
		return err
	}
	_, err := InstallLima(ctx, spec.CacheDir, p)
	return err
}

// ownCache refuses to build limactl where nobody would find it: in the cache of
// root, whom Lima refuses.
func ownCache(uid int) error {
	if uid != 0 {
		return nil
	}
	return hint.Errorf("run `devbox doctor --fix --driver lima` as the user who will use Lima",
		"build limactl: it belongs into the cache of the user who runs it, and Lima refuses to run as root")
}

func installPackages(ctx context.Context, uid int, packages []string, p Progress) error {
	if len(packages) == 0 {
		return nil
	}
	list := strings.Join(packages, " ")
	if !installed("apt-get") {
		return hint.Errorf("install what these Debian packages hold with your system's package manager: "+list,
			"install %s: there is no apt-get here", list)
	}
	if uid != 0 && exec.CommandContext(ctx, "sudo", "-n", "true").Run() != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("install %s: %w", list, context.Cause(ctx))
		}
		return hint.Errorf("run as root: apt-get update && apt-get install -y "+list,
			"install %s: this needs root, and sudo does not work without a password", list)
	}
	for _, args := range aptCommands(uid, packages) {
		p.Step("%s", strings.Join(args[slices.Index(args, "apt-get"):], " "))
		if _, err := run(ctx, args...); err != nil {
			return hint.Wrap(fmt.Errorf("install %s: %w", list, err), "see that `apt-get update` works and that there is room on the disk")
		}
	}
	return nil
}

// aptCommands read the package lists and install packages, without questions
// and behind whoever holds dpkg's lock, such as unattended-upgrades.
func aptCommands(uid int, packages []string) [][]string {
	apt := []string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"}
	if uid != 0 {
		apt = append([]string{"sudo", "-n"}, apt...) // it drops our environment
	}
	return [][]string{
		slices.Concat(apt, []string{"update"}),
		slices.Concat(apt, []string{"install", "-y", "--no-install-recommends"}, packages),
	}
}
