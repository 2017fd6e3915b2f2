package provision

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"devbox/internal/hint"
)

//go:embed look.sh
var lookScript string

// Seen is what a host is and has, as [Look] found it.
type Seen struct {
	OS    string // Debian GNU/Linux 13 (trixie), as it calls itself
	Arch  string // as GOARCH names it
	State State
	// Booting is true while cloud-init does what the provider gave the host to
	// boot with. What is seen meanwhile is half of it.
	Booting  bool
	HostTold string // the version that its devbox-host tells; "" if there is none
	// Trial is true if an earlier run left changes that no login has proved.
	Trial bool
	// Undone is what the last trial that failed brought back, a line each.
	Undone []string

	os, osVersion string
	init, systemd string // name of process 1, and of the systemd that is installed
	machine       string // as uname -m names it
	clock         time.Time
	skew          time.Duration
	readonly      []string
	space         map[string]int64 // free bytes by folder
	apt           string           // what is wrong with it
	packages      map[string]bool
	users, groups map[string]bool
	keys          map[string]string // authorized_keys by user
	files         map[string]seenFile
	written       map[string]string // the files at the end of the last run; nil if not known
}

// seenFile is a file of write_files that is there.
type seenFile struct {
	regular     bool
	sum         string
	mode, owner string
	content     []byte // its beginning, if it is longer than that
	size        int64
}

// line is how the file is told in provision.files.
func (f seenFile) line() string { return f.sum + " " + f.mode + " " + f.owner }

// Look asks a host, in one round trip and without changing anything, for all
// that the cloud-config asks of it. deployUser is whose keys are looked at.
func Look(ctx context.Context, r Runner, cloudConfig []byte, deployUser string) (*Seen, error) {
	w := readWanted(cloudConfig)
	args := []string{stateScript, HostPath, "keys", deployUser, "user", deployUser}
	for _, p := range append(w.packages, base...) {
		args = append(args, "package", p)
	}
	for _, u := range w.users {
		args = append(args, "user", u.name, "keys", u.name)
	}
	for _, g := range w.groups {
		args = append(args, "group", g)
	}
	for _, f := range w.files {
		args = append(args, "file", f.path)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("no answer for 2 minutes"))
	defer cancel()
	out, err := output(ctx, r, lookScript, nil, args...)
	if err != nil {
		return nil, fmt.Errorf("look at the host: %w", err)
	}
	s, err := parseSeen(string(out))
	if err != nil {
		return nil, fmt.Errorf("look at the host: %w", err)
	}
	s.skew = time.Until(s.clock)
	return s, nil
}

// AwaitBoot waits until what a host is [Seen.Booting] with has ended, well or not.
func AwaitBoot(ctx context.Context, r Runner) error {
	const limit = 15 * time.Minute
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("cloud-init has not ended within %s", limit))
	defer cancel()
	_, err := output(ctx, r, "cloud-init status --wait >/dev/null || true", nil)
	return err
}

func parseSeen(out string) (*Seen, error) {
	s := &Seen{
		space: map[string]int64{}, packages: map[string]bool{}, users: map[string]bool{}, groups: map[string]bool{},
		keys: map[string]string{}, files: map[string]seenFile{},
	}
	ended := false
	for l := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(l, "\n"), " ")
		if ended = f[0] == "end"; ended {
			break
		}
		if err := s.take(f[0], f[1:]); err != nil {
			return nil, fmt.Errorf("the host answers with %.80q: %w", l, err)
		}
	}
	if !ended {
		return nil, errors.New("the answer is cut off")
	}
	s.Arch = map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[s.machine]
	return s, nil
}

var errRecord = errors.New("no record")

// take reads one record. The words of a file that are no text come from sh.
func (s *Seen) take(kind string, words []string) error {
	if kind == "file" {
		return s.takeFile(words)
	}
	text := make([]string, max(len(words), 3))
	for i, w := range words {
		t, err := decode64(w)
		if err != nil {
			return errRecord
		}
		text[i] = t
	}
	switch kind {
	case "os":
		s.os, s.osVersion, s.OS = text[0], text[1], text[2]
	case "init":
		s.init, s.systemd = text[0], text[1]
	case "arch":
		s.machine = text[0]
	case "clock":
		n, err := strconv.ParseInt(text[0], 10, 64)
		if err != nil {
			return errRecord
		}
		s.clock = time.Unix(n, 0)
	case "readonly":
		s.readonly = append(s.readonly, text[0])
	case "space":
		if n, err := strconv.ParseInt(text[1], 10, 64); err == nil { // a file system without a limit says none
			s.space[text[0]] = n << 10
		}
	case "apt":
		s.apt = strings.TrimSpace(text[0])
	case "state":
		s.State = parseState([]byte(text[0]))
	case "host":
		s.HostTold = strings.TrimSpace(text[0])
	case "booting":
		s.Booting = true
	case "trial":
		s.Trial = true
	case "undone":
		s.Undone = lastLines(text[0], 100)
	case "package":
		s.packages[text[0]] = true
	case "user":
		s.users[text[0]] = true
	case "group":
		s.groups[text[0]] = true
	case "keys":
		s.keys[text[0]] = text[1]
	case "notfile":
		s.files[text[0]] = seenFile{}
	case "written":
		s.written = map[string]string{}
		for l := range strings.Lines(text[0]) {
			if f := strings.SplitN(strings.TrimSuffix(l, "\n"), " ", 4); len(f) == 4 {
				s.written[f[3]] = strings.Join(f[:3], " ")
			}
		}
	default:
		return errRecord
	}
	return nil
}

