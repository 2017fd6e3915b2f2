// Package facts says what a host is: its system, packages, settings, users and
// open ports, and what of the app is on it. It reads and changes nothing.
//
// Nothing secret is among the facts: no password hash, no private key, and of
// files that may hold secrets only a digest.
package facts

import (
	"time"

	"devbox/internal/protocol"
)

// Facts are what a host says of itself. A part that could not be read is
// empty, and Unknown says why: never is something missing without a word.
type Facts struct {
	App string    `json:"app"`
	At  time.Time `json:"at"` // by the host's clock

	System   System             `json:"system"`
	Packages map[string]Package `json:"packages"` // by name; of a foreign architecture name:arch

	Provision *Provision `json:"provision,omitempty"` // nil: no cloud-config was applied to its end
	Apps      []string   `json:"apps,omitempty"`      // all that devbox runs here

	Running *protocol.Release `json:"running,omitempty"`
	// Rollback is the last release that was not kept, or that brought back an older one.
	Rollback *protocol.Release `json:"rollback,omitempty"`

	Units   map[string]string `json:"units,omitempty"`   // attached units of the app -> SHA-256 of the file
	Enabled map[string]Unit   `json:"enabled,omitempty"` // units of the host that are enabled, masked or have another name
	Failed  []string          `json:"failed,omitempty"`  // units of the whole host

	// Files below /etc and /usr/local that are not as a package brought them,
	// by absolute path -> SHA-256, or "-> TARGET" of a link.
	Files map[string]string `json:"files,omitempty"`

	// Scripted are those of Files that a script of a package names: most likely
	// it made them.
	Scripted []string `json:"scripted,omitempty"`

	Sysctls map[string]string   `json:"sysctls,omitempty"` // live values of those that a file in sysctl.d sets, and some more
	Users   map[string]User     `json:"users,omitempty"`   // people and what no package made
	Sudoers map[string][]string `json:"sudoers,omitempty"` // file -> its lines, without comments
	SSHD    map[string]string   `json:"sshd,omitempty"`    // effective settings, as `sshd -T` says them
	Ports   map[string]Port     `json:"ports,omitempty"`   // "tcp 22" -> who listens

	Disks       []Disk       `json:"disks,omitempty"`
	Updates     *Updates     `json:"updates,omitempty"` // only if asked for
	Reboot      []string     `json:"reboot,omitempty"`  // why a reboot is needed
	Stale       []string     `json:"stale,omitempty"`   // units that run with a library that was replaced since
	Certificate *Certificate `json:"certificate,omitempty"`

	Unknown []Unknown `json:"unknown,omitempty"`
}

// System is what kind of machine a host is.
type System struct {
	Host     string `json:"host"`
	OS       string `json:"os"`       // ID and VERSION_ID of os-release: "debian 13"
	Point    string `json:"point"`    // point release: "13.1"
	Systemd  string `json:"systemd"`  // "257.13-1~deb13u1"
	Kernel   string `json:"kernel"`   // uname -r
	Arch     string `json:"arch"`     // as GOARCH names it
	Virt     string `json:"virt"`     // systemd-detect-virt: "kvm", "systemd-nspawn", "none"
	Timezone string `json:"timezone"` // "Etc/UTC"
}

// Package is one that is installed.
type Package struct {
	Version string `json:"version"`
	// Base says that it belongs to every Debian by its priority.
	Base bool `json:"base,omitempty"`
	// Auto says that another one needs it, or was what brought it.
	Auto bool `json:"auto,omitempty"`
}

// Unit is a unit of the host that somebody switched on or off.
type Unit struct {
	State   string `json:"state"`             // "enabled", "masked" or "alias of UNIT"
	Package string `json:"package,omitempty"` // that has the unit
}

// Provision is the record of the cloud-config that was applied.
type Provision struct {
	Hash    string    `json:"hash"` // SHA-256, hex
	Version int       `json:"version"`
	At      time.Time `json:"at"`
}

// User is an account.
type User struct {
	UID      int      `json:"uid"`
	Shell    string   `json:"shell"`
	Groups   []string `json:"groups,omitempty"`   // without the one of the same name
	Keys     []string `json:"keys,omitempty"`     // fingerprints of authorized keys
	Password bool     `json:"password,omitempty"` // a password lets it in
}

// Port is a socket that listens.
type Port struct {
	Address string `json:"address"` // "*" is every one
	By      string `json:"by"`      // unit, or program if it is in no unit of its own
}

// Disk is a mounted file system.
type Disk struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // bytes
	Free int64  `json:"free"` // bytes, for users other than root
}

// Updates are what apt would install, by the lists that it read last.
type Updates struct {
	Pending  []string  `json:"pending,omitempty"`  // packages
	Security []string  `json:"security,omitempty"` // those of them from the security archive
	Lists    time.Time `json:"lists,omitzero"`     // when the lists were read
}

// Certificate is what the health check's https address answers with.
type Certificate struct {
	URL     string    `json:"url"`
	Names   []string  `json:"names,omitempty"`
	Expires time.Time `json:"expires"`
}

// Unknown is a part that could not be read.
type Unknown struct {
	Part string `json:"part"`
	Why  string `json:"why"`
}
