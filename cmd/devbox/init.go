package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	cloudinit "devbox/cloud-init"
	"devbox/internal/config"
	"devbox/internal/hint"

	"github.com/spf13/cobra"
)

type initOptions struct {
	name string
	keys []string
}

func newInit(a *app) *cobra.Command {
	var o initOptions
	c := &cobra.Command{
		Use:   "init",
		Short: "write devbox.yaml and the files it names",
		Long: `init writes devbox.yaml, cloud-init/server.yaml and the app's first units below
deployment/portable. They are yours from then on. What is there already stays as it is.`,
		Example: "  devbox init --name shop",
		RunE:    func(*cobra.Command, []string) error { return a.init(o) },
	}
	c.Flags().StringVar(&o.name, "name", "", "the app's name (default: made from the folder's name)")
	c.Flags().StringArrayVar(&o.keys, "key", nil, "a public SSH key file that may log in (default: those in ~/.ssh)")
	return c
}

func (a *app) init(o initOptions) error {
	dir, err := filepath.Abs(a.dir)
	if err != nil {
		return err
	}
	if o.name == "" {
		o.name = config.NameFor(filepath.Base(dir))
	} else if config.NameFor(o.name) != o.name {
		return badInput{hint.Errorf(fmt.Sprintf("use `--name %s`", config.NameFor(o.name)),
			"name %q is not lower-case letters, digits and '-', or is longer than 32", o.name)}
	}
	keys, err := publicKeys(o.keys)
	if err != nil {
		return badInput{err}
	}
	type written struct {
		Path string `json:"path"`
		Kept bool   `json:"kept,omitempty"` // it was there and stays as it is
	}
	var all []written
	for _, f := range initFiles(o.name, keys) {
		kept, err := writeNew(filepath.Join(dir, f.path), f.text)
		if err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
		all = append(all, written{f.path, kept})
	}
	for _, w := range all {
		switch {
		case a.json:
			a.ui.Value(w)
		case w.Kept:
			a.ui.Result("kept   %s", w.Path)
		default:
			a.ui.Result("wrote  %s", w.Path)
		}
	}
	if len(keys) == 0 {
		a.ui.Say("note: no public key found in ~/.ssh: add yours to cloud-init/server.yaml before you set up a server")
	}
	a.ui.Say("next: look through devbox.yaml, then `devbox up`")
	return nil
}

type initFile struct{ path, text string }

// initFiles are the whole of a new project. A socket of its own lets the
// service restart without a refused request.
func initFiles(name string, keys []string) []initFile {
	units := "deployment/portable/usr/lib/systemd/system/" + name
	return []initFile{
		{config.FileName, string(config.Init(config.InitOptions{Name: name}))},
		{"cloud-init/server.yaml", string(cloudinit.Render(keys))},
		{units + ".service", fmt.Sprintf(`[Unit]
Description=%[1]s
# Never give up: a start limit would close the socket too, and requests be refused.
StartLimitIntervalSec=0

[Service]
# Type=notify is better: systemd then knows when the app is ready (sd_notify(3)).
Type=exec
ExecStart=/usr/bin/%[1]s
DynamicUser=yes
# The app's data, in /var/lib/%[1]s; it stays over every release.
StateDirectory=%[1]s
Restart=on-failure
RestartSec=1
TimeoutStopSec=10

[Install]
WantedBy=multi-user.target
`, name)},
		{units + ".socket", fmt.Sprintf(`# systemd holds this port open over every restart, so no request is refused.
# The app gets it as file descriptor 3 (sd_listen_fds(3)). Delete this file if
# the app opens its port itself. Never add PartOf=%[1]s.service: it would
# close the port at each restart.
[Unit]
Description=%[1]s's port

[Socket]
ListenStream=8080
FileDescriptorName=http

[Install]
WantedBy=sockets.target
`, name)},
	}
}

// writeNew writes text unless the file exists; it reports whether it did exist.
func writeNew(path, text string) (kept bool, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
	}
	return false, err
}

// publicKeys reads the named key files, or all of ~/.ssh.
func publicKeys(files []string) ([]string, error) {
	named := len(files) > 0
	if !named {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil // no home folder: no keys
		}
		files, _ = filepath.Glob(filepath.Join(home, ".ssh", "*.pub"))
	}
	var keys []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			if !named {
				continue
			}
			return nil, fmt.Errorf("read public key: %w", err)
		}
		line := strings.TrimSpace(string(b))
		if !strings.HasPrefix(line, "ssh-") && !strings.HasPrefix(line, "ecdsa-") && !strings.HasPrefix(line, "sk-") || strings.Contains(line, "\n") {
			if !named {
				continue
			}
			return nil, hint.Errorf("name the .pub file, not the private key", "%s is not a public SSH key", f)
		}
		keys = append(keys, line)
	}
	return keys, nil
}
