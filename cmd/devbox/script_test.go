package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"devbox/internal/image"
	"devbox/internal/vm"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"devbox": main})
}

// TestScript runs the command line as a person does, as far as no machine is
// needed. Each script has a home folder of its own.
func TestScript(t *testing.T) {
	goEnv := map[string]string{}
	out, err := exec.Command("go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPROXY").Output()
	if err != nil {
		t.Fatalf("ask go for its caches: %v", err)
	}
	if err := json.Unmarshal(out, &goEnv); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for name, value := range goEnv {
				env.Setenv(name, value)
			}
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			return os.Mkdir(home, 0o755)
		},
		Condition: func(cond string) (bool, error) {
			if cond != "nspawn" {
				return false, fmt.Errorf("no such condition: %s", cond)
			}
			return vm.NspawnReady() == nil, nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":     exits,
			"erofs":     isErofs,
			"json":      isJSON,
			"interrupt": interrupt,
			"gone":      gone,
		},
	})
}

// exits CODE PROGRAM ARG…: the program exits with exactly CODE.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG…]")
	}
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	code := 0
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exited with %d, not with %s", code, args[0])
	}
}

// isJSON is `json FILE N KEY…`: each of exactly N lines of FILE is one JSON
// object, or with `-` the whole file is one; together they have the keys.
func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: json FILE LINES [KEY…]")
	}
	text := strings.TrimSuffix(ts.ReadFile(args[0]), "\n")
	values := []string{text}
	if args[1] != "-" {
		values = strings.Split(text, "\n")
		if strconv.Itoa(len(values)) != args[1] {
			ts.Fatalf("%d lines, not %s:\n%s", len(values), args[1], text)
		}
	}
	keys := map[string]bool{}
	for _, value := range values {
		var v map[string]any
		if err := json.Unmarshal([]byte(value), &v); err != nil {
			ts.Fatalf("%v: %s", err, value)
		}
		for k := range v {
			keys[k] = true
		}
	}
	for _, want := range args[2:] {
		if !keys[want] {
			ts.Fatalf("no %q in\n%s", want, text)
		}
	}
}

// isErofs is `erofs FOLDER`: there are images in FOLDER, and each is an erofs
// file system.
func isErofs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: erofs FOLDER")
	}
	found, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*.raw"))
	ts.Check(err)
	if len(found) == 0 {
		ts.Fatalf("no image in %s", args[0])
	}
	for _, name := range found {
		img, err := image.Open(name)
		ts.Check(err)
		ts.Check(img.Close())
		b, err := os.ReadFile(name)
		ts.Check(err)
		const super, magic = 1024, 0xE0F5E1E2 // erofs_fs.h of Linux
		if len(b) < super+4 || binary.LittleEndian.Uint32(b[super:]) != magic {
			ts.Fatalf("%s is no erofs", name)
		}
	}
}

// interrupt FILE PROGRAM ARG…: starts the program in the background, waits
// for FILE, which its child writes, sends it one SIGINT as Ctrl-C does, and
// keeps its exit code in the file `code`.
func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: interrupt FILE PROGRAM [ARG…]")
	}
	// The first folder of a script's PATH holds the programs under test.
	bin, _, _ := strings.Cut(ts.Getenv("PATH"), string(os.PathListSeparator))
	cmd := exec.Command(filepath.Join(bin, args[1]), args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME")}
	// Nobody's terminal: only what is sent here may end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said strings.Builder
	cmd.Stderr = &said
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if b, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && len(b) > 0 {
			break
		}
		select {
		case <-ended:
			ts.Fatalf("ended before %s was written:\n%s", args[0], said.String())
		default:
		}
		if time.Since(begin) > 20*time.Second {
			cmd.Process.Kill()
			<-ended
			ts.Fatalf("%s was not written:\n%s", args[0], said.String())
		}
	}
	ts.Check(cmd.Process.Signal(os.Interrupt))
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		ts.Fatalf("still there 20 s after the signal")
	}
	ts.Check(os.WriteFile(ts.MkAbs("code"), []byte(strconv.Itoa(cmd.ProcessState.ExitCode())+"\n"), 0o644))
	ts.Check(os.WriteFile(ts.MkAbs("said"), []byte(said.String()), 0o644))
}

// gone FILE: the processes whose ids FILE holds have ended, or do soon.
func gone(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: gone FILE")
	}
	for _, text := range strings.Fields(ts.ReadFile(args[0])) {
		pid, err := strconv.Atoi(text)
		ts.Check(err)
		for begin := time.Now(); running(pid); time.Sleep(10 * time.Millisecond) {
			if time.Since(begin) > 5*time.Second {
				ts.Fatalf("process %d still runs", pid)
			}
		}
	}
}

// running is false for a zombie, too: there is nobody in a container to reap
// what was orphaned.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || !strings.Contains(string(stat), ") Z ")
}
