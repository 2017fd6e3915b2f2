package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/renameio/v2"
)

// Lima 1.x asks QEMU for KVM on every Linux, 2.x where /dev/kvm exists, whether
// or not the user may open it. Where it cannot be opened, devbox puts this script
// ahead of QEMU in limactl's PATH. It asks for the emulated processor instead.
const emulateScript = `#!/bin/sh
# made by devbox: this user cannot open /dev/kvm, so QEMU emulates the processor
after= tcg=
for arg do
  shift
  case $after:$arg in
  -machine:*accel=kvm* | -M:*accel=kvm*)
    arg=$(echo "$arg" | sed 's/,accel=kvm//') tcg=1 ;;
  -accel:kvm*) arg=tcg,thread=multi,tb-size=256 ;;
  -cpu:host*) arg=max ;;
  esac
  after=$arg
  set -- "$@" "$arg"
done
test -z "$tcg" || set -- "$@" -accel tcg,thread=multi,tb-size=256
exec %s "$@"
`

// canKVM says whether this user can have hardware virtualisation, and why not.
func canKVM() error {
	if runtime.GOOS != "linux" {
		return nil
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func qemuName(goarch string) (string, error) {
	arch, err := limaArch(goarch)
	return "qemu-system-" + arch, err
}

// emulateIn writes the script into dir and returns the environment that makes
// limactl find it.
func emulateIn(dir, goarch string) ([]string, error) {
	name, err := qemuName(goarch)
	if err != nil {
		return nil, err
	}
	real, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(emulateScript, shellQuote(real))
	if err := renameio.WriteFile(filepath.Join(dir, name), []byte(text), 0o700, renameio.IgnoreUmask()); err != nil {
		return nil, fmt.Errorf("write QEMU's wrapper: %w", err)
	}
	return []string{"PATH=" + dir + string(os.PathListSeparator) + os.Getenv("PATH")}, nil
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// emulated says whether the QEMU of that process id emulates its processor. Only
// Linux tells; elsewhere there is always a hypervisor.
func emulated(pid int) bool {
	if runtime.GOOS != "linux" || pid <= 0 {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(b), "\x00tcg,")
}
