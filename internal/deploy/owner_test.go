package deploy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/ui"
	"devbox/internal/vm"
)

// shelf is a machine of which only the state matters.
type shelf struct {
	vm.Machine // what is not below is not to be called
	state      vm.State
	did        []string
}

func (s *shelf) to(state vm.State, what string) error {
	s.state, s.did = state, append(s.did, what)
	return nil
}

func (s *shelf) Driver() string                            { return "shelf" }
func (s *shelf) Status(context.Context) (vm.Status, error) { return vm.Status{State: s.state}, nil }
func (s *shelf) Create(context.Context, vm.Progress) error { return s.to(vm.Stopped, "create") }
func (s *shelf) Start(context.Context, vm.Progress) error  { return s.to(vm.Running, "start") }
func (s *shelf) Stop(context.Context) error                { return s.to(vm.Stopped, "stop") }
func (s *shelf) Destroy(context.Context) error             { return s.to(vm.Missing, "destroy") }

// twin makes a project named hello in a folder of its own.
func twin(t *testing.T, state string) *Project {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, config.FileName), []byte("name: hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return &Project{Config: &config.Config{Dir: dir, Name: "hello"}, Paths: Paths{State: state}}
}

func TestAMachineBelongsToOneFolder(t *testing.T) {
	ctx, state := t.Context(), t.TempDir()
	first, second, m := twin(t, state), twin(t, state), &shelf{state: vm.Missing}
	u := ui.New(&bytes.Buffer{}, &bytes.Buffer{}, ui.Options{})
	up := func(p *Project) error { return p.start(ctx, u, m, "") }
	down := func(p *Project) error { _, err := p.endMachine(ctx, m, vm.Stopped, vm.Machine.Stop); return err }
	destroy := func(p *Project) error { _, err := p.endMachine(ctx, m, vm.Missing, p.destroy); return err }
	good := func(err error, did ...string) {
		t.Helper()
		if err != nil || !slices.Equal(m.did, did) {
			t.Fatalf("error %v, did %q, not %q", err, m.did, did)
		}
		m.did = nil
	}
	refused := func(calls ...func(*Project) error) {
		t.Helper()
		for _, call := range calls {
			err := call(second)
			var owned *OwnedError
			if !errors.As(err, &owned) || owned.Folder != first.Config.Dir || len(m.did) > 0 || hint.Of(err) == "" {
				t.Fatalf("error %v, cure %q, did %q", err, hint.Of(err), m.did)
			}
		}
	}

	good(up(first), "create", "start")
	refused(up, down, destroy)
	good(down(first), "stop")
	refused(up, destroy)
	good(up(first), "start")

	// A file that cannot be understood at the moment is still somebody's.
	file := filepath.Join(first.Config.Dir, config.FileName)
	if err := os.WriteFile(file, []byte("name: [\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(up, down, destroy)

	// The folder was moved: whoever has the name takes the machine over.
	if err := os.Rename(first.Config.Dir, first.Config.Dir+"-away"); err != nil {
		t.Fatal(err)
	}
	good(up(second))
	good(destroy(second), "destroy")
	if _, err := os.Lstat(second.MachineDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left of the machine: %v", err)
	}
}

func TestAFolderWithAnotherAppNowOwnsNothing(t *testing.T) {
	state := t.TempDir()
	first, second := twin(t, state), twin(t, state)
	if err := first.own(); err != nil {
		t.Fatal(err)
	}
	if err := second.checkOwner(); err == nil {
		t.Fatal("not refused")
	}
	for name, text := range map[string]string{
		config.FileName:          "name: other\nbuild: {command: make}\n",
		"cloud-init/server.yaml": "#cloud-config\nusers:\n  - name: deploy\n",
	} {
		path := filepath.Join(first.Config.Dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := second.checkOwner(); err != nil {
		t.Error(err)
	}
}
