package vm

import (
	"fmt"
	"strconv"

	"github.com/goccy/go-yaml"
	"github.com/lima-vm/lima/pkg/limayaml"
	"github.com/opencontainers/go-digest"

	_ "devbox/internal/homeless" // before limayaml
	template "devbox/templates/lima"
)

// This file alone knows Lima's Go types. Lima 2 reads what the types of 1.2
// write; what it prints is decoded in lima_list.go.

// limaImage is one image of a Lima configuration. Kernel and the fields after it
// are set for an image that is booted without a boot loader.
type limaImage struct {
	Location string
	Digest   string
	Kernel   string
	Initrd   string
	Cmdline  string
}

// limaArch is Lima's name of one of Go's architectures.
func limaArch(goarch string) (string, error) {
	switch goarch {
	case "amd64":
		return limayaml.X8664, nil
	case "arm64":
		return limayaml.AARCH64, nil
	}
	return "", fmt.Errorf("no Debian 13 machine for architecture %s", goarch)
}

func limaTemplate() (*limayaml.LimaYAML, error) {
	var y limayaml.LimaYAML
	if err := yaml.UnmarshalWithOptions(template.Debian13, &y, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("read Lima template: %w", err)
	}
	return &y, nil
}

// limaDefaultImages returns the template's images for an architecture: the
// pinned one, and the address of the newest, which has no digest.
func limaDefaultImages(goarch string) (pinned, newest limaImage, err error) {
	arch, err := limaArch(goarch)
	if err != nil {
		return pinned, newest, err
	}
	y, err := limaTemplate()
	if err != nil {
		return pinned, newest, err
	}
	for _, i := range y.Images {
		switch {
		case i.Arch != arch:
		case i.Digest != "":
			pinned = limaImage{Location: i.Location, Digest: string(i.Digest)}
		default:
			newest = limaImage{Location: i.Location}
		}
	}
	if pinned.Location == "" || newest.Location == "" {
		return pinned, newest, fmt.Errorf("read Lima template: no images for %s", arch)
	}
	return pinned, newest, nil
}

// limaConfig is what a machine adds to the template.
type limaConfig struct {
	CPUs        int
	MemoryBytes int64
	DiskBytes   int64
	GoArch      string
	GoOS        string
	Image       limaImage
	BootScript  string
}

// limaYAML is the configuration for `limactl create`.
func limaYAML(c limaConfig) ([]byte, error) {
	y, err := limaTemplate()
	if err != nil {
		return nil, err
	}
	arch, err := limaArch(c.GoArch)
	if err != nil {
		return nil, err
	}
	y.Arch = &arch
	y.CPUs = positive(c.CPUs)
	y.Memory = byteCount(c.MemoryBytes)
	y.Disk = byteCount(c.DiskBytes)
	if c.GoOS == "linux" && arch == limayaml.X8664 {
		// QEMU brings SeaBIOS; UEFI firmware would be one more package.
		y.Firmware.LegacyBIOS = ptr(true)
	}
	image := limayaml.Image{File: limayaml.File{
		Location: c.Image.Location, Arch: arch, Digest: digest.Digest(c.Image.Digest),
	}}
	if c.Image.Kernel != "" {
		image.Kernel = &limayaml.Kernel{
			File:    limayaml.File{Location: c.Image.Kernel, Arch: arch},
			Cmdline: c.Image.Cmdline,
		}
		image.Initrd = &limayaml.File{Location: c.Image.Initrd, Arch: arch}
	}
	// One image only: Lima would take the next one when a digest is wrong.
	y.Images = []limayaml.Image{image}
	y.Provision = []limayaml.Provision{{Mode: limayaml.ProvisionModeBoot, Script: c.BootScript}}
	b, err := limayaml.Marshal(y, false)
	if err != nil {
		return nil, fmt.Errorf("write Lima configuration: %w", err)
	}
	return b, nil
}

func ptr[T any](v T) *T { return &v }

func positive(n int) *int {
	if n <= 0 {
		return nil
	}
	return &n
}

func byteCount(n int64) *string {
	if n <= 0 {
		return nil
	}
	return ptr(strconv.FormatInt(n, 10))
}
