package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"devbox/internal/deploy"

	"golang.org/x/sys/unix"
)

// terminal returns both ends of a pseudo-terminal: what a person types into,
// and what a program reads from.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

func TestKeysOfATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	person, program := terminal(t)
	was, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	keys, restore := readKeys(ctx, program)
	if keys == nil {
		t.Fatal("a terminal has no keys")
	}
	now, _ := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if now.Lflag&(unix.ECHO|unix.ICANON) != 0 || now.Lflag&unix.ISIG == 0 {
		t.Errorf("flags %#x: keys are to come at once and unseen, Ctrl-C as ever", now.Lflag)
	}
	if _, err := person.WriteString("rx\npQq"); err != nil { // no line's end behind them
		t.Fatal(err)
	}
	var got []deploy.Key
	for range 3 {
		select {
		case k := <-keys:
			got = append(got, k)
		case <-time.After(10 * time.Second):
			t.Fatalf("only %v came", got)
		}
	}
	if want := []deploy.Key{deploy.KeyRebuild, deploy.KeyPause, deploy.KeyQuit}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	restore()
	if now, _ := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS); *now != *was {
		t.Errorf("the terminal is left as %+v, was %+v", now, was)
	}
}

func TestNoKeysWithoutATerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if keys, restore := readKeys(t.Context(), null); keys != nil {
		t.Error("there are keys")
	} else {
		restore()
	}
}
