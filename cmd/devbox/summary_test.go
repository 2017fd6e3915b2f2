package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/facts"
	"devbox/internal/protocol"
)

func TestSummaryLines(t *testing.T) {
	now := time.Now()
	day := 24 * time.Hour
	for _, c := range []struct {
		name    string
		summary deploy.Summary
		want    []string
	}{
		{"all is well", deploy.Summary{
			Updates: &facts.Updates{Lists: now.Add(-time.Hour)},
			Disks:   []facts.Disk{{Path: "/", Size: 40e9, Free: 30e9}},
		}, []string{"drift    none", "updates  none pending", "disk     / has 30000 MB of 40000 MB free"}},
		{"after six months", deploy.Summary{
			Drift:       3,
			Updates:     &facts.Updates{Pending: []string{"a", "b", "c"}, Security: []string{"a"}, Lists: now.Add(-180 * day)},
			Reboot:      []string{"the kernel B is installed, A runs"},
			Stale:       []string{"cron.service", "ssh.service"},
			Failed:      []string{"nginx.service"},
			Disks:       []facts.Disk{{Path: "/", Size: 40e9, Free: 1e9}},
			Certificate: &facts.Certificate{URL: "https://bowl.example.com/", Expires: now.Add(5*day + time.Hour)},
			Rollback:    &protocol.Release{ID: "r7", Outcome: protocol.RolledBack, At: now.Add(-181 * day), By: "ann@laptop", Cause: "bowl.service exited at once\nand more"},
			Unknown:     []facts.Unknown{{Part: "sshd", Why: "exit status 255"}},
		}, []string{
			"drift    3 differences from the repository: `devbox diff prod`",
			"updates  3 pending, 1 of them security, by lists that are 180 days old: apt-get update",
			"reboot   needed: the kernel B is installed, A runs",
			"restart  needed, by libraries that were replaced: cron.service, ssh.service",
			"failed   nginx.service: systemctl status nginx.service",
			"disk     / has 1000 MB of 40000 MB free: nearly full",
			"cert     of https://bowl.example.com/ is good for 5 days: renew it",
			"rollback r7 was not kept (rolled-back), 181 days ago, by ann@laptop: bowl.service exited at once",
			"unknown  sshd: exit status 255",
		}},
		{"what is over", deploy.Summary{
			Drift:       1,
			Certificate: &facts.Certificate{URL: "https://x/", Expires: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
			Rollback:    &protocol.Release{ID: "r9", Of: "r7", Outcome: protocol.Committed},
		}, []string{
			"drift    1 difference from the repository: `devbox diff prod`",
			"cert     of https://x/ has expired, on 2026-01-02",
			"rollback r9 brought back r7",
		}},
	} {
		at := now
		if c.name == "what is over" {
			at = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
		}
		if got := summaryLines(&c.summary, "prod", at); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s", c.name, strings.Join(got, "\n"))
		}
	}
}
