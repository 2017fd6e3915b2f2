package facts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"devbox/internal/protocol"
)

// partTime is how long one part of the facts may take.
const partTime = 10 * time.Second

// Options say what to collect.
type Options struct {
	App     string
	Apps    []string           // all that devbox runs on this host
	Units   []string           // that are App's, and not of one whose name begins alike
	History []protocol.Release // of App, newest first
	Updates bool               // ask apt for updates, which takes it seconds
}

// host is where facts are read.
type host struct {
	root string // "/" but in tests
	run  func(ctx context.Context, name string, args ...string) ([]byte, error)
	// Each is read once.
	dpkg    func() (*database, error)
	owned   func() (map[string]string, error)
	scripts func() ([][]byte, error)
}

func newHost(root string, run func(context.Context, string, ...string) ([]byte, error)) *host {
	h := &host{root: root, run: run}
	h.dpkg = sync.OnceValues(h.readDpkg)
	h.owned = sync.OnceValues(h.readOwned)
	h.scripts = sync.OnceValues(h.readScripts)
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.root, name) }

// text is a small file's content without white space around it.
func (h *host) text(name string) (string, error) {
	data, err := os.ReadFile(h.path(name))
	return strings.TrimSpace(string(data)), err
}

// there makes err nil if it says that a file is not there.
func there(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Collect reads the facts of this host, as root.
func Collect(ctx context.Context, o Options) *Facts {
	f := &Facts{App: o.App, At: time.Now().UTC().Truncate(time.Second), Apps: o.Apps}
	f.Running, f.Rollback = fromHistory(o.History)
	read := parts
	if o.Updates {
		read = append(read[:len(read):len(read)], part{"updates", (*host).updates})
	}
	newHost("/", run).collect(ctx, f, read)
	maps.DeleteFunc(f.Units, func(unit, _ string) bool { return !slices.Contains(o.Units, unit) })
	return f
}

// fromHistory finds what runs, and the last release that was not kept or that
// brought back an older one.
func fromHistory(newestFirst []protocol.Release) (running, rollback *protocol.Release) {
	for i := range newestFirst {
		r := &newestFirst[i]
		if running == nil && r.Outcome == protocol.Committed {
			running = r
		}
		if rollback == nil && (r.Outcome != protocol.Committed || r.Of != "") {
			rollback = r
		}
	}
	return running, rollback
}

// part is one read of the host. Each writes fields of its own.
type part struct {
	name string
	read func(*host, context.Context, *Facts) error
}

var parts = []part{
	{"system", (*host).system},
	{"provision", (*host).provision},
	{"packages", (*host).packages},
	{"files", (*host).files},
	{"users", (*host).users},
	{"units", (*host).units},
	{"enabled units", (*host).enabled},
	{"failed units", (*host).failed},
	{"sysctls", (*host).sysctls},
	{"sudoers", (*host).sudoers},
	{"sshd", (*host).sshd},
	{"ports", (*host).ports},
	{"disks", (*host).disks},
	{"reboot", (*host).reboot},
	{"certificate", (*host).certificate},
}

func (h *host) collect(ctx context.Context, f *Facts, parts []part) {
	var wg sync.WaitGroup
	errs := make([]error, len(parts))
	for i, p := range parts {
		wg.Go(func() {
			ctx, cancel := context.WithTimeoutCause(ctx, partTime, fmt.Errorf("not read within %v", partTime))
			defer cancel()
			errs[i] = p.read(h, ctx, f)
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			f.Unknown = append(f.Unknown, Unknown{parts[i].name, err.Error()})
		}
	}
}

// run runs a program and returns its standard output.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root"}
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	if err != nil {
		if said := strings.TrimSpace(errs.String()); said != "" {
			first, _, _ := strings.Cut(said, "\n")
			err = fmt.Errorf("%w: %.200s", err, first)
		}
		return out.Bytes(), fmt.Errorf("%s: %w", name, err)
	}
	return out.Bytes(), nil
}
