// Package config reads devbox.yaml, the one file that tells devbox how an app
// is built, what its image holds and what machine it runs on.
//
// The file is decoded strictly and every mistake in it is reported at once, as
// [Mistakes], each with its place, its field and its cure. The struct tags
// below are the one source of field names, defaults and allowed values; the
// comments become the descriptions of the JSON schema.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"devbox/internal/hint"
)

// FileName is what the file is called, in the root of the user's repository.
const FileName = "devbox.yaml"

// maxFile in bytes and maxDepth in open brackets bound the file: the time that
// goccy/go-yaml takes grows with the square of either (1.4 s for 16 KiB of `[`).
const (
	maxFile  = 64 << 10
	maxDepth = 100
)

// Config is devbox.yaml with all defaults filled in. Paths are kept as
// written, relative to Dir and slash-separated; [Config.Abs] resolves them.
type Config struct {
	// Dir is the absolute folder that holds the file.
	Dir string `yaml:"-"`

	// Name of the app: units and the image are named after it. Lower-case
	// letters, digits and dashes, beginning with a letter, not ending with a
	// dash, 32 at most. Without `_`, because systemd-portabled cuts the name of
	// an image there.
	Name string `yaml:"name" jsonschema:"required,pattern=^[a-z]([a-z0-9-]{0\\,30}[a-z0-9])?$"`

	// How the app is compiled, on this computer.
	Build Build `yaml:"build"`

	// What goes into the image, and how the image is attached.
	Image Image `yaml:"image"`

	// What `devbox watch` follows.
	Watch Watch `yaml:"watch"`

	// The cloud-config that sets up every host, the dev machine and the
	// server alike. May lie outside of this folder, where apps share a host.
	CloudInit string `yaml:"cloud_init" jsonschema:"default=cloud-init/server.yaml"`

	// The dev machine.
	Machine Machine `yaml:"machine"`

	// Environment variables on the dev machine: for each service of the app
	// (its whole unit name) the variables and their values. They are written
	// as a drop-in on the host and never become part of the image.
	Env map[string]map[string]string `yaml:"env"`

	// When a new version counts as good. With neither url nor command it is
	// enough that all its units come up and stay up.
	Health Health `yaml:"health"`

	// What devbox is to know of the data that the app stores.
	State State `yaml:"state"`
	// How `devbox drill` rehearses a disaster.
	Drill Drill `yaml:"drill"`

	// Servers that the app is deployed to, each by a name of your own: `devbox
	// deploy prod` deploys to `prod`. No server is named dev, which is what
	// devbox calls the dev machine.
	Targets map[string]Target `yaml:"targets"`

	// The user that devbox logs in as on a host. The cloud-config makes this
	// user and lets it run devbox-host, nothing else.
	DeployUser string `yaml:"deploy_user" jsonschema:"default=deploy,pattern=^[a-z_][a-z0-9_-]{0\\,31}$"`
}

// Build is how the app is compiled.
type Build struct {
	// A command for `sh -c`, run with GOOS and GOARCH of the host (asked of
	// it), CGO_ENABLED=0 and DEVBOX_STAGE in its environment. What it puts
	// into the folder DEVBOX_STAGE goes into the image at the same path.
	Command string `yaml:"command"`

	// The folder to run the command in. May lie outside of this one.
	Dir string `yaml:"dir" jsonschema:"default=."`
}

// Image is what goes into the image file.
type Image struct {
	// A folder of this repository that is copied into the image as it is:
	// units below usr/lib/systemd/system, configuration below etc.
	Tree string `yaml:"tree"`

	// Single files, or folders with all below, to copy into the image after the
	// tree and the build.
	Files []File `yaml:"files"`

	// File system of the image. erofs is the fastest to build, start and
	// send; squashfs needs mksquashfs and makes smaller files.
	Format string `yaml:"format" jsonschema:"enum=erofs,enum=squashfs,default=erofs"`

	// The portable profile: what systemd sets for all services of the app on top
	// of their units. default, nonetwork, strict and trusted are systemd's own;
	// another one is in /etc/systemd/portable/profile of the host, where the
	// cloud-config can put it.
	Profile string `yaml:"profile" jsonschema:"default=default,pattern=^[A-Za-z0-9][A-Za-z0-9_-]*$"`
}

// File is one file to copy into the image.
type File struct {
	// The file or folder in this repository. With build.command it may be
	// something that the build makes.
	From string `yaml:"from" jsonschema:"required"`

	// The absolute path in the image.
	To string `yaml:"to" jsonschema:"required,pattern=^/"`

	// Permissions in octal, such as 0640. Default: 0755 if the source is
	// executable, else 0644.
	Mode Mode `yaml:"mode"`
}

// Watch is what `devbox watch` follows.
type Watch struct {
	// Files and folders; folders with all below. May lie outside of this
	// folder.
	Paths []string `yaml:"paths" jsonschema:"default=."`

	// Patterns as in a .gitignore, on top of the .gitignore files, which are
	// honoured.
	Ignore []string `yaml:"ignore"`
}

