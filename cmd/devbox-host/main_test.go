package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"devbox/internal/hint"
)

func TestLogArgs(t *testing.T) {
	units := []string{"bowl", "bowl-litestream.service"}
	tests := []struct {
		name   string
		names  []string
		follow bool
		after  string
		json   bool
		want   []string
		err    string
	}{
		{"a unit", units, false, "", false, []string{"--no-pager", "--quiet", "--output=short-iso-precise", "--lines=7", "--unit=bowl-litestream.service"}, ""},
		{"follow from a cursor", units, true, "s=0a;i=1;b=2f", true,
			[]string{"--no-pager", "--quiet", "--output=json", "--follow", "--after-cursor=s=0a;i=1;b=2f", "--lines=all", "--unit=bowl-litestream.service"}, ""},
		{"a unit of another app", []string{"bowl", "ssh.service"}, false, "", false, nil, "no unit of bowl"},
		{"a pattern", []string{"bowl", "bowl-*.service"}, false, "", false, nil, "no unit of bowl"},
		{"an option as unit", []string{"bowl", "--root=/"}, false, "", false, nil, "no unit of bowl"},
		{"no cursor", units, false, "--file=/etc/shadow", false, nil, "no cursor"},
		{"a path as app", []string{"../x"}, false, "", false, nil, "no app's name"},
	}
	for _, tt := range tests {
		got, err := logArgs(tt.names, tt.follow, 7, tt.after, tt.json)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}

func TestWrongArguments(t *testing.T) {
	for _, args := range [][]string{{}, {"reboot"}, {"--help", "x"}, {"help"}} {
		var out bytes.Buffer
		err := run(context.Background(), args, strings.NewReader(""), &out)
		if len(args) > 0 && strings.HasSuffix(args[0], "help") {
			if err != nil || !strings.Contains(out.String(), "devbox-host serve") {
				t.Errorf("%q: %v, %s", args, err, out.String())
			}
			continue
		}
		if !errors.Is(err, errUsage) || hint.Of(err) == "" {
			t.Errorf("%q: %v", args, err)
		}
	}
	if os.Geteuid() != 0 {
		if err := run(context.Background(), []string{"status"}, strings.NewReader(""), &bytes.Buffer{}); err == nil || !strings.Contains(hint.Of(err), "sudo") {
			t.Errorf("without root: %v", err)
		}
	}
}
