package deploy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/remote"
	"devbox/internal/sync/watch"
)

// watching is a running follower of a real tree with a real build command; its
// host is the script of its session.
type watching struct {
	*follower
	keys    chan Key
	events  chan WatchEvent
	reloads chan reloaded // what devbox.yaml is when it is read again
	ended   chan error
}

type reloaded struct {
	project *Project
	err     error
}

// watchShop runs a follower of p, whose build leaves its process id in the file
// "pid" outside of the tree and waits as long as the page says "slow".
func watchShop(t *testing.T, p *Project, script ...turn) *watching {
	t.Helper()
	pid := filepath.Join(p.Paths.Cache, "pid")
	p.Config.Build.Command = "echo $$ >" + pid + ".new; mv " + pid + ".new " + pid + "; if grep -q slow tree/etc/page; then sleep 60 & wait; fi; " + p.Config.Build.Command
	w, err := watch.New(t.Context(), p.watched())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	s, err := greet(t.Context(), fakeHost(t, nil, append([]turn{welcome(protocol.Welcome{Arch: runtime.GOARCH})}, script...)...), "shop")
	if err != nil {
		t.Fatal(err)
	}
	f := &watching{keys: make(chan Key), events: make(chan WatchEvent, 100), reloads: make(chan reloaded, 1), ended: make(chan error, 1)}
	f.follower = &follower{project: p, watcher: w, opts: WatchOptions{
		Keys:   f.keys,
		Report: func(e WatchEvent) { f.events <- e },
		Reload: func(context.Context) (*Project, error) { r := <-f.reloads; return r.project, r.err },
	}}
	f.host = &Host{Conn: &remote.Conn{}, Session: s, project: p, done: make(chan struct{})}
	go func() { f.ended <- f.run(t.Context()) }()
	return f
}

// build waits for another build to run and returns its process.
func (f *watching) build(t *testing.T) int {
	t.Helper()
	name := filepath.Join(f.project.Paths.Cache, "pid")
	for begin := time.Now(); time.Since(begin) < 10*time.Second; time.Sleep(2 * time.Millisecond) {
		if text, err := os.ReadFile(name); err == nil {
			os.Remove(name)
			pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
			return pid
		}
	}
	t.Fatal("no build began")
	return 0
}

// cycle waits for the next one, and notes what was said before it.
func (f *watching) cycle(t *testing.T) (c *Cycle, said string) {
	t.Helper()
	for limit := time.After(20 * time.Second); ; {
		select {
		case e := <-f.events:
			if e.Cycle != nil {
				return e.Cycle, said
			}
			said += e.Note + "\n"
		case err := <-f.ended:
			if len(f.events) == 0 {
				t.Fatalf("watch ended: %v", err)
			}
			f.ended <- err // what it reported comes first
		case <-limit:
			t.Fatalf("no cycle; said %q", said)
		}
	}
}

func (f *watching) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-f.ended:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("watch goes on")
		return nil
	}
}

func gone(t *testing.T, pid int) {
	t.Helper()
	for begin := time.Now(); alive(pid); time.Sleep(2 * time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("build %d still runs", pid)
		}
	}
}

