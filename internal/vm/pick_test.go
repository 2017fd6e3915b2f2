package vm

import (
	"errors"
	"strings"
	"testing"

	"devbox/internal/hint"
)

func TestPick(t *testing.T) {
	noLima := hint.Errorf("install lima", "no limactl")
	asRoot := hint.Errorf("be another user", "Lima refuses to run as root")
	noNspawn := hint.Errorf("install nspawn", "no systemd-nspawn")
	notRoot := hint.Errorf("be root", "systemd-nspawn needs root")
	for _, tt := range []struct {
		name, want string
		facts      Facts
		driver     string
		why        string // a part of it
		err, cure  string
	}{
		{"auto takes lima", "auto", Facts{KVM: true}, "lima", "a virtual machine", "", ""},
		{"auto is the default", "", Facts{KVM: true}, "lima", "a virtual machine", "", ""},
		{"without KVM it says slow", "auto", Facts{Nspawn: notRoot}, "lima", "slow", "", ""},
		{"auto as root", "auto", Facts{Lima: asRoot, Root: true}, "nspawn", "not lima: Lima refuses to run as root", "", ""},
		{"auto without lima", "auto", Facts{Lima: noLima, KVM: true, Root: true}, "nspawn", "not lima: no limactl", "", ""},
		{"neither, as a user", "auto", Facts{Lima: noLima, Nspawn: notRoot}, "", "", "no limactl\nnspawn: systemd-nspawn needs root", "install lima"},
		{"neither, as root", "auto", Facts{Lima: asRoot, Nspawn: noNspawn, Root: true}, "", "", "no systemd-nspawn", "install nspawn"},
		{"root with lima", "lima", Facts{Lima: asRoot, Root: true}, "", "", "Lima refuses to run as root", "be another user"},
		{"lima as asked", "lima", Facts{KVM: true}, "lima", "as asked", "", ""},
		{"lima as asked, slow", "lima", Facts{}, "lima", "slow", "", ""},
		{"nspawn as asked", "nspawn", Facts{KVM: true}, "nspawn", "as asked", "", ""},
		{"nspawn as a user", "nspawn", Facts{Nspawn: notRoot}, "", "", "needs root", "be root"},
		{"unknown", "docker", Facts{}, "", "", `machine.driver "docker" is not known`, "use auto, lima or nspawn"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			driver, why, err := Pick(tt.want, tt.facts)
			if driver != tt.driver || !strings.Contains(why, tt.why) {
				t.Errorf("got %q (%s), want %q (…%s…)", driver, why, tt.driver, tt.why)
			}
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if got := hint.Of(err); got != tt.cure {
				t.Errorf("cure %q, want %q", got, tt.cure)
			}
		})
	}
}

func TestNspawnReady(t *testing.T) {
	all := func(string) bool { return true }
	for _, tt := range []struct {
		name      string
		goos      string
		uid       int
		has       func(string) bool
		err, cure string
	}{
		{"ready", "linux", 0, all, "", ""},
		{"not Linux", "darwin", 0, all, "systemd-nspawn runs on Linux only", "use `driver: lima`"},
		{"not root", "linux", 1000, all, "systemd-nspawn needs root", "run devbox as root, or use `driver: lima`"},
		{"two missing", "linux", 0, func(tool string) bool { return tool != "mmdebstrap" && tool != "systemd-nspawn" },
			"systemd-nspawn machines need systemd-nspawn, mmdebstrap, not installed here",
			"run `devbox doctor --fix`, or `apt-get install systemd-container mmdebstrap`"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := nspawnReady(tt.goos, tt.uid, tt.has)
			if got := errText(err); got != tt.err {
				t.Errorf("error %q, want %q", got, tt.err)
			}
			if got := hint.Of(err); got != tt.cure {
				t.Errorf("cure %q, want %q", got, tt.cure)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"bowl": true, "b": true, "bowl-dev2": true, strings.Repeat("a", MaxName): true,
		"": false, "Bowl": false, "bowl_dev": false, "-bowl": false, "bowl-": false, "2bowl": false, "bowl.dev": false,
		"bowl/..": false, "böwl": false, "bowl\n": false, strings.Repeat("a", MaxName+1): false,
	} {
		err := CheckName(name)
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil && hint.Of(err) == "" {
			t.Errorf("%q: %v has no cure", name, err)
		}
	}
}

func TestSpecCheck(t *testing.T) {
	good := Spec{Name: "bowl", StateDir: "/s", CacheDir: "/c"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Spec{
		{Name: "_", StateDir: "/s", CacheDir: "/c"},
		{Name: "bowl", StateDir: "s", CacheDir: "/c"},
		{Name: "bowl", StateDir: "/s"},
		{Name: "bowl", StateDir: "/s", CacheDir: "/c", CPUs: -1},
	} {
		if bad.Check() == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	if _, err := NewNspawn(Spec{Name: "UP"}); err == nil || errors.Is(err, ErrMissing) {
		t.Errorf("NewNspawn: %v", err)
	}
}