// Machine is the dev machine.
type Machine struct {
	// Where the machine comes from: lima is a virtual machine, nspawn a
	// container booted by systemd-nspawn (Linux, as root). auto takes lima
	// where it can work.
	Driver string `yaml:"driver" jsonschema:"enum=auto,enum=lima,enum=nspawn,default=auto"`

	// Number of processors.
	CPUs int `yaml:"cpus" jsonschema:"default=2,minimum=1"`

	// Memory, such as 2GiB.
	Memory Size `yaml:"memory" jsonschema:"default=2GiB"`

	// Size of a virtual machine's disk, such as 10GiB. A container has this
	// computer's.
	Disk Size `yaml:"disk" jsonschema:"default=10GiB"`

	// Disk images to boot from instead of the Debian 13 that devbox pins, by
	// architecture: amd64, arm64.
	Base map[string]Base `yaml:"base"`

	// Ports of the machine that answer on 127.0.0.1 of this computer: "8080",
	// or "8080:80" where 8080 is here and 80 in the machine.
	Ports []Port `yaml:"ports"`

	// Folders of other apps, each with a devbox.yaml of its own, that run on the
	// dev machine beside this one: another app of the same server, or what stands
	// in for services of others. `devbox up` brings them up first, in this order.
	// Their own `machine` counts for its secrets alone, their cloud-config not at
	// all.
	Beside []string `yaml:"beside"`

	// Values of secrets that are none: those that only the stand-ins of the dev
	// machine know. `devbox up` sets what is not set there. Others belong to
	// `devbox secret set`.
	Secrets map[string]string `yaml:"secrets"`
}

// Base is a disk image and what its content must be.
type Base struct {
	// An https://, http:// or file:// address, or a path in this repository.
	URL string `yaml:"url" jsonschema:"required"`

	// What the file must be: sha512:… or sha256:… in hex.
	Digest string `yaml:"digest" jsonschema:"required,pattern=^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"`
}

// Health says when a new version counts as good.
type Health struct {
	// Fetched on the host until the answer is a 2xx.
	URL string `yaml:"url"`

	// Text that the answer must have as well. ${DEVBOX_VERSION} in it stands
	// for the version that is being started, which the app finds in the
	// environment variable of that name: so no other version can answer for it.
	Expect string `yaml:"expect"`

	// Run on the host by `sh -c`, as an unprivileged user, until it exits
	// with 0.
	Command string `yaml:"command"`

	// How long the units and the check may take, together. At most 10m.
	Deadline Duration `yaml:"deadline" jsonschema:"default=10s"`
}

// State is what devbox is to know of the data that the app stores.
type State struct {
	// A program of the image and its arguments, which prints what there is to
	// say of the data as one JSON object.
	Check []string `yaml:"check"`

	// before-activate has every server keep a copy of the data as it was before
	// each new version. The dev machine keeps none.
	Snapshot string `yaml:"snapshot" jsonschema:"enum=none,enum=before-activate,default=none"`
}

// Drill is how a disaster is rehearsed.
type Drill struct {
	// Units that do not run in a rehearsal, because they would write to the
	// replica that it only reads.
	Without []string `yaml:"without"`

	// Ports of the dev machine's own address 127.0.0.1, such as that of a
	// stand-in for S3, that a rehearsal of the dev machine's loss reaches as its own.
	Ports []int `yaml:"ports"`
}

// Target is a server that the app is deployed to.
type Target struct {
	// Its address, or its name in ~/.ssh/config, which is honoured.
	Host string `yaml:"host" jsonschema:"required"`

	// The port of its SSH server. Default: that of ~/.ssh/config, or else 22.
	Port int `yaml:"port" jsonschema:"minimum=1"`

	// The user that `devbox provision` logs in as: root, or one who may use
	// sudo. `devbox deploy` logs in as deploy_user.
	User string `yaml:"user" jsonschema:"default=root,pattern=^[a-z_][a-z0-9_-]{0\\,31}$"`

	// Environment variables there, as `env` has them for the dev machine.
	Env map[string]map[string]string `yaml:"env"`

	// When a new version counts as good there. Default: as on the dev machine.
	Health Health `yaml:"health"`

	// How long a new version must stay up, and be healthy once more at the
	// end, before it is kept. At most 10m.
	Trial Duration `yaml:"trial" jsonschema:"default=10s"`

	// How many releases stay on the server to go back to, the running one
	// included. Never fewer than two.
	Keep int `yaml:"keep" jsonschema:"default=5,minimum=2"`

	// The SSH key that releases are signed with, private or public (then the
	// agent has the other half), for a server whose policy asks for
	// signatures. `~/` is your home folder.
	SigningKey string `yaml:"signing_key"`
}

// Abs resolves a path of the file against its folder.
func (c *Config) Abs(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(c.Dir, filepath.FromSlash(path))
}

// Load reads and checks the file at path. What is wrong in it comes back as
// [Mistakes], all at once.
func Load(path string) (*Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	f, err := os.Open(abs)
	if errors.Is(err, os.ErrNotExist) {
		return nil, hint.Errorf("run `devbox init` to write one", "%s: no such file", path)
	}
	if err != nil {
		return nil, fmt.Errorf("load config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	c, d := decode(data)
	if c != nil {
		c.Dir = filepath.Dir(abs)
		check(c, d)
	}
	if ms := d.sorted(path); len(ms) > 0 {
		return nil, ms
	}
	return c, nil
}

// Find looks for devbox.yaml in dir and the folders above it.
func Find(dir string) (string, error) {
	start, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", FileName, err)
	}
	for at := start; ; at = filepath.Dir(at) {
		path := filepath.Join(at, FileName)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
			return path, nil
		}
		if at == filepath.Dir(at) {
			return "", hint.Errorf("change into your app's repository, or run `devbox init` there",
				"no %s in %s or a folder above it", FileName, start)
		}
	}
}
