package prod

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devbox/test/harness"
)

// testBroken deploys what must not be kept. Each time the release of before
// serves on, the exit code tells what happened, and the cause is shown.
func testBroken(t *testing.T, s *site) {
	files := []string{page, units + "bowl.service", units + "bowl.socket", "cmd/bowl/main.go", "scripts/build.sh", "devbox.yaml"}
	before := s.answers(t)
	for _, tt := range []struct {
		what      string
		file      string
		old, new  string
		trial     string // instead of 300ms
		on, off   string // what befalls the server meanwhile, and its end
		code      int
		says      string // part of what devbox says
		untouched bool   // nothing was restarted
	}{
		{what: "it does not start", file: units + "bowl.service", old: "ExecStart=/usr/bin/bowl -share /usr/share/bowl",
			new: "ExecStart=/usr/bin/bowl -share /usr/share/none", code: 3, says: "bowl.service"},
		{what: "it crashes after five seconds", file: "cmd/bowl/main.go", old: "func main() {",
			new: "func main() {\n\ttime.AfterFunc(5*time.Second, func() { panic(\"five seconds are enough\") })\n", trial: "7s",
			code: 3, says: "five seconds are enough"},
		{what: "its health check fails", file: "devbox.yaml", old: `"version":"${DEVBOX_VERSION}"`, new: `a text that never comes`,
			code: 3, says: "a text that never comes"},
		{what: "a credential is missing", file: units + "bowl.service", old: "[Service]", new: "[Service]\nLoadCredential=token:/etc/credstore/no-such-token",
			code: 3, says: "bowl.service"},
		{what: "a secret is not set", file: units + "bowl.service", old: "[Service]", new: "[Service]\nLoadCredentialEncrypted=bowl.token",
			code: 2, says: "`devbox secret set prod token`", untouched: true},
		{what: "the socket vanished", file: units + "bowl.socket", code: 3, says: "bowl.socket not found"},
		{what: "a socket more, whose port is taken", file: units + "bowl.socket", old: "ListenStream=8080", new: "ListenStream=8080\nListenStream=22",
			code: 3, says: "bowl.socket"},
		{what: "the port changed, and the health check did not", file: units + "bowl.socket", old: "ListenStream=8080", new: "ListenStream=8088",
			code: 3, says: "8080"},
		{what: "for another architecture", file: "scripts/build.sh", old: `put "$binary"`, new: `put ` + foreign(), code: 2, says: "usr/bin/bowl", untouched: true},
		{what: "the disk is full", file: page, old: "</h1>", new: ", full</h1>", on: "rm -f /var/lib/devbox/bowl/images/.next-*; fallocate -l $(($(stat -f -c '%a*%S' / ) - 30000000)) /filler",
			off: "rm /filler", code: 1, says: "space", untouched: true},
		{what: "/var is read-only", file: page, old: "</h1>", new: ", read</h1>",
			on:  "mount --bind /var/lib/devbox /var/lib/devbox && mount -o remount,bind,ro /var/lib/devbox",
			off: "umount /var/lib/devbox", code: 1, says: "read-only", untouched: true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			defer s.Undo(t, files...)()
			pid := s.sh(t, "systemctl show -P MainPID bowl.service")
			if tt.trial != "" {
				s.Edit(t, "devbox.yaml", "trial: 300ms", "trial: "+tt.trial)
			}
			s.Edit(t, "devbox.yaml", "      deadline: 20s", "      deadline: 6s")
			if tt.old == "" {
				s.Remove(t, tt.file)
			} else {
				s.Edit(t, tt.file, tt.old, tt.new)
			}
			if tt.on != "" {
				s.sh(t, tt.on)
				defer s.sh(t, tt.off)
			}
			r := s.Run(t, "deploy", "prod", "--yes", "--allow-unproven")
			if r.Code != tt.code || !strings.Contains(r.Stderr, tt.says) {
				t.Errorf("want exit %d and %q: %s", tt.code, tt.says, r)
			} else {
				t.Logf("exit %d after %s: %s", r.Code, r.Took.Round(time.Millisecond), errorLine(r.Stderr))
			}
			if v := s.answers(t); v != before {
				t.Errorf("%s answers, not %s", v, before)
			}
			if now := s.sh(t, "systemctl show -P MainPID bowl.service"); tt.untouched && now != pid {
				t.Errorf("the process was %s and is %s", pid, now)
			}
			if tt.on != "" {
				return // asked again when it is over
			}
			if st := s.Status(t, "prod"); st.Code != 0 || st.Host.Current.Digest[:12] != before {
				t.Errorf("status exits with %d: %s %s", st.Code, st.Serving(), st.Problem)
			}
		})
	}
	if st := s.Status(t, "prod"); st.Code != 0 || st.Host.Current.Digest[:12] != before {
		t.Errorf("status exits with %d: %s %s", st.Code, st.Serving(), st.Problem)
	}
	s.Edit(t, page, "</h1>", ", well again</h1>")
	defer s.Edit(t, page, ", well again</h1>", "</h1>")
	if c := kept(t, s.deploy(t)); s.answers(t) != c.Version {
		t.Errorf("after all of them, %s answers, not %s", s.answers(t), c.Version)
	}
}

// testDamaged damages the image on the server's disk, after it was sent and
// before it is activated: it is sent once more.
func testDamaged(t *testing.T, s *site) {
	defer s.Undo(t, page)()
	for _, harm := range []string{"truncate -s 1M $f", "dd if=/dev/zero of=$f bs=128 seek=8 count=1 conv=notrunc status=none"} {
		s.Edit(t, page, "</h1>", ".</h1>")
		want := s.deploy(t, "--dry-run").Cycle(t).Version
		s.sh(t, "f=/var/lib/devbox/bowl/images/bowl_"+want+".raw; "+harm)
		c := kept(t, s.deploy(t))
		if v := s.answers(t); c.Version != want || v != want || c.Wire == 0 {
			t.Errorf("%s: %s was deployed, %d bytes sent, %s answers", harm, c.Version, c.Wire, v)
		}
	}
}

// foreign is a program of another architecture than this computer's.
func foreign() string {
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[arch]
	return filepath.Join(harness.Root(), "bin", "devbox-host-linux-"+other)
}

func errorLine(stderr string) string {
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "error:") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
