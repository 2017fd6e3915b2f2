package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devbox/internal/secret"
	"devbox/internal/ui"
)

func TestValueFromStdin(t *testing.T) {
	for _, c := range []struct {
		name, in string
		raw      bool
		want     string
		err      string
	}{
		{"a line", "hunter2\n", false, "hunter2", ""},
		{"a line of Windows", "hunter2\r\n", false, "hunter2", ""},
		{"a line without an end", "hunter2", false, "hunter2", ""},
		{"a line, raw", "hunter2\n", true, "hunter2\n", ""},
		{"one end too many", "hunter2\n\n", false, "hunter2\n\n", ""},
		{"lines", "BEGIN\nEND\n", false, "BEGIN\nEND\n", ""},
		{"no text", "\xff\x00\n", false, "\xff\x00\n", ""},
		{"a control character", "a\x1b\n", false, "a\x1b\n", ""},
		{"nothing", "", false, "", "the value is empty; nothing was changed"},
		{"only the end of a line", "\n", false, "", "the value is empty"},
		{"the largest", strings.Repeat("x", secret.MaxValue), false, strings.Repeat("x", secret.MaxValue), ""},
		{"one byte more", strings.Repeat("x", secret.MaxValue+1), true, "", "more than 64 KiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "in")
			if err := os.WriteFile(file, []byte(c.in), 0o600); err != nil {
				t.Fatal(err)
			}
			in, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			got, err := newApp(in, os.Stdout, os.Stderr).secretValue(t.Context(), "", c.raw)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || exitCode(err) != exitBadInput {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || string(got) != c.want {
				t.Errorf("%.40q, %v", got, err)
			}
		})
	}
}

func TestListOfSecrets(t *testing.T) {
	at := time.Date(2026, 11, 25, 3, 4, 5, 0, time.Local)
	all := []secret.Entry{
		{Name: "key", Set: at, Units: []string{"bowl-x.service", "bowl.service"}, Stale: []string{"bowl.service"}},
		{Name: "mail", Units: []string{"bowl.service"}},
		{Name: "spare", Set: at},
	}
	var out bytes.Buffer
	a := &app{ui: ui.New(&out, &out, ui.Options{})}
	a.printSecrets(all)
	if want := `SECRET  SET                  LOADED BY
key     2026-11-25 03:04:05  bowl-x.service, bowl.service  restart bowl.service
mail    not set              bowl.service
spare   2026-11-25 03:04:05
`; out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	out.Reset()
	a.printSecrets(nil)
	if out.String() != "there are no secrets there\n" {
		t.Errorf("of none: %q", out.String())
	}
}
