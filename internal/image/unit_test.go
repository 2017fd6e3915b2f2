package image

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseUnit(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       Unit // Hash and options are not compared
	}{
		{"app.service", `
# a comment
[Unit]
Description=Not /etc/this
[Service]
ExecStartPre=-/usr/bin/prepare \
  # inside a continued line
  --to=/etc/prepared.conf
ExecStart=@+/usr/bin/app argv0 -config "/etc/my app.yml" file:/srv/a:/srv/b ; /usr/bin/second /srv/c
ExecReload=!!kill -HUP $MAINPID
Environment="CERT=/etc/cert.pem" PATH=/usr/bin:/bin URL=https://example.com/x
Environment=HOME=/
EnvironmentFile=-/etc/app.env
WorkingDirectory=/srv/wd
ReadWritePaths=/var/not
BindPaths=/home/not:/mnt/not
StateDirectory=app app/sub:link
CacheDirectory=%N
RuntimeDirectory=../etc
`, Unit{Name: "app.service", Type: "service",
			Execs: []string{"/usr/bin/prepare", "/usr/bin/app", "/usr/bin/second"},
			Reads: []string{"/etc/app.env", "/etc/cert.pem", "/etc/my", "/etc/my app.yml", "/etc/prepared.conf", "/srv/a", "/srv/b", "/srv/c", "/srv/wd"},
			Dirs:  []StateDir{{"StateDirectory", "/var/lib/app"}, {"StateDirectory", "/var/lib/app/sub"}, {"CacheDirectory", "/var/cache/app"}}}},
		{"app@.service", "[Service]\r\nExecStart=/usr/bin/%p-%j %i\r\nExecStart=\r\nExecStart=/opt/%P/%i\r\nExecStop=/bin/x\r\n[X-Devbox]\nReads=\n",
			Unit{Name: "app@.service", Type: "service", Execs: []string{"/bin/x"}, ReadsDeclared: true}},
		{"a-b.service", "[Service]\nExecStart=/usr/bin/%p-%j\n[X-Devbox]\nReads=/etc/one /etc/two/\nReads=relative /etc/one\n",
			Unit{Name: "a-b.service", Type: "service", Execs: []string{"/usr/bin/a-b-b"}, Reads: []string{"/etc/one", "/etc/two"}, ReadsDeclared: true}},
		{"app.socket", "[Socket]\nListenStream=80\nListenStream=\nListenStream=443\nListenDatagram=/run/app.sock\nService=other.service\nExecStartPre=/usr/bin/pre\n",
			Unit{Name: "app.socket", Type: "socket", Execs: []string{"/usr/bin/pre"}, Listen: []string{"443", "/run/app.sock"}, Service: "other.service"}},
		{"app.timer", "[Timer]\nOnCalendar=daily\n", Unit{Name: "app.timer", Type: "timer", Service: "app.service"}},
		{"app.path", "[Path]\nPathExists=/x\nUnit=app-do.service", Unit{Name: "app.path", Type: "path", Service: "app-do.service"}},
		{"app.target", "", Unit{Name: "app.target", Type: "target"}},
	} {
		u, err := ParseUnit(tt.name, []byte(tt.text))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if len(u.Hash) != 64 {
			t.Errorf("%s: hash %q", tt.name, u.Hash)
		}
		u.Hash, u.options = "", nil
		if !reflect.DeepEqual(u, tt.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", tt.name, u, tt.want)
		}
	}
}

func TestParseUnitErrors(t *testing.T) {
	for text, want := range map[string]string{
		"[Service\n":                 `a.service:1: section header "[Service" has no closing bracket`,
		"\n\n[Service]\nExec\n":      `a.service:4: "Exec" is not of the form Name=value`,
		"A=b\n":                      `a.service:1: "A=b" stands before any section`,
		"[Service]\nA=\xff\n":        "a.service is not text",
		"[Service]\nA=\x00\n":        "a.service is not text",
		strings.Repeat("#", 1<<20+1): "a.service is larger than 1048576 bytes",
	} {
		if _, err := ParseUnit("a.service", []byte(text)); err == nil || err.Error() != want {
			t.Errorf("%.20q: got %v, want %s", text, err, want)
		}
	}
}

func TestMatchesPrefix(t *testing.T) {
	for unit, want := range map[string]bool{
		"bowl.service": true, "bowl-x.service": true, "bowl@.service": true, "bowl@a.service": true, "bowl.x.service": true, "bowl": true,
		"bowling.service": false, "bowl_x.service": false, "abowl.service": false, "": false,
	} {
		if MatchesPrefix(unit, "bowl") != want {
			t.Errorf("MatchesPrefix(%q) = %v", unit, !want)
		}
	}
	if MatchesPrefix(".service", "") {
		t.Error("the empty prefix matches")
	}
}

func FuzzParseUnit(f *testing.F) {
	f.Add("app.service", "[Service]\nExecStart=-@/usr/bin/app 'a b' \\\n# c\n c\nStateDirectory=%p:x\n[X-Devbox]\nReads=/a\n")
	f.Add("app@.socket", "[Socket]\nListenStream=\nListenStream=%i\n")
	f.Add(".", "[a]\nb=\\")
	f.Add("x.path", "[Path]\n=\n[]\n=a\n")
	f.Fuzz(func(t *testing.T, name, text string) {
		u, err := ParseUnit(name, []byte(text))
		if err != nil {
			return
		}
		for _, p := range append(u.Execs, u.Reads...) {
			if !strings.HasPrefix(p, "/") || strings.Contains(p+"/", "/../") {
				t.Errorf("path %q", p)
			}
		}
		for _, d := range u.Dirs {
			if strings.Contains(d.Path+"/", "/../") {
				t.Errorf("folder %q", d.Path)
			}
		}
	})
}
