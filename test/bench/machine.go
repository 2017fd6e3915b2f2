package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"devbox/internal/config"
	"devbox/internal/deploy"
	"devbox/internal/remote"
)

// bench is a machine of its own, made through the devbox that is measured.
type bench struct {
	options
	dir     string   // everything that the benchmark writes
	project string   // the copy of the app that devbox watches
	env     []string // of every command: homes below dir
	cache   string   // the user's cache of devbox, for what takes long to build
	conn    *remote.Conn
	admin   remote.Endpoint
	version string // that answers now
}

func newBench(ctx context.Context, o options) (*bench, error) {
	o, err := o.absolute()
	if err != nil {
		return nil, err
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, cache: filepath.Join(user, "devbox")}
	if err := os.MkdirAll(b.cache, 0o700); err != nil {
		return nil, err
	}
	// Not below /tmp, which may be memory: this is also where the machine lies.
	if b.dir, err = os.MkdirTemp(b.cache, "bench-"); err != nil {
		return nil, err
	}
	if err := b.prepare(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(b.dir))
	}
	return b, nil
}

// prepare makes a home of its own. What takes minutes to build comes from the
// user's cache; images and the stage do not, they belong to the user's own app.
func (b *bench) prepare(ctx context.Context) error {
	cache := filepath.Join(b.dir, "cache", "devbox")
	for _, name := range []string{"nspawn", "tools"} {
		if err := os.MkdirAll(filepath.Join(b.cache, name), 0o700); err != nil {
			return err
		}
		if err := os.MkdirAll(cache, 0o700); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join(b.cache, name), filepath.Join(cache, name)); err != nil {
			return err
		}
	}
	b.env = append(os.Environ(),
		"HOME="+filepath.Join(b.dir, "home"),
		"XDG_CACHE_HOME="+filepath.Join(b.dir, "cache"),
		"XDG_STATE_HOME="+filepath.Join(b.dir, "state"))
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} {
		out, err := exec.CommandContext(ctx, "go", "env", name).Output()
		if err != nil {
			return fmt.Errorf("go env %s: %w", name, err)
		}
		b.env = append(b.env, name+"="+strings.TrimSpace(string(out)))
	}
	if err := os.MkdirAll(filepath.Join(b.dir, "home"), 0o700); err != nil {
		return err
	}
	var err error
	b.project, err = b.copyApp("app")
	return err
}

// copyApp copies the app's source, with a client port of its own.
func (b *bench) copyApp(name string) (string, error) {
	dst := filepath.Join(b.dir, name)
	err := filepath.WalkDir(b.source, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(b.source, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == "bin" || rel == "data" || rel == "tmp" {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(dst, rel), 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dst, rel), data, info.Mode().Perm())
	})
	if err != nil {
		return "", err
	}
	port, err := freePort()
	if err != nil {
		return "", err
	}
	return dst, edit(filepath.Join(dst, config.FileName), map[string]string{
		`"8443:443", "8080:8080"`: fmt.Sprintf(`"%d:8080"`, port),
		"\nmachine:\n":            "\nmachine:\n  driver: nspawn\n",
	})
}

// edit replaces each text, which must be there, in a file.
func edit(file string, texts map[string]string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text := string(data)
	for old, new := range texts {
		if !strings.Contains(text, old) {
			return fmt.Errorf("%s has no %q to replace", filepath.Base(file), old)
		}
		text = strings.Replace(text, old, new, 1)
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// command is one that a Ctrl-C at the terminal reaches only through us, so
// that it ends in order.
func (b *bench) command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, b.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// do runs a command to its end; its output is in the error.
func (b *bench) do(ctx context.Context, dir, name string, args ...string) error {
	cmd := b.command(ctx, dir, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out.String())
	}
	return nil
}

// up makes the machine and a connection to it.
func (b *bench) up(ctx context.Context) error {
	say("make the machine")
	if err := b.do(ctx, b.project, b.devbox, "up"); err != nil {
		return err
	}
	cfg, err := config.Load(filepath.Join(b.project, config.FileName))
	if err != nil {
		return err
	}
	p := deploy.Project{Config: cfg, Paths: deploy.Paths{
		Home:  filepath.Join(b.dir, "home"),
		Cache: filepath.Join(b.dir, "cache", "devbox"),
		State: filepath.Join(b.dir, "state", "devbox"),
	}}
	e, err := p.AdminEndpoint(ctx)
	if err != nil {
		return err
	}
	b.admin = remote.Endpoint{Host: e.Host, Port: e.Port, User: e.User, IdentityFiles: []string{e.IdentityFile}, KnownHosts: []string{e.KnownHostsFile}}
	if b.conn, err = remote.Dial(ctx, b.admin, remote.Options{Home: p.Paths.Home}); err != nil {
		return err
	}
	_, b.version, err = b.untilVersion(ctx, "")
	return err
}

// root runs a shell script on the machine.
func (b *bench) root(ctx context.Context, script string, args ...string) (string, error) {
	out, err := b.conn.Output(ctx, append([]string{"sudo", "-n", "sh", "-euc", script, "bench"}, args...)...)
	return strings.TrimSpace(string(out)), err
}

// close removes the machine and all files, whatever state they are in.
func (b *bench) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if b.conn != nil {
		b.conn.Close()
	}
	err := b.do(ctx, b.project, b.devbox, "destroy", "--yes")
	if err != nil {
		// The state tells where the machine lies: without it nobody could remove it.
		return fmt.Errorf("%w\nthe machine is left in %s", err, b.dir)
	}
	return os.RemoveAll(b.dir)
}
