package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestTailKeepsTheLastLines(t *testing.T) {
	for _, c := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"nothing", nil, nil},
		{"less than it keeps", []string{"a\nb\n"}, []string{"a", "b"}},
		{"more", []string{"a\nb\n", "c\nd\ne\n"}, []string{"c", "d", "e"}},
		{"a line in pieces", []string{"a", "b", "c\nd", "\n"}, []string{"abc", "d"}},
		{"no newline at the end", []string{"a\nb\nc\nd"}, []string{"a", "b", "c", "d"}},
		{"empty lines count", []string{"a\n\n\n"}, []string{"a", "", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := &tail{max: 3}
			for _, w := range c.writes {
				if n, err := out.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatalf("wrote %d, %v", n, err)
				}
			}
			if got := out.lines(); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestBuildCommandThatFails(t *testing.T) {
	err := runBuild(t.Context(), "seq 1 60; echo oh no >&2;\n\n exit 3", t.TempDir(), nil)
	var failed *BuildError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	if len(failed.Output) != buildTail || failed.Output[0] != "22" || failed.Output[buildTail-1] != "oh no" {
		t.Errorf("output %q", failed.Output)
	}
	text := err.Error()
	if !strings.HasPrefix(text, "build command `seq 1 60; echo oh no >&2; exit 3`: exit status 3\n  22\n") {
		t.Errorf("text %q", text)
	}
}

func TestBuildCommandNameIsShort(t *testing.T) {
	if got := oneLine(strings.Repeat("€", 200)); got != strings.Repeat("€", 79)+"…" {
		t.Errorf("got %q", got)
	}
}

func TestBuildCommandSeesItsEnvironmentAndFolder(t *testing.T) {
	t.Setenv("GOARCH", "wrong")
	dir := t.TempDir()
	if err := runBuild(t.Context(), `echo "$GOARCH $PWD" >seen`, dir, []string{"GOARCH=arm64"}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "seen")); string(got) != "arm64 "+dir+"\n" {
		t.Errorf("it saw %q", got)
	}
}

func TestBuildFolderThatIsNotThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	err := runBuild(t.Context(), "true", dir, nil)
	if err == nil || errors.As(err, new(*BuildError)) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
}

// Build tools have children, and those hold the output open.
func TestCancelKillsTheWholeProcessGroup(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("a newer save")
	ended := make(chan error, 1)
	go func() {
		ended <- runBuild(ctx, `(trap '' TERM INT; echo $$ >child; sleep 60) & echo $! >child2; wait`, dir, nil)
	}()
	var child int
	for begin := time.Now(); child == 0; time.Sleep(5 * time.Millisecond) {
		b, _ := os.ReadFile(filepath.Join(dir, "child2"))
		child, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		if time.Since(begin) > 10*time.Second {
			t.Fatal("the command did not start")
		}
	}
	begin := time.Now()
	cancel(reason)
	if err := <-ended; !errors.Is(err, reason) {
		t.Errorf("got %v, want %v", err, reason)
	}
	if took := time.Since(begin); took > 1500*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	for begin := time.Now(); alive(child); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("process %d still runs", child)
		}
	}
}

// What goes on after the command would write into the next build's stage.
func TestBuildCommandLeavesNothingRunning(t *testing.T) {
	for _, c := range []struct {
		name, redirect string
		err            error
	}{
		{"it holds the output", "", errLeftRunning},
		{"it holds nothing", ">/dev/null 2>&1", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := runBuild(t.Context(), "sleep 60 "+c.redirect+" & echo $! >child", dir, nil); !errors.Is(err, c.err) {
				t.Errorf("got %v, want %v", err, c.err)
			}
			b, err := os.ReadFile(filepath.Join(dir, "child"))
			if err != nil {
				t.Fatal(err)
			}
			child, _ := strconv.Atoi(strings.TrimSpace(string(b)))
			for begin := time.Now(); alive(child); time.Sleep(5 * time.Millisecond) {
				if time.Since(begin) > 5*time.Second {
					t.Fatalf("process %d still runs", child)
				}
			}
		})
	}
}

// alive is false for a zombie, too: its parent may never reap it.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}
