package remote

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// config writes files into a home and returns its Options.
func config(t *testing.T, files map[string]string) Options {
	t.Helper()
	home := t.TempDir()
	for name, text := range files {
		path := filepath.Join(home, ".ssh", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "HOME", home)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Options{Home: home, ConfigFiles: []string{filepath.Join(home, ".ssh", "config")}, LocalUser: "me", AgentSocket: "/agent"}
}

// short writes hops down as user@host:port, first jump first.
func short(hops []Hop) string {
	var s []string
	for _, h := range hops {
		s = append(s, h.User+"@"+h.Addr())
	}
	return strings.Join(s, " > ")
}

func TestResolveWay(t *testing.T) {
	tests := []struct {
		name, config string
		endpoint     Endpoint
		want         string
	}{
		{"no config", "", Endpoint{Host: "a"}, "me@a:22"},
		{"alias", "Host prod\n HostName p.example.org\n User deploy\n Port 2222\n", Endpoint{Host: "prod"}, "deploy@p.example.org:2222"},
		{"explicit wins", "Host prod\n HostName p.example.org\n User deploy\n Port 2222\n", Endpoint{Host: "prod", User: "root", Port: 22}, "root@p.example.org:22"},
		{"first wins", "Host x\n User one\nHost *\n User two\n Port 7\n", Endpoint{Host: "x"}, "one@x:7"},
		{"equals, quotes, case, CRLF", "HOST = \"x\"\r\n\tuSeR=\"u\"\r\nport = 9\r\n", Endpoint{Host: "x"}, "u@x:9"},
		{"negated", "Host * !x\n User no\n", Endpoint{Host: "x"}, "me@x:22"},
		{"tabs between patterns", "Host a\tx\n User u\n", Endpoint{Host: "x"}, "u@x:22"},
		{"HostName tokens", "Host x\n HostName %h.example.org\n", Endpoint{Host: "x"}, "me@x.example.org:22"},
		{"IPv6", "", Endpoint{Host: "::1"}, "me@[::1]:22"},
		{"jump", "Host x\n ProxyJump j\nHost j\n User ju\n Port 2\n", Endpoint{Host: "x"}, "ju@j:2 > me@x:22"},
		{"several jumps", "Host x\n ProxyJump a@b:3,ssh://c@[::1]:4/,e\n", Endpoint{Host: "x"}, "a@b:3 > c@[::1]:4 > me@e:22 > me@x:22"},
		{"a jump's own jump", "Host x\n ProxyJump a,b\nHost a b\n ProxyJump c\nHost c\n ProxyJump none\n", Endpoint{Host: "x"}, "me@c:22 > me@a:22 > me@b:22 > me@x:22"},
		{"jump none", "Host x\n ProxyJump none\nHost *\n ProxyJump j\n", Endpoint{Host: "x"}, "me@x:22"},
		{"include", "Include conf.d/*\nHost x\n User late\n", Endpoint{Host: "x"}, "early@x:22"},
		{"include inside a block of others", "Host y\n Include conf.d/*\nHost x\n User late\n", Endpoint{Host: "x"}, "late@x:22"},
		{"match all", "Match all\n User u\n", Endpoint{Host: "x"}, "u@x:22"},
		{"match host is the HostName", "Host x\n HostName x.org\nMatch host *.org\n User u\n", Endpoint{Host: "x"}, "u@x.org:22"},
		{"match originalhost and user", "Match originalhost x,y user me\n Port 5\n", Endpoint{Host: "x"}, "me@x:5"},
		{"match user other", "Match user you\n Port 5\n", Endpoint{Host: "x"}, "me@x:22"},
		{"match negated", "Match !host x\n Port 5\nMatch !host z\n Port 6\n", Endpoint{Host: "x"}, "me@x:6"},
		{"match exec for others", "Match host z exec \"true\"\n Port 5\n", Endpoint{Host: "x"}, "me@x:22"},
		{"match final", "Match final\n Port 5\n", Endpoint{Host: "x"}, "me@x:22"},
		{"as Lima writes it", "Host lima-x\n  IdentityFile \"/h/.lima/_config/user\"\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n" +
			"  Ciphers \"^aes128-gcm@openssh.com\"\n  User me2\n  ControlPath \"/h/s\"\n  Hostname 127.0.0.1\n  Port 60022\n",
			Endpoint{Host: "lima-x"}, "me2@127.0.0.1:60022"},
		{"keyword without value", "Host x\n User\n Port 5\n", Endpoint{Host: "x"}, "me@x:5"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := config(t, map[string]string{"config": test.config, "conf.d/a": "Host x\n User early\n"})
			hops, err := Resolve(test.endpoint, o)
			if err != nil {
				t.Fatal(err)
			}
			if got := short(hops); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestResolveFiles(t *testing.T) {
	o := config(t, map[string]string{"config": `
Host full
  HostName full.example.org
  User u
  IdentityFile ~/.ssh/%r_%h
  IdentityFile "%d/a b"
  IdentitiesOnly yes
  IdentityAgent ~/agent.sock
  UserKnownHostsFile "HOME/k 1" ~/k2
  GlobalKnownHostsFile none
  HostKeyAlias same
Host quiet
  IdentityAgent none
  IdentityFile none
  UserKnownHostsFile "HOME/k 1"
Host *
  IdentityFile ~/last
`})
	home := o.Home
	hops, err := Resolve(Endpoint{Host: "full"}, o)
	if err != nil {
		t.Fatal(err)
	}
	want := Hop{
		Alias: "full", Host: "full.example.org", Port: 22, User: "u", IdentitiesOnly: true,
		IdentityFiles: []string{home + "/.ssh/u_full.example.org", home + "/a b", home + "/last"},
		AgentSocket:   home + "/agent.sock",
		KnownHosts:    []string{home + "/k 1", home + "/k2"},
		HostKeyName:   "same:22",
	}
	if !reflect.DeepEqual(hops[0], want) {
		t.Errorf("full: got %+v, want %+v", hops[0], want)
	}
	hops, err = Resolve(Endpoint{Host: "quiet"}, o)
	if err != nil {
		t.Fatal(err)
	}
	want = Hop{
		Alias: "quiet", Host: "quiet", Port: 22, User: "me", IdentityFiles: []string{home + "/last"},
		KnownHosts:  []string{home + "/k 1", "/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"},
		HostKeyName: "quiet:22",
	}
	if !reflect.DeepEqual(hops[0], want) {
		t.Errorf("quiet: got %+v, want %+v", hops[0], want)
	}
	hops, err = Resolve(Endpoint{Host: "full", IdentityFiles: []string{"~/k"}, KnownHosts: []string{"~/h"}, HostKeyAlias: "vm"}, o)
	if err != nil {
		t.Fatal(err)
	}
	want = Hop{
		Alias: "full", Host: "full.example.org", Port: 22, User: "u", IdentitiesOnly: true,
		IdentityFiles: []string{home + "/k"}, AgentSocket: home + "/agent.sock", KnownHosts: []string{home + "/h"}, HostKeyName: "vm:22",
	}
	if !reflect.DeepEqual(hops[0], want) {
		t.Errorf("explicit: got %+v, want %+v", hops[0], want)
	}
}

func TestResolveRefuses(t *testing.T) {
	tests := []struct{ name, config, host, want string }{
		{"no host", "", "", "no host"},
		{"option as host", "", "-oProxyCommand=id", "not a host name"},
		{"HostName odd", "Host x\n HostName a;b\n", "x", "not a host name"},
		{"port", "Host x\n Port 70000\n", "x", "not a port"},
		{"proxy command", "Host x\n ProxyCommand nc %h %p\n", "x", "ProxyCommand"},
		{"jump circle", "Host a\n ProxyJump b\nHost b\n ProxyJump a\n", "a", "circle"},
		{"jump port", "Host a\n ProxyJump b:0\n", "a", "port"},
		{"include circle", "Include config\n", "x", "include each other"},
		{"match exec", "Host y\n User u\nMatch originalhost x exec \"test -e /\"\n Port 5\n", "x", "line 3"},
		{"match nothing", "Match\thost\n", "x", "line 1"},
		{"open quote", "UserKnownHostsFile \"a\n", "x", "quote"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			hops, err := Resolve(Endpoint{Host: test.host}, config(t, map[string]string{"config": test.config}))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, %v; want an error with %q", hops, err, test.want)
			}
		})
	}
}

// TestResolveLikeSSH compares with what OpenSSH makes of the same file.
func TestResolveLikeSSH(t *testing.T) {
	bin, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("needs ssh (Debian: apt-get install openssh-client)")
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	included := filepath.Join(dir, "included")
	if err := os.WriteFile(included, []byte("Host *.in\n Port 77\nMatch host three\n User inc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config")
	text := fmt.Sprintf(`
# a comment
Host one two.example.org
	HostName = real.example.org
	Port=2022
	IdentityFile /k/%%r-%%h-%%p-%%n
	IdentityFile /k/second
Host "three"
	UserKnownHostsFile "/a b/c" /d
	Include %s
Match originalhost t*,one !user root
	IdentitiesOnly yes
	User matched
Match host real.*
	HostKeyAlias thealias
Host *.in
	Include %[1]s
Host ?ne *.in !not.in
	User patterned
Host *
	IdentityFile ~/lastkey
	User anyone
`, included)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"one", "two.example.org", "three", "ten", "a.in", "not.in", "other"} {
		out, err := exec.Command(bin, "-G", "-F", file, host).Output()
		if err != nil {
			t.Fatal(err)
		}
		ssh := map[string][]string{}
		for line := range strings.Lines(string(out)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			ssh[key] = append(ssh[key], value)
		}
		hops, err := Resolve(Endpoint{Host: host, ConfigFile: file}, Options{Home: me.HomeDir, LocalUser: me.Username})
		if err != nil {
			t.Fatal(err)
		}
		h := hops[0]
		if got, want := fmt.Sprintf("%s@%s:%d %v", h.User, h.Host, h.Port, h.IdentitiesOnly),
			fmt.Sprintf("%s@%s:%s %v", ssh["user"][0], ssh["hostname"][0], ssh["port"][0], ssh["identitiesonly"][0] == "yes"); got != want {
			t.Errorf("%s: got %s, ssh has %s", host, got, want)
		}
		var keys []string
		tokens := map[byte]string{'r': h.User, 'h': h.Host, 'p': fmt.Sprint(h.Port), 'n': host}
		for _, file := range ssh["identityfile"] {
			keys = append(keys, untilde(expand(file, tokens), me.HomeDir))
		}
		if !slices.Equal(h.IdentityFiles, keys) {
			t.Errorf("%s: got keys %v, ssh has %v", host, h.IdentityFiles, keys)
		}
		if alias := ssh["hostkeyalias"]; len(alias) > 0 && h.HostKeyName != alias[0]+":22" {
			t.Errorf("%s: got host key alias %s, ssh has %s", host, h.HostKeyName, alias[0])
		}
	}
}

// FuzzJump feeds it one word of ProxyJump=: a place that can be dialled, or an
// error.
func FuzzJump(f *testing.F) {
	for _, s := range []string{"host", "me@host:22", "ssh://me@[::1]:2222/", "@host", "[host", "a@b@c:0", "-oProxyCommand=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := parseJump(s)
		if err == nil && (validHost(e.Host) != nil || e.Port < 0 || e.Port > 65535) {
			t.Errorf("%q gives %+v", s, e)
		}
	})
}

// FuzzResolve feeds the adapter config files: whatever they say, what comes
// out can be dialled, or is an error.
func FuzzResolve(f *testing.F) {
	f.Add("Host x\n HostName y\n Port 1\n ProxyJump a,b\n", "x")
	f.Add("Match host x exec \"a b\"\n User u\n", "x")
	f.Add("Match !user \"\n", "x")
	f.Add("UserKnownHostsFile \"a\" \"b\" c#d\nIdentityFile %%%d%", "x")
	f.Add("Host\nMatch\nPort\n=\n\"", "h")
	home := f.TempDir()
	f.Fuzz(func(t *testing.T, text, host string) {
		if strings.Contains(strings.ToLower(text), "include") {
			return // It would read files of this machine.
		}
		c := &sshConfig{alias: host, localUser: "me", home: home, values: map[string][]string{}}
		if validHost(host) != nil || c.parse("config", text, 0) != nil {
			return
		}
		hop, err := hopOf(Endpoint{Host: host}, Options{Home: home, LocalUser: "me"}, c)
		if err != nil {
			return
		}
		if validHost(hop.Host) != nil || hop.Port < 1 || hop.Port > 65535 || hop.User == "" {
			t.Errorf("%q gives %+v", text, hop)
		}
		if slices.Contains(hop.KnownHosts, "") || slices.Contains(hop.IdentityFiles, "") {
			t.Errorf("%q gives an empty file name: %+v", text, hop)
		}
	})
}
