package release

import (
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"

	"devbox/internal/hint"
	"devbox/internal/image"
	"devbox/internal/protocol"
)

// unitFile is a unit as an image has it.
type unitFile struct {
	image.Unit
	Body    []byte
	Install string   // the [Install] section, see [image.Unit.Section], "" if there is none
	Oneshot bool     // Type=oneshot that does not remain after exit
	Order   []string // the units of After=
	Before  []string // the units of Before=
}

// target is what shall run: a release and the units of its image.
type target struct {
	Release protocol.Release
	Units   []unitFile // sorted by name
}

// profile that the services run under.
func (t target) profile() string {
	if t.Release.Settings.Profile != "" {
		return t.Release.Settings.Profile
	}
	return "default"
}

func (t target) unit(name string) (unitFile, bool) {
	for _, u := range t.Units {
		if u.Name == name {
			return u, true
		}
	}
	return unitFile{}, false
}

// wanted says whether a unit shall be running whenever the release is: sockets,
// what a socket starts, and what is enabled. Others are started by a timer, by
// another unit or by a person.
func (t target) wanted(u unitFile) bool {
	switch {
	case isTemplate(u.Name) || u.Oneshot:
		return false
	case u.Type == "socket" || u.Install != "":
		return true
	}
	return slices.ContainsFunc(t.Units, func(s unitFile) bool { return s.Type == "socket" && s.Service == u.Name })
}

// enabled are the units that start at boot, or with another.
func (t target) enabled() []string {
	var names []string
	for _, u := range t.Units {
		if u.Install != "" {
			names = append(names, u.Name)
		}
	}
	return names
}

func isTemplate(unit string) bool { return strings.Contains(unit, "@.") }

// targetOf reads the units of an image for a release.
func targetOf(img *image.Image, app string, r protocol.Release) (target, error) {
	units, err := img.Units()
	if err != nil {
		return target{}, err
	}
	t := target{Release: r}
	for _, u := range units {
		// The image may name more prefixes; only the app's own are attached.
		if !image.MatchesPrefix(u.Name, app) {
			continue
		}
		if err := protocol.ValidUnit(app, u.Name); err != nil {
			return target{}, hint.Wrap(err, "rename "+u.Path+" of the image")
		}
		body, err := fs.ReadFile(img.FS(), u.Path)
		if err != nil {
			return target{}, fmt.Errorf("read unit %s: %w", u.Name, err)
		}
		t.Units = append(t.Units, newUnitFile(u, body))
	}
	if len(t.Units) == 0 {
		return target{}, hint.Errorf("units are named after the app: "+app+".service, "+app+".socket, "+app+"-NAME.service",
			"the image has no unit of %s", app)
	}
	for name := range r.Settings.Env {
		if _, ok := t.unit(name); !ok {
			return target{}, hint.Errorf("name a service of the image: "+t.names(), "settings have an environment for %s, the image has no such unit", name)
		}
	}
	return t, nil
}

func (t target) names() string {
	var names []string
	for _, u := range t.Units {
		names = append(names, u.Name)
	}
	return strings.Join(names, ", ")
}

func newUnitFile(u image.Unit, body []byte) unitFile {
	return unitFile{
		Unit: u, Body: body, Install: u.Section("Install"),
		Oneshot: u.Last("Service", "Type") == "oneshot" && !u.Yes("Service", "RemainAfterExit"),
		Order:   u.Words("Unit", "After"), Before: u.Words("Unit", "Before"),
	}
}

// dropIn is devbox's own drop-in for a service: the release's settings, and
// where it finds which release it is. PID 1 reads release.env at each start, so
// a switch needs no daemon-reload.
func (t target) dropIn(p place, unit string) string {
	var b strings.Builder
	b.WriteString("# Written by devbox-host at each activation.\n[Service]\n")
	fmt.Fprintf(&b, "EnvironmentFile=-%s\n", p.env())
	env := t.Release.Settings.Env[unit]
	names := make([]string, 0, len(env))
	for name := range env {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(&b, "Environment=\"%s=%s\"\n", name, quoteValue.Replace(env[name]))
	}
	return b.String()
}

// quoteValue escapes what systemd.syntax(7) and specifiers give a meaning.
var quoteValue = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "\n", `\n`, "\r", `\r`, "\t", `\t`)

// Variables by which a process knows which release it is.
const (
	versionVar = "DEVBOX_VERSION"
	releaseVar = "DEVBOX_RELEASE"
)

// envFile is what release.env holds for this release.
func (t target) envFile() []byte {
	return fmt.Appendf(nil, "%s=%s\n%s=%s\n", versionVar, short(t.Release.Digest), releaseVar, t.Release.ID)
}

// short is the version that a digest gives an image (delta.Digest.Short).
func short(digest string) string { return digest[:12] }
