package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/drift"
	"devbox/internal/vm"
	"devbox/test/harness"
	"devbox/test/vps"
)

// TestDiff is a dev machine and a server that are made from one repository:
// they differ in nothing but what is explained. Then each change by hand is
// found as what it is, and nothing else is.
func TestDiff(t *testing.T) {
	if testing.Short() {
		t.Skip("needs minutes, and -short was given")
	}
	if err := vm.NspawnReady(); err != nil {
		t.Skipf("needs systemd-nspawn: %v", err)
	}
	p, server := withServer(t)
	p.Must(t, "up")
	p.Must(t, "provision", "prod", "--yes")
	if set := p.Feed(t, []byte("[default]\n"), "secret", "set", "prod", "s3"); set.Code != 0 {
		t.Fatal(set)
	}
	p.Must(t, "deploy", "prod", "--yes")
	// What only a server of test/vps has: a second key, and loop devices.
	if _, err := server.Run(t.Context(), "sed -i '/ann@laptop/!d' /root/.ssh/authorized_keys; rm /etc/tmpfiles.d/loop-devices.conf"); err != nil {
		t.Fatal(err)
	}

	if d := diff(t, p, 0, "prod"); len(d.Notes) > 0 {
		t.Errorf("notes %q", d.Notes)
	}
	t.Logf("%s", p.Run(t, "diff", "prod", "--all"))
	diff(t, p, 0)

	facts := `devbox-host facts bowl`
	begin := time.Now()
	if _, err := server.Run(t.Context(), facts); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s took %s", facts, time.Since(begin))

	by := map[string]string{ // the change, and what of it must be told
		"sysctl -qw net.core.somaxconn=1024":                              "sysctls net.core.somaxconn",
		"sysctl -qw net.ipv4.tcp_syncookies=0":                            "sysctls net.ipv4.tcp_syncookies",
		"useradd mallory":                                                 "users mallory",
		"umask 077; echo 'mallory ALL=(ALL) ALL' >/etc/sudoers.d/mallory": "sudoers mallory ALL=(ALL) ALL",
		"mkdir -p /etc/systemd/system/bowl.service.d && echo '[Service]' >/etc/systemd/system/bowl.service.d/60-hand.conf": "files /etc/systemd/system/bowl.service.d/60-hand.conf",
		"systemctl -q mask apt-daily.timer": "units apt-daily.timer",
		"sed -i 's/^PasswordAuthentication no/PasswordAuthentication yes/' /etc/ssh/sshd_config.d/00-devbox.conf":                                                                                                                 "files /etc/ssh/sshd_config.d/00-devbox.conf|sshd passwordauthentication",
		"echo ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICesAQcC8i/mnaskZgwBLNOnBRX1OL3+uLJI6rJS4/g9 eve >>/root/.ssh/authorized_keys":                                                                                                  "users key SHA256:oLEPUmkxCxKTN/eLERfHe/EyFADP7OmRSxDvYIdjrtc of root",
		"systemd-run -q --unit=hand --service-type=exec python3 -m http.server 7777":                                                                                                                                              "ports tcp 7777",
		`cd "$(mktemp -d)" && mkdir -p hand/DEBIAN && printf 'Package: hand\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.example>\nDescription: x\n' >hand/DEBIAN/control && dpkg-deb -b hand hand.deb && dpkg -i hand.deb`: "packages hand",
	}
	var want []string
	for change, whats := range by {
		if _, err := server.Run(t.Context(), change); err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		want = append(want, strings.Split(whats, "|")...)
	}
	slices.Sort(want)
	found := diff(t, p, 1, "prod")
	var got []string
	for _, d := range found.Differences {
		if d.Kind != drift.Expected {
			got = append(got, d.Group+" "+d.What)
			if d.Kind != drift.Drift || d.Cure == "" {
				t.Errorf("no drift with a cure: %+v", d)
			}
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	t.Logf("%s", p.Run(t, "diff", "prod"))
	diff(t, p, 0) // the dev machine is as it was

	r := p.Must(t, "status", "prod", "--json")
	var st struct {
		Summary deploy.Summary `json:"summary"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &st); err != nil {
		t.Fatalf("%v\n%s", err, r)
	}
	if st.Summary.Drift < 5 || len(st.Summary.Disks) == 0 {
		t.Errorf("%s", r)
	}
	t.Logf("%s", p.Run(t, "status", "prod"))

	p.Must(t, "down")
	if d := diff(t, p, 1, "prod"); len(d.Notes) != 1 || !strings.Contains(d.Notes[0], "dev machine was not asked") {
		t.Errorf("notes %q", d.Notes)
	}
	if r := p.Run(t, "diff"); r.Code != 1 || !strings.Contains(r.Stderr, "devbox up") {
		t.Errorf("%s", r)
	}
}

func diff(t *testing.T, p *harness.Project, code int, target ...string) deploy.Diff {
	t.Helper()
	r := p.Run(t, append([]string{"diff", "--json"}, target...)...)
	var d deploy.Diff
	if err := json.Unmarshal([]byte(r.Stdout), &d); err != nil {
		t.Fatalf("%v\n%s", err, r)
	}
	if r.Code != code {
		t.Errorf("%s", p.Run(t, append([]string{"diff"}, target...)...))
	}
	return d
}

// withServer makes a project whose target prod is a server of its own.
func withServer(t *testing.T) (*harness.Project, *vps.Server) {
	t.Helper()
	p := harness.New(t, harness.Options{Key: true})
	server := vps.New(t, vps.Options{Authorized: []string{p.Key}})
	address, err := server.Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := server.KnownHosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.Home, ".ssh", "known_hosts"), []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Write(t, "devbox.yaml", p.Read(t, "devbox.yaml")+"\ntargets:\n  prod: {host: "+address+", trial: 1s, env: {"+replica("bowl-restore.service")+", "+replica("bowl-litestream.service")+"}}\n")
	return p, server
}

// replica has a unit keep it in a folder, which needs no store.
func replica(unit string) string {
	return unit + ": {BOWL_REPLICA: 'file:///var/lib/bowl/replica'}"
}
