package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTypedValue(t *testing.T) {
	t.Setenv("TERM", "xterm")
	for _, c := range []struct {
		name, typed string
		want, err   string
	}{
		{"a line", "correct horse\n", "correct horse", ""},
		{"a mistake, corrected", "correct hors\x7f\x7frse\n", "correct horse", ""},
		{"nothing", "\n", "", "the value is empty; nothing was changed"},
		{"two lines", "-----BEGIN KEY-----\nMIIE\n", "", "one line of at most 1000"},
		{"more than a terminal gives", strings.Repeat("x", 1001) + "\n", "", "one line of at most 1000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			person, program := terminal(t)
			a := newApp(program, program, program)
			type answer struct {
				value []byte
				err   error
			}
			got := make(chan answer, 1)
			go func() {
				value, err := a.secretValue(t.Context(), "value of key for prod: ", false)
				got <- answer{value, err}
			}()
			seen := typeAfterPrompt(t, person, c.typed)
			select {
			case r := <-got:
				if string(r.value) != c.want || c.err == "" && r.err != nil || c.err != "" && (r.err == nil || !strings.Contains(r.err.Error(), c.err)) {
					t.Errorf("%q, %v", r.value, r.err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("no answer")
			}
			if readable(int(program.Fd()), 0) {
				t.Error("something is left for the shell to read")
			}
			program.Close()
			if screen := seen(); strings.Contains(screen, "horse") || strings.Contains(screen, "MIIE") {
				t.Errorf("the value was shown: %q", screen)
			}
		})
	}
}

// typeAfterPrompt types text as soon as the prompt stands and nothing is shown
// any more. The returned function gives all that the terminal showed.
func typeAfterPrompt(t *testing.T, person *os.File, text string) (screen func() string) {
	t.Helper()
	shown := make(chan string, 1)
	prompted := make(chan bool, 1)
	go func() {
		var all strings.Builder
		b := make([]byte, 4096)
		for {
			n, err := person.Read(b)
			all.Write(b[:n])
			if strings.HasSuffix(all.String(), "prod: ") {
				prompted <- true
			}
			if err != nil {
				shown <- all.String()
				return
			}
		}
	}()
	select {
	case <-prompted:
	case <-time.After(10 * time.Second):
		t.Fatal("no prompt")
	}
	waitHidden(t, person)
	if _, err := person.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return func() string { return <-shown }
}

// waitHidden waits until the terminal shows nothing of what is typed.
func waitHidden(t *testing.T, person *os.File) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		state, err := unix.IoctlGetTermios(int(person.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if state.Lflag&unix.ECHO == 0 {
			return
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("what is typed is shown")
		}
	}
}

// A Ctrl-C at the prompt gives the terminal back as it was.
func TestInterruptedPrompt(t *testing.T) {
	t.Setenv("TERM", "xterm")
	person, program := terminal(t)
	was, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	got := make(chan error, 1)
	a := newApp(program, program, program)
	go func() {
		_, err := a.secretValue(ctx, "value of key for prod: ", false)
		got <- err
	}()
	waitHidden(t, person)
	cancel(errInterrupted)
	select {
	case err := <-got:
		if !errors.Is(err, errInterrupted) {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits on")
	}
	if now, _ := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS); *now != *was {
		t.Errorf("the terminal is left as %+v, was %+v", now, was)
	}
}
