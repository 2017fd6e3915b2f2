package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"devbox/internal/hint"
)

// LimactlError is a limactl that exited with an error.
type LimactlError struct {
	Args     []string
	ExitCode int
	// Stderr is the end of what it wrote there.
	Stderr string
	// HostAgent and Console are the ends of the instance's ha.stderr.log and of
	// its serial console, empty if there are none.
	HostAgent string
	Console   string
}

func (e *LimactlError) Error() string {
	text := fmt.Sprintf("limactl %s: exit status %d", strings.Join(e.Args, " "), e.ExitCode)
	if why := lastMessage(e.Stderr); why != "" {
		text += ": " + why
	}
	return text
}

// Is tells a full disk by what limactl printed.
func (e *LimactlError) Is(target error) bool {
	return target == syscall.ENOSPC && hint.SaysFull(e.Stderr)
}

// Detail is what the instance's logs say, for a person, or "".
func (e *LimactlError) Detail() string {
	var b strings.Builder
	for _, log := range []struct{ name, text string }{
		{"limactl", e.Stderr}, {"host agent", e.HostAgent}, {"console", e.Console},
	} {
		if log.text != "" {
			fmt.Fprintf(&b, "%s:\n%s\n", log.name, strings.TrimRight(log.text, "\n"))
		}
	}
	return b.String()
}

// logMessage is the text of a line of logrus, limactl's logger.
var logMessage = regexp.MustCompile(`level=(?:fatal|error) msg=("(?:[^"\\]|\\.)*"|\S+)`)

// lastMessage is what limactl gave as the cause: its last error, or else the
// last line that it wrote.
func lastMessage(stderr string) string {
	if all := logMessage.FindAllStringSubmatch(stderr, -1); all != nil {
		msg := all[len(all)-1][1]
		if text, err := strconv.Unquote(msg); err == nil {
			return text
		}
		return msg
	}
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// tail is a writer that keeps the end of what it gets.
type tail struct {
	buf bytes.Buffer
	max int
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if over := t.buf.Len() - t.max; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

// logTail is the end of a file, "" if there is none.
func logTail(path string, max int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > max {
		f.Seek(-max, 2)
	}
	t := tail{max: int(max)}
	t.buf.ReadFrom(f)
	return strings.ToValidUTF8(t.buf.String(), "?")
}

// limactl runs one limactl.
type limactl struct {
	path    string
	version limaVersion
	env     []string // over the environment of this process
}

// maxOutput is more than any list of instances that a person has.
const maxOutput = 16 << 20

// run runs limactl to its end and returns its standard output. When ctx ends it
// is interrupted, and killed ten seconds later; a virtual machine that it started
// goes on.
func (l limactl) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, l.path, args...)
	cmd.Env = append(os.Environ(), l.env...)
	// A group of its own: Ctrl-C on the terminal is for devbox, which passes it on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stdout bytes.Buffer
	stderr := tail{max: 8 << 10}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cause := context.Cause(ctx); cause != nil && err != nil {
		return nil, fmt.Errorf("limactl %s: %w", strings.Join(args, " "), cause)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return stdout.Bytes(), &LimactlError{Args: args, ExitCode: exit.ExitCode(), Stderr: stderr.buf.String()}
	}
	if err != nil {
		return nil, fmt.Errorf("limactl %s: %w", strings.Join(args, " "), err)
	}
	if stdout.Len() > maxOutput {
		return nil, fmt.Errorf("limactl %s: %d bytes of output", strings.Join(args, " "), stdout.Len())
	}
	return stdout.Bytes(), nil
}

// list returns the instance of that name, nil if there is none.
func (l limactl) list(ctx context.Context, name string) (*limaInstance, error) {
	out, err := l.run(ctx, "list", "--json", name)
	// An unknown name exits with 1 and prints nothing, as do other errors. The
	// instance's folder tells them apart.
	if failed := new(LimactlError); errors.As(err, &failed) {
		if _, statErr := os.Lstat(filepath.Join(limaHome(), name)); errors.Is(statErr, os.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	all, err := decodeLimaList(out)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, nil
}

// limaVersion is the version of limactl. Zero is a build that does not know its
// own; it is used as the newest one.
type limaVersion struct{ major, minor, patch int }

var (
	oldestLima = limaVersion{1, 0, 0}
	versionRE  = regexp.MustCompile(`^limactl version v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?`)
)

func (v limaVersion) String() string {
	if v == (limaVersion{}) {
		return "of unknown version"
	}
	return fmt.Sprintf("%d.%d.%d", v.major, v.minor, v.patch)
}

func (v limaVersion) before(w limaVersion) bool {
	switch {
	case v.major != w.major:
		return v.major < w.major
	case v.minor != w.minor:
		return v.minor < w.minor
	}
	return v.patch < w.patch
}

// parseLimaVersion reads the output of `limactl --version`.
func parseLimaVersion(out string) (limaVersion, error) {
	out = strings.TrimSpace(out)
	if !strings.HasPrefix(out, "limactl version ") {
		return limaVersion{}, fmt.Errorf("%q is not a version of limactl", out)
	}
	m := versionRE.FindStringSubmatch(out)
	if m == nil {
		return limaVersion{}, nil
	}
	var v limaVersion
	v.major, _ = strconv.Atoi(m[1])
	v.minor, _ = strconv.Atoi(m[2])
	v.patch, _ = strconv.Atoi(m[3])
	if v != (limaVersion{}) && v.before(oldestLima) {
		return v, hint.Errorf("upgrade Lima, or run `devbox doctor --fix` to have devbox build its own",
			"limactl %s is too old: devbox needs %s or newer", v, oldestLima)
	}
	return v, nil
}

// findLimactl is the user's limactl, or else the one that InstallLima built:
// where there is none on PATH, or one that is too old.
func findLimactl(ctx context.Context, cacheDir string) (limactl, error) {
	built := filepath.Join(limaToolsDir(cacheDir), "bin", "limactl")
	_, statErr := os.Stat(built)
	users, err := exec.LookPath("limactl")
	switch {
	case err == nil:
		l, err := openLimactl(ctx, users)
		if err == nil || statErr != nil {
			return l, err
		}
	case statErr != nil:
		return limactl{}, hint.Errorf("run `devbox doctor --fix` to build it, or install Lima (https://lima-vm.io)",
			"limactl is not installed")
	}
	return openLimactl(ctx, built)
}

// openLimactl asks the program at path for its version.
func openLimactl(ctx context.Context, path string) (limactl, error) {
	l := limactl{path: path}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := l.run(ctx, "--version")
	if err != nil {
		return l, err
	}
	l.version, err = parseLimaVersion(string(out))
	if err != nil {
		return l, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// limaHome is where Lima keeps its instances.
func limaHome() string {
	if dir := os.Getenv("LIMA_HOME"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".lima")
}
