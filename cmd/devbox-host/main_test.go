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
	text := []string{"--no-pager", "--quiet", "--output=short-iso-precise"}
	attached := []string{"bowl-litestream.service", "bowl.service", "bowl.socket", "bowl.timer"}
	for _, c := range []struct {
		name  string
		query logQuery
		want  []string
		err   string
	}{
		{"a unit", logQuery{app: "bowl", unit: "bowl-litestream.service", lines: 7}, append(text, "--lines=7", "--unit=bowl-litestream.service"), ""},
		{"follow from a cursor", logQuery{app: "bowl", unit: "bowl.socket", follow: true, after: "s=0a;i=1;b=2f", json: true},
			[]string{"--no-pager", "--quiet", "--output=json", "--follow", "--after-cursor=s=0a;i=1;b=2f", "--lines=all", "--unit=bowl.socket"}, ""},
		{"all units, also services to come", logQuery{app: "bowl", attached: attached},
			append(text, "--lines=0", "PORTABLE=bowl.raw", "+", "UNIT=bowl.socket", "_PID=1", "+", "UNIT=bowl.timer", "_PID=1"), ""},
		{"nothing is attached yet", logQuery{app: "bowl", follow: true}, append(text, "--follow", "--lines=0", "PORTABLE=bowl.raw"), ""},
		{"a unit of another app", logQuery{app: "bowl", unit: "ssh.service"}, nil, "no unit of bowl"},
		{"a pattern", logQuery{app: "bowl", unit: "bowl-*.service"}, nil, "no unit of bowl"},
		{"an option as unit", logQuery{app: "bowl", unit: "--root=/"}, nil, "no unit of bowl"},
		{"no cursor", logQuery{app: "bowl", after: "--file=/etc/shadow"}, nil, "no cursor"},
		{"a path as app", logQuery{app: "../x", unit: "../x.service"}, nil, "no unit of ../x"},
		{"a path as app, all units", logQuery{app: "../x"}, nil, "no app's name"},
	} {
		got, err := c.query.args()
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v", c.name, got, err)
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

// A secret that was given as an argument, by mistake, is not kept in the journal.
func TestNoted(t *testing.T) {
	for _, c := range []struct{ args, want []string }{
		{[]string{"secret", "set", "bowl", "key", "hunter2"}, []string{"secret", "set", "…"}},
		{[]string{"secret", "list"}, []string{"secret", "list"}},
		{[]string{"logs", "bowl", "ssh.service"}, []string{"logs", "bowl", "ssh.service"}},
	} {
		if got := noted(c.args); !slices.Equal(got, c.want) {
			t.Errorf("%q is noted as %q", c.args, got)
		}
	}
}
