package deploy

import (
	"errors"
	"strings"
	"testing"

	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/remote"
)

func TestWhatTheHostSaysOfASecret(t *testing.T) {
	dev := &Host{project: &Project{Config: &config.Config{Name: "bowl"}}}
	prod := &Host{project: dev.project, target: &Target{Name: "prod"}}
	for _, c := range []struct {
		name       string
		host       *Host
		exit       remote.ExitError
		want, hint string
		refused    bool
	}{
		{"an error and its cure", dev, remote.ExitError{Code: 1, Stderr: "error: bowl has no secret x\nhint: there are: y\n"}, "bowl has no secret x", "there are: y", false},
		{"an error of two lines", dev, remote.ExitError{Code: 1, Stderr: "some notice\nerror: one\ntwo\n"}, "one\ntwo", "", false},
		{"a secret that is not there", dev, remote.ExitError{Code: 4, Stderr: "error: bowl has no secret x\n"}, "bowl has no secret x", "", true},
		{"the policy", dev, remote.ExitError{Code: 3, Stderr: "error: not for bowl\nhint: ask root\n"}, "not for bowl", "ask root", true},
		{"an older devbox-host", dev, remote.ExitError{Code: 2, Stderr: "error: wrong arguments: there is no command \"secret\"\nhint: run x\n"}, "is older than this devbox", "run `devbox up`", false},
		{"an older one on a server", prod, remote.ExitError{Code: 2, Stderr: "error: wrong arguments: there is no command \"secret\"\n"}, "is older than this devbox", "run `devbox provision prod`", false},
		{"no devbox-host", dev, remote.ExitError{Code: 127, Stderr: "sudo: devbox-host: command not found\n"}, "exit code 127: sudo: devbox-host: command not found", "", false},
	} {
		err := c.host.said(&c.exit)
		var said *HostError
		if !strings.HasSuffix(err.Error(), c.want) || hint.Of(err) != c.hint || c.refused != (errors.As(err, &said) && said.Refused()) {
			t.Errorf("%s: %v, hint %q", c.name, err, hint.Of(err))
		}
	}
	if got := dev.RestartCommand([]string{"a.service", "b@1.service"}); got != "devbox ssh sudo systemctl restart a.service b@1.service" {
		t.Error(got)
	}
	if got := prod.RestartCommand([]string{"a.service"}); got != "devbox ssh prod sudo systemctl restart a.service" {
		t.Error(got)
	}
}