func (s *Seen) takeFile(words []string) error {
	if len(words) != 6 {
		return errRecord
	}
	path, perr := decode64(words[0])
	content, cerr := decode64(words[5])
	size, serr := strconv.ParseInt(words[4], 10, 64)
	if errors.Join(perr, cerr, serr) != nil {
		return errRecord
	}
	s.files[path] = seenFile{regular: true, sum: words[1], mode: words[2], owner: words[3], size: size, content: []byte(content)}
	return nil
}

// base is what devbox itself needs on a host and installs where it is missing:
// cloud-init to apply by, and sudo to be let in as root.
var base = []string{"cloud-init", "python3-jsonschema", "sudo"}

// BasePackages are what devbox installs on every host, whatever its cloud-config
// says.
func BasePackages() []string { return slices.Clone(base) }

// What a host must be.
const (
	wantOS      = "Debian 13"
	minSystemd  = 257
	maxSkew     = time.Hour // more, and no certificate and no package list is believed
	minSpace    = 64 << 20  // bytes that must be free on each file system
	minInstalls = 512 << 20 // and if packages are to be installed
)

// RefusedError is a host that devbox does not set up. Nothing was changed.
type RefusedError struct {
	Reasons []string
}

func (e *RefusedError) Error() string {
	return "refused, nothing was changed: " + strings.Join(e.Reasons, "; ")
}

var systemdVersion = regexp.MustCompile(`^systemd (\d+)`)

// Refuse says what keeps devbox from setting this host up: a *RefusedError
// with a cure, or nil.
func (s *Seen) Refuse(installs bool) error {
	var why []string
	add := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	cure := "set up a server with Debian 13 (trixie)"
	if s.os != "debian" || s.osVersion != "13" {
		name := s.OS
		if name == "" {
			name = strings.TrimSpace("something without a name " + s.os)
		}
		add("it is %s, not %s", name, wantOS)
	}
	m := systemdVersion.FindStringSubmatch(s.systemd)
	switch {
	case s.init != "systemd":
		add("its process 1 is %q, not systemd", s.init)
	case m == nil:
		add("its systemd does not tell its version")
	default:
		if n, _ := strconv.Atoi(m[1]); n < minSystemd {
			add("its systemd is %s, older than %d", m[1], minSystemd)
		}
	}
	if s.Arch == "" {
		add("it is a %q machine, neither x86_64 nor aarch64", s.machine)
	}
	if len(why) > 0 {
		return hint.Wrap(&RefusedError{why}, cure)
	}
	for _, d := range s.readonly {
		add("%s cannot be written to", d)
		cure = "look on the host at `findmnt -T " + d + "` and `dmesg`"
	}
	need := int64(minSpace)
	if installs {
		need = minInstalls
	}
	for _, d := range []string{"/etc", "/usr", "/var/lib"} {
		if free, ok := s.space[d]; ok && free < need {
			add("only %d MiB are free for %s, and %d are needed", free>>20, d, need>>20)
			cure = "free some space there; `df -h` and `du -xh --max-depth=2 / | sort -h` tell where it went"
		}
	}
	if installs && s.apt != "" {
		add("apt cannot be used: %s", strings.Join(lastLines(s.apt, 5), " "))
		cure = "on the host: `dpkg --configure -a`, then `apt-get --fix-broken install`"
	}
	if s.skew.Abs() > maxSkew {
		add("its clock says %s, which is %v from this computer's", s.clock.UTC().Format(time.RFC3339), s.skew.Abs().Round(time.Minute))
		cure = "set the clock that is wrong: `date -s`, or `timedatectl set-ntp true`"
	}
	if len(why) == 0 {
		return nil
	}
	return hint.Wrap(&RefusedError{why}, cure)
}
