package protocol

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"reflect"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds on what a client may ask for.
const (
	MaxImage     = 16 << 30 // size of an image, bytes
	MaxDeadline  = 10 * time.Minute
	MaxTrial     = 10 * time.Minute
	MaxKeep      = 100       // releases that keep their images
	maxSignature = 16 << 10  // bytes
	maxName      = 32        // of an app, bytes
	maxUnit      = 128       // of a unit's name, bytes
	maxEnv       = 256       // variables per unit
	maxValue     = 32 << 10  // of a variable's value, bytes
	maxText      = 200       // of By and Source, runes
	maxCommand   = 8 << 10   // bytes
	maxArgs      = 64        // of a check, its program included
	pageSize     = 4096      // image sizes are a multiple: the loop device would cut the tail
	digestSize   = 64        // hex digits
	envPrefix    = "DEVBOX_" // variables that devbox sets itself
)

var (
	appName     = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	hexDigits   = regexp.MustCompile(`^[0-9a-f]+$`)
	unitName    = regexp.MustCompile(`^[A-Za-z0-9:_.@-]+\.(service|socket|timer|path|target)$`)
	envName     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	releaseID   = regexp.MustCompile(`^r[1-9][0-9]{0,8}$`)
	profileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
)

// Validate refuses a request that has not exactly one field set, or whose
// field is out of bounds.
func (r Request) Validate() error {
	var errs []error
	set := 0
	check := func(name string, isSet bool, validate func() error) {
		if !isSet {
			return
		}
		set++
		if err := validate(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	check("hello", r.Hello != nil, func() error { return r.Hello.Validate() })
	check("receive", r.Receive != nil, func() error { return r.Receive.Validate() })
	check("activate", r.Activate != nil, func() error { return r.Activate.Validate() })
	check("status", r.Status != nil, func() error { return ValidApp(r.Status.App) })
	check("releases", r.Releases != nil, func() error { return ValidApp(r.Releases.App) })
	check("data", r.Data != nil, func() error { return ValidApp(r.Data.App) })
	check("recover", r.Recover != nil, func() error { return ValidApp(r.Recover.App) })
	check("forget", r.Forget != nil, func() error { return ValidApp(r.Forget.App) })
	if set != 1 {
		return fmt.Errorf("a request has one of hello, receive, activate, status, releases, data, recover and forget, this one has %d", set)
	}
	return errors.Join(errs...)
}

// Validate checks the app's name; the protocol's version is for the host to
// judge, which knows its own.
func (h Hello) Validate() error { return ValidApp(h.App) }

// Validate checks names, digests and size.
func (r Receive) Validate() error {
	if err := ValidApp(r.App); err != nil {
		return err
	}
	if err := ValidDigest(r.Digest); err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	if r.Base != "" {
		if err := ValidDigest(r.Base); err != nil {
			return fmt.Errorf("base: %w", err)
		}
	}
	if r.Size <= 0 || r.Size > MaxImage {
		return fmt.Errorf("size: %d bytes, an image has 1 to %d", r.Size, int64(MaxImage))
	}
	if r.Size%pageSize != 0 {
		return fmt.Errorf("size: %d bytes are no multiple of %d: the loop device would cut the tail", r.Size, pageSize)
	}
	return nil
}

// Validate checks names, digest, settings and texts.
func (a Activate) Validate() error {
	if err := ValidApp(a.App); err != nil {
		return err
	}
	if a.Release != "" {
		if a.Digest != "" || a.Signature != "" || !reflect.DeepEqual(a.Settings, Settings{}) {
			return errors.New("a release of the history brings its own digest, settings and signature")
		}
		if a.Release != Previous && !releaseID.MatchString(a.Release) {
			return fmt.Errorf("release: %q is no release: they are called r1, r2, …", clip(a.Release, maxName))
		}
	} else if err := ValidDigest(a.Digest); err != nil {
		return fmt.Errorf("digest: %w", err)
	} else if a.WithData {
		return errors.New("data comes back with a release of the history alone")
	}
	if err := a.Settings.Validate(a.App); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	if a.Instead != "" && a.Instead != NoRelease && !releaseID.MatchString(a.Instead) {
		return fmt.Errorf("instead: %q is no release: they are called r1, r2, …", clip(a.Instead, maxName))
	}
	if a.Keep < 0 || a.Keep > MaxKeep {
		return fmt.Errorf("keep: %d releases, 0 to %d", a.Keep, MaxKeep)
	}
	if len(a.Signature) > maxSignature || !utf8.ValidString(a.Signature) {
		return fmt.Errorf("signature: it is text of at most %d bytes", maxSignature)
	}
	if err := validText(a.By); err != nil {
		return fmt.Errorf("by: %w", err)
	}
	if err := validText(a.Source); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	return nil
}

// Validate checks the settings of a release of app.
func (s Settings) Validate(app string) error {
	if s.Profile != "" && !profileName.MatchString(s.Profile) {
		return fmt.Errorf("profile %q is no profile's name", s.Profile)
	}
	for unit, env := range s.Env {
		if err := ValidUnit(app, unit); err != nil {
			return fmt.Errorf("env: %w", err)
		}
		if !strings.HasSuffix(unit, ".service") {
			return fmt.Errorf("env: %s is no service: only services have an environment", unit)
		}
		if err := validEnv(env); err != nil {
			return fmt.Errorf("env of %s: %w", unit, err)
		}
	}
	if s.Trial < 0 || s.Trial > MaxTrial {
		return fmt.Errorf("trial %s, 0 to %s", s.Trial, MaxTrial)
	}
	if err := s.State.validate(); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return s.Health.validate()
}

func (s State) validate() error {
	if s.Snapshot != "" && s.Snapshot != BeforeActivate {
		return fmt.Errorf("snapshot %q: it is %s or not set", clip(s.Snapshot, maxText), BeforeActivate)
	}
	if s.Check == nil {
		return nil
	}
	if len(s.Check) == 0 {
		return errors.New("check names no program")
	}
	size := 0
	for _, arg := range s.Check {
		size += len(arg)
		if !utf8.ValidString(arg) || strings.ContainsFunc(arg, unicode.IsControl) {
			return errors.New("check has an argument with control characters")
		}
	}
	if len(s.Check) > maxArgs || size > maxCommand {
		return fmt.Errorf("check has %d words of %d bytes, at most %d of %d", len(s.Check), size, maxArgs, maxCommand)
	}
	if program := s.Check[0]; !path.IsAbs(program) || path.Clean(program) != program || program == "/" {
		return fmt.Errorf("check: %q is not the path of a program in the image", clip(program, maxText))
	}
	return nil
}

func validEnv(env map[string]string) error {
	if len(env) > maxEnv {
		return fmt.Errorf("%d variables, at most %d", len(env), maxEnv)
	}
	for name, value := range env {
		switch {
		case !envName.MatchString(name) || len(name) > maxUnit:
			return fmt.Errorf("%q is no variable's name", name)
		case strings.HasPrefix(name, envPrefix):
			return fmt.Errorf("%s: names that begin with %s are set by devbox itself", name, envPrefix)
		case len(value) > maxValue:
			return fmt.Errorf("%s: value of %d bytes, at most %d", name, len(value), maxValue)
		case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
			return fmt.Errorf("%s: value is not UTF-8 text without NUL", name)
		}
	}
	return nil
}

func (h Health) validate() error {
	if h.Deadline < 0 || h.Deadline > MaxDeadline {
		return fmt.Errorf("health deadline %s, 0 to %s", h.Deadline, MaxDeadline)
	}
	if h.URL != "" && h.Command != "" {
		return errors.New("health has a URL and a command, it is one of them")
	}
	if h.URL != "" {
		u, err := url.Parse(h.URL)
		if err != nil || len(h.URL) > maxCommand || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
			return fmt.Errorf("health URL %q: it is http://HOST or https://HOST with port and path", clip(h.URL, maxText))
		}
	}
	if h.Expect != "" && h.URL == "" {
		return errors.New("health expects a text, and has no URL to find it at")
	}
	if len(h.Expect) > maxCommand || !utf8.ValidString(h.Expect) || strings.ContainsRune(h.Expect, 0) {
		return fmt.Errorf("health expects text of at most %d bytes without NUL", maxCommand)
	}
	if len(h.Command) > maxCommand || !utf8.ValidString(h.Command) || strings.ContainsRune(h.Command, 0) {
		return fmt.Errorf("health command: it is text of at most %d bytes without NUL", maxCommand)
	}
	return nil
}

// ValidApp checks an app's name: it becomes part of paths and unit names.
func ValidApp(app string) error {
	if !appName.MatchString(app) || len(app) > maxName {
		return fmt.Errorf("%q is no app's name: lower-case letters, digits and -, a letter first, at most %d", clip(app, maxName+1), maxName)
	}
	return nil
}

// ValidDigest checks an image digest.
func ValidDigest(digest string) error {
	if len(digest) != digestSize || !hexDigits.MatchString(digest) {
		return fmt.Errorf("%q is no digest: %d hex digits in lower case", clip(digest, digestSize+1), digestSize)
	}
	return nil
}

// ValidUnit checks that a unit's name is one that portabled installs for app:
// the app's name, then one of - . @, and the suffix of a kind of unit that a
// portable image may have. A name that ends in - is none: its drop-ins would be
// those of all units that begin so, of other apps and of the host (systemd.unit(5)).
func ValidUnit(app, unit string) error {
	rest, ok := strings.CutPrefix(unit, app)
	stem := strings.TrimSuffix(unit[:max(strings.LastIndexByte(unit, '.'), 0)], "@")
	if !ok || strings.HasSuffix(stem, "-") || rest == "" || !strings.ContainsRune("-.@", rune(rest[0])) || len(unit) > maxUnit || !unitName.MatchString(unit) {
		return fmt.Errorf("%q is no unit of %s: it is called %s.service, %s-NAME.socket or the like", clip(unit, maxUnit), app, app, app)
	}
	return nil
}

func validText(s string) error {
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > maxText {
		return fmt.Errorf("it is text of at most %d characters", maxText)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return errors.New("it has characters that cannot be printed")
	}
	return nil
}

func clip(s string, most int) string {
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