// delivery is the script of one image of p, as its tree is now, to a host that
// has none.
func delivery(t *testing.T, p *Project) []turn {
	t.Helper()
	cache := p.Paths.Cache
	defer func() { p.Paths.Cache = cache }()
	p.Paths.Cache = t.TempDir()
	a, err := p.Build(t.Context(), runtime.GOARCH, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	image, err := os.ReadFile(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	digest := a.Digest.String()
	return []turn{
		{want: protocol.Request{Receive: &protocol.Receive{App: "shop", Digest: digest, Size: a.Size}}, image: image, answer: []protocol.Event{done}},
		{want: protocol.Request{Activate: &protocol.Activate{App: "shop", Digest: digest, Settings: p.settings(false), By: whoAmI()}},
			answer: []protocol.Event{{Result: &protocol.Result{Outcome: protocol.Committed, Release: "r1", Serving: "r1"}, Done: true}}},
	}
}

// The first cycle is of no save, and gives way to one as every other does: the
// build that runs dies, and the host is sent the newest state alone.
func TestASaveDuringABuildCancelsIt(t *testing.T) {
	p := appWithTool(t)
	save(t, p.Config.Dir, "tree/etc/page", "newest")
	script := delivery(t, p)
	save(t, p.Config.Dir, "tree/etc/page", "slow")
	f := watchShop(t, p, script...)
	first := f.build(t)
	save(t, p.Config.Dir, "tree/etc/page", "slow, too")
	second := f.build(t)
	gone(t, first)
	save(t, p.Config.Dir, "tree/etc/page", "newest")
	c, _ := f.cycle(t)
	gone(t, second)
	if c.Outcome != protocol.Committed || !slices.Equal(c.Trigger, []string{"tree/etc/page"}) {
		t.Errorf("got %+v", c)
	}
	f.keys <- KeyQuit
	if err := f.end(t); !errors.Is(err, errQuit) {
		t.Error(err)
	}
}

func TestKeysDuringABuild(t *testing.T) {
	p := appWithTool(t)
	save(t, p.Config.Dir, "tree/etc/page", "slow")
	f := watchShop(t, p)
	first := f.build(t)
	f.keys <- KeyRebuild
	second := f.build(t)
	gone(t, first)
	f.keys <- KeyPause
	if e := <-f.events; e.Note != "paused; p goes on" || !alive(second) {
		t.Errorf("p: %+v, the build goes on: %t", e, alive(second))
	}
	f.keys <- KeyQuit
	if err := f.end(t); !errors.Is(err, errQuit) {
		t.Error(err)
	}
	gone(t, second)
	if len(f.events) > 0 {
		t.Errorf("reported %+v", <-f.events)
	}
}

// An activation is never left half-way: q waits for its end, r builds after it.
func TestKeysDuringAnActivation(t *testing.T) {
	for _, c := range []struct {
		name string
		key  Key
		want error
	}{{"q", KeyQuit, errQuit}, {"r", KeyRebuild, nil}} {
		t.Run(c.name, func(t *testing.T) {
			p := appWithTool(t)
			script := delivery(t, p)
			began, may := make(chan struct{}), make(chan struct{})
			script[1].before = func() { close(began); <-may }
			if c.key == KeyRebuild { // the same image, which the host has now
				script = append(script, turn{want: script[1].want, answer: script[1].answer})
			}
			f := watchShop(t, p, script...)
			<-began
			f.keys <- c.key
			select {
			case err := <-f.ended:
				t.Fatalf("it did not wait: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			close(may)
			got, said := f.cycle(t)
			if got.Outcome != protocol.Committed || !strings.Contains(said, "finishing the release that is on its way") {
				t.Errorf("got %+v, said %q", got, said)
			}
			if c.key == KeyRebuild {
				if again, _ := f.cycle(t); again.Outcome != protocol.Committed || again.Trigger != nil {
					t.Errorf("again: %+v", again)
				}
				f.keys <- KeyQuit
			}
			if err := f.end(t); !errors.Is(err, errQuit) {
				t.Error(err)
			}
		})
	}
}

// A build that writes what is watched would go on for ever.
func TestALoopIsNamed(t *testing.T) {
	p := appWithTool(t)
	p.Config.Build.Command = "date +%s%N >gen.txt; exit 1"
	f := watchShop(t, p)
	for range 20 {
		c, said := f.cycle(t)
		if strings.Contains(said, "gen.txt changes during every build") && strings.Contains(said, "watch.ignore") {
			if c.Outcome != BuildFailed || len(c.Phases) != 1 || c.Phases[0].Name != "build" {
				t.Errorf("the failed cycle: %+v", c)
			}
			f.keys <- KeyQuit
			_ = f.end(t)
			return
		}
	}
	t.Error("nobody named gen.txt")
}

func TestSettingsAreReadAgain(t *testing.T) {
	p := appWithTool(t)
	save(t, p.Config.Dir, config.FileName, "name: shop\n")
	save(t, p.Config.Dir, "server.yaml", "#cloud-config\n")
	p.Config.CloudInit = "./server.yaml"
	p.Config.Watch.Paths = []string{"tree"} // settings are watched nevertheless
	changed := &Project{}
	for _, file := range []string{config.FileName, "server.yaml"} {
		t.Run(file, func(t *testing.T) {
			p := &Project{Config: p.Config, Paths: Paths{Cache: t.TempDir()}}
			p.Config.Build.Command = ""
			f := watchShop(t, p, delivery(t, p)...)
			f.cycle(t)
			f.reloads <- reloaded{nil, hint.Errorf("write it right", "%s:1: a mistake", file)}
			save(t, p.Config.Dir, file, "wrong")
			c, _ := f.cycle(t)
			if c.Outcome != BadSettings || c.Error != file+":1: a mistake" || c.Hint != "write it right" || !slices.Equal(c.Trigger, []string{file}) {
				t.Errorf("a mistake: %+v", c)
			}
			f.reloads <- reloaded{changed, nil}
			save(t, p.Config.Dir, file, "right")
			if err := f.end(t); !errors.Is(err, errChanged) || f.changed != changed {
				t.Errorf("mended: %v, %v", err, f.changed)
			}
		})
	}
}

func TestWhatIsWatched(t *testing.T) {
	p := &Project{Config: &config.Config{Dir: "/shop", CloudInit: "./cloud-init/server.yaml"}}
	p.Config.Watch.Ignore = []string{"*.tmp"}
	if o := p.watched(); o.Root != "/shop" || o.Paths != nil || !slices.Equal(o.Ignore, []string{"*.tmp"}) {
		t.Errorf("all: %+v", o)
	}
	p.Config.Watch.Paths = []string{"cmd"}
	if o := p.watched(); !slices.Equal(o.Paths, []string{"cmd", "devbox.yaml", "cloud-init/server.yaml"}) {
		t.Errorf("some: %+v", o)
	}
}
