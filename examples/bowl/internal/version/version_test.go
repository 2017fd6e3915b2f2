package version

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestOf(t *testing.T) {
	if got := Of(" 3f2a9c01d2e4\n"); got != "3f2a9c01d2e4" {
		t.Errorf("the host's version became %q", got)
	}
	if got := Of(strings.Repeat("x", 500)); len(got) != maxLen {
		t.Errorf("a version of %d bytes came through", len(got))
	}
	if Of("") == "" {
		t.Error("no version without a host's")
	}
}

func TestOfBuild(t *testing.T) {
	vcs := func(rev, modified string) []debug.BuildSetting {
		return []debug.BuildSetting{{Key: "vcs.revision", Value: rev}, {Key: "vcs.modified", Value: modified}}
	}
	for _, c := range []struct {
		info debug.BuildInfo
		want string
	}{
		{debug.BuildInfo{}, "devel"},
		{debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "devel"},
		{debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3"},
		{debug.BuildInfo{Settings: vcs("0123456789abcdef", "false")}, "0123456789ab"},
		{debug.BuildInfo{Settings: vcs("0123", "true")}, "0123+dirty"},
	} {
		if got := ofBuild(&c.info); got != c.want {
			t.Errorf("ofBuild(%v) = %q, want %q", c.info, got, c.want)
		}
	}
}
