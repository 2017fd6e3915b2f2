package image

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// elfFile is a program of only a header and, if loader is not empty, the
// segment that names its loader.
func elfFile(machine elf.Machine, loader string) string {
	b := make([]byte, 64+56+len(loader)+1)
	copy(b, elf.ELFMAG)
	b[4], b[5], b[6] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	le := binary.LittleEndian
	le.PutUint16(b[16:], uint16(elf.ET_EXEC))
	le.PutUint16(b[18:], uint16(machine))
	le.PutUint32(b[20:], uint32(elf.EV_CURRENT))
	le.PutUint64(b[32:], 64) // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[58:], 64)
	if loader != "" {
		le.PutUint16(b[56:], 1)
		le.PutUint32(b[64:], uint32(elf.PT_INTERP))
		le.PutUint64(b[64+8:], 64+56)
		le.PutUint64(b[64+32:], uint64(len(loader)+1))
		le.PutUint64(b[64+40:], uint64(len(loader)+1))
		copy(b[64+56:], loader)
	}
	return string(b)
}

const unitDir = "usr/lib/systemd/system/"

// good is a tree with nothing to complain about. An empty text removes a file.
func checkTree(t *testing.T, change map[string]string) *Tree {
	t.Helper()
	files := map[string]string{
		"usr/bin/bowl":                   elfFile(elf.EM_X86_64, ""),
		unitDir + "bowl.service":         "[Unit]\nRequires=bowl.socket bowl-restore.service\n[Service]\nExecStart=/usr/bin/bowl\nStateDirectory=bowl\nDynamicUser=yes\nUser=bowl\n",
		unitDir + "bowl.socket":          "[Unit]\nPartOf=other.service\n[Socket]\nListenStream=80\n",
		unitDir + "bowl-restore.service": "[Service]\nType=oneshot\nExecStart=/usr/bin/bowl restore\nStateDirectory=bowl\nDynamicUser=yes\nUser=bowl\n",
	}
	for name, text := range change {
		files[name] = text
	}
	src := t.TempDir()
	for name, text := range files {
		if text == "" {
			continue
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "usr/bin/") && !strings.HasSuffix(name, ".txt") {
			mode = 0o755
		}
		write(t, src+"/"+name, strings.TrimPrefix(text, "EMPTY"), mode)
	}
	tree, err := Stage(Options{Name: "bowl", Dirs: []string{src}})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestCheck(t *testing.T) {
	service := func(lines string) map[string]string {
		return map[string]string{unitDir + "bowl-x.service": "[Service]\n" + lines + "\n"}
	}
	const at = unitDir + "bowl-x.service:2: "
	for _, tt := range []struct {
		name   string
		change map[string]string
		want   []string // "!" before a problem, "?" before a warning
	}{
		{"good", nil, nil},
		{"no ID", map[string]string{"usr/lib/os-release": "PORTABLE_PREFIXES=\"a bowl\"\n"},
			[]string{"!usr/lib/os-release: ID=: it is not set, without which portabled refuses the image"}},
		{"no prefixes", map[string]string{"etc/os-release": "ID=debian\n"},
			[]string{"?etc/os-release: PORTABLE_PREFIXES=: it is not set, so that this image may bring units of any name"}},
		{"other prefixes", map[string]string{"etc/os-release": "ID=debian\nPORTABLE_PREFIXES=bow\n"},
			[]string{`!etc/os-release: PORTABLE_PREFIXES=: "bowl" is not among them, so that portabled refuses the image`}},
		{"names", map[string]string{unitDir + "litestream.service": "[Service]\nExecStart=/usr/bin/bowl", unitDir + "bowl_x.timer": "[Timer]", unitDir + "bowl.slice": "[Slice]",
			unitDir + "bowl.service.d/a.conf": "x", unitDir + "bowl.target.wants/x.service": "x", unitDir + "bowl.servcie": "x", unitDir + "bowl-e.service": "EMPTY"},
			[]string{
				`?usr/lib/systemd/system: portabled will ignore bowl_x.timer, litestream.service: the name does not begin with "bowl" and then ` + "`.`, `-` or `@`",
				"!" + unitDir + "bowl-e.service: it is empty, so that portabled ignores it",
				"?" + unitDir + "bowl.servcie: its name ends like no unit type, so that it is ignored",
				"!" + unitDir + "bowl.service.d: portabled ignores the drop-ins of an image",
				"!" + unitDir + "bowl.slice: portabled ignores .slice units of an image: it installs only services, sockets, timers, paths and targets",
				"!" + unitDir + "bowl.target.wants: portabled ignores the links in .wants folders of an image",
			}},
		{"names that end in -", map[string]string{unitDir + "bowl-.service": "[Service]\nExecStart=/usr/bin/bowl", unitDir + "bowl-x-@.service": "[Service]\nExecStart=/usr/bin/bowl"},
			[]string{
				"!" + unitDir + "bowl-.service: its drop-ins would be those of every unit whose name begins like this, so that a host refuses it",
				"!" + unitDir + "bowl-x-@.service: its drop-ins would be those of every unit whose name begins like this, so that a host refuses it",
			}},
		{"hidden", map[string]string{"etc/systemd/system/bowl.socket": "[Socket]\nListenStream=1\n"},
			[]string{"?" + unitDir + "bowl.socket: it is hidden by etc/systemd/system/bowl.socket"}},
		{"no syntax", map[string]string{"usr/lib/systemd/system/bowl-y.service": "ExecStart=x\n"},
			[]string{"!" + unitDir + `bowl-y.service: bowl-y.service:1: "ExecStart=x" stands before any section`}},
		{"missing program", service("ExecStart=/usr/bin/nope"), []string{"!" + at + "ExecStart=: /usr/bin/nope is not in the image"}},
		{"missing, but that is fine", service("ExecStart=-/usr/bin/nope"), []string{"?" + at + "ExecStart=: /usr/bin/nope is not in the image"}},
		{"bare names", service("ExecStart=bowl\nExecStop=nope $A"), []string{"!" + unitDir + "bowl-x.service:3: ExecStop=: nope is in no folder of programs in the image"}},
		{"a specifier", service("ExecStart=/usr/bin/%b"), nil},
		{"on the host", service("ExecStart=/run/host/x"), nil},
		{"a folder", service("ExecStart=/usr/bin"), []string{"!" + at + "ExecStart=: /usr/bin is a folder"}},
		{"not executable", map[string]string{"usr/bin/x.txt": "#!/bin/sh\n", unitDir + "bowl-x.service": "[Service]\nExecStart=/usr/bin/x.txt\n"},
			[]string{"!" + at + "ExecStart=: /usr/bin/x.txt is not executable"}},
		{"no program", map[string]string{"usr/bin/x": "hello", unitDir + "bowl-x.service": "[Service]\nExecStart=/usr/bin/x\n"},
			[]string{"!" + at + "ExecStart=: /usr/bin/x is neither a Linux program nor a script with `#!`"}},
		{"empty program", map[string]string{"usr/bin/x": "EMPTY", unitDir + "bowl-x.service": "[Service]\nExecStart=/usr/bin/x\n"},
			[]string{"!" + at + "ExecStart=: /usr/bin/x is empty"}},
		{"broken program", map[string]string{"usr/bin/x": elf.ELFMAG, unitDir + "bowl-x.service": "[Service]\nExecStart=/usr/bin/x\n"},
			[]string{"!" + at + "ExecStart=: /usr/bin/x is a broken program: EOF"}},
		{"script without interpreter", map[string]string{"usr/bin/x": "#! /bin/sh -e\n", unitDir + "bowl-x.service": "[Service]\nExecStart=/usr/bin/x\n"},
			[]string{"!" + at + "ExecStart=: /usr/bin/x is a script for /bin/sh, which is not in the image"}},
		{"script with interpreter", map[string]string{"usr/bin/x": "#!/usr/bin/bowl\n", unitDir + "bowl-x.service": "[Service]\nExecStart=/usr/bin/x\n"}, nil},
		{"script for itself", map[string]string{"usr/bin/x": "#!/usr/bin/x\n", unitDir + "bowl-x.service": "[Service]\nExecStart=/usr/bin/x\n"},
			[]string{"!" + at + "ExecStart=: /usr/bin/x is a script for a script for a script …"}},
		{"other machine", map[string]string{"usr/bin/bowl": elfFile(elf.EM_AARCH64, ""), unitDir + "bowl-restore.service": "", unitDir + "bowl.service": "[Service]\nExecStart=/usr/bin/bowl\n"},
			[]string{"!" + unitDir + "bowl.service:2: ExecStart=: /usr/bin/bowl is built for arm64, and the host is amd64"}},
		{"no loader", map[string]string{"usr/bin/x": elfFile(elf.EM_X86_64, "/lib64/ld.so.2"), unitDir + "bowl-x.service": "[Service]\nExecStart=/usr/bin/x\n"},
			[]string{"!" + at + "ExecStart=: /usr/bin/x is linked dynamically, and its loader /lib64/ld.so.2 is not in the image"}},
		{"loader", map[string]string{"lib64/ld.so.2": "x", "usr/bin/x": elfFile(elf.EM_X86_64, "/lib64/ld.so.2"), unitDir + "bowl-x.service": "[Service]\nExecStart=/usr/bin/x\n"}, nil},
		{"nothing to run", service("Type=simple"), []string{"!" + unitDir + "bowl-x.service: the service runs nothing"}},
		{"coupled sockets", map[string]string{unitDir + "bowl.socket": "[Unit]\nPartOf=bowl.service\nBindsTo=a b bowl.service\nRequires=%N.service\n[Socket]\nListenStream=80\n"},
			[]string{
				"!" + unitDir + "bowl.socket:2: PartOf=: it restarts the socket whenever bowl.service restarts: the listener closes and clients are refused",
				"!" + unitDir + "bowl.socket:3: BindsTo=: it restarts the socket whenever bowl.service restarts: the listener closes and clients are refused",
				"!" + unitDir + "bowl.socket:4: Requires=: it restarts the socket whenever bowl.service restarts: the listener closes and clients are refused",
			}},
		{"coupled services", map[string]string{unitDir + "bowl-x.service": "[Unit]\nRequires=bowl.service bowl-restore.service\n[Service]\nExecStart=/usr/bin/bowl\n"},
			[]string{"?" + at + "Requires=: it restarts and stops bowl-x.service whenever bowl.service does"}},
		{"lonely", map[string]string{unitDir + "bowl-a.socket": "[Socket]\nListenStream=1\nAccept=yes\n", unitDir + "bowl-b.socket": "[Socket]\n",
			unitDir + "bowl-c.timer": "[Timer]\nOnCalendar=daily\n", unitDir + "bowl-d.timer": "[Timer]\nUnit=host.service\n"},
			[]string{
				"!" + unitDir + "bowl-a.socket: it starts bowl-a@.service, which is not among the units of this image",
				"!" + unitDir + "bowl-b.socket: it starts bowl-b.service, which is not among the units of this image",
				"!" + unitDir + "bowl-b.socket: it listens on nothing",
				"!" + unitDir + "bowl-c.timer: it starts bowl-c.service, which is not among the units of this image",
			}},
		{"working directory", service("ExecStart=/usr/bin/bowl\nWorkingDirectory=/srv/x"),
			[]string{"!" + unitDir + "bowl-x.service:3: WorkingDirectory=: /srv/x is not a folder in the image: the start fails with status 200/CHDIR"}},
		{"shared state", service("ExecStart=/usr/bin/bowl\nDynamicUser=1\nStateDirectory=bowl"),
			[]string{"!" + unitDir + "bowl-x.service: StateDirectory=: /var/lib/bowl is shared with bowl-restore.service, which runs as another user (bowl, not bowl-x)"}},
		{"secrets as they are meant", service("ExecStart=/usr/bin/bowl\nLoadCredentialEncrypted=bowl.a\nLoadCredentialEncrypted=bowl.b:/etc/credstore.encrypted/bowl.b\n" +
			"LoadCredentialEncrypted=c:/srv/c\nLoadCredential=d\nImportCredential=bowl.*\nImportCredential=ssh.*:s"), nil},
		{"secrets by other names", service("ExecStart=/usr/bin/bowl\nLoadCredentialEncrypted=a:bowl.a\nLoadCredentialEncrypted=b\nLoadCredential=bowl.c\n" +
			"LoadCredential=d:/etc/credstore.encrypted/x\nImportCredential=bowl.*:e\nImportCredential=b*\nSetCredential=f:g\nLoadCredentialEncrypted=f"),
			[]string{
				"!" + unitDir + "bowl-x.service:3: LoadCredentialEncrypted=: systemd does not load a secret under another name than it has inside (status 243/CREDENTIALS)",
				"?" + unitDir + "bowl-x.service:4: LoadCredentialEncrypted=: a secret of this app is called bowl.b; if nothing else puts b there, the service starts without it",
				"?" + unitDir + "bowl-x.service:5: LoadCredential=: it gives the service what it finds undecrypted",
				"!" + unitDir + "bowl-x.service:6: LoadCredential=: it gives the service what it finds undecrypted",
				"!" + unitDir + "bowl-x.service:7: ImportCredential=: systemd does not load a secret under another name than it has inside (status 243/CREDENTIALS)",
				"?" + unitDir + "bowl-x.service:8: ImportCredential=: it may take secrets of other apps on the host, too",
				"?" + unitDir + "bowl-x.service:9: SetCredential=: what stands there is part of the image and can be read by everyone on the host",
			}},
	} {
		var got []string
		for _, p := range checkTree(t, tt.change).Check(t.Context(), CheckOptions{Name: "bowl", Arch: "amd64"}) {
			if p.Cure == "" {
				t.Errorf("%s: %s: no cure", tt.name, p)
			}
			got = append(got, map[bool]string{true: "?", false: "!"}[p.Warning]+p.String())
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, strings.Join(got, "\n     "), strings.Join(tt.want, "\n     "))
		}
	}
}

func TestCheckOfTheStateCheck(t *testing.T) {
	tree := checkTree(t, map[string]string{"etc/bowl.conf": "x"})
	for program, want := range map[string]string{
		"":                 "",
		"/usr/bin/bowl":    "",
		"/usr/bin/browl":   "state.check: /usr/bin/browl is not in the image",
		"/etc/bowl.conf":   "state.check: /etc/bowl.conf is not executable",
		"/usr/lib/systemd": "state.check: /usr/lib/systemd is a folder",
	} {
		got := ""
		for _, p := range tree.Check(t.Context(), CheckOptions{Name: "bowl", Arch: "amd64", StateCheck: program}) {
			if !p.Warning {
				got += p.String()
			}
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", program, got, want)
		}
	}
}

// What Stage adds, Check misses when it is gone.
func TestCheckMissesWhatStageAdds(t *testing.T) {
	tree := checkTree(t, map[string]string{unitDir + "bowl-x.service": "[Service]\nExecStart=/usr/bin/bowl\nBindPaths=/srv/a\n"})
	for _, name := range []string{"proc", "sys", "dev", "run", "tmp", "var/tmp", "etc/machine-id", "etc/resolv.conf", "usr/lib/os-release", "var/lib/bowl", "srv/a"} {
		bare := newTree("bowl")
		for _, e := range tree.entries {
			if e.Path != name {
				bare.put(e)
			}
		}
		bare.sort()
		if problems := bare.Check(t.Context(), CheckOptions{Name: "bowl", Arch: "amd64"}); len(problems) == 0 || problems[0].Warning {
			t.Errorf("without %s: %v", name, problems)
		}
	}
	empty := newTree("bowl")
	if problems := empty.Check(t.Context(), CheckOptions{Name: "bowl", Arch: "amd64"}); len(problems) < 10 {
		t.Errorf("of an empty tree: %v", problems)
	}
}

// The test's own binary stands in for a real program.
func TestCheckRealProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil || runtime.GOOS != "linux" {
		t.Skip("needs a Linux program")
	}
	src := t.TempDir()
	write(t, src+"/"+unitDir+"bowl.service", "[Service]\nExecStart=/usr/bin/bowl\n", 0o644)
	tree, err := Stage(Options{Name: "bowl", Dirs: []string{src}, Files: []File{{self, "/usr/bin/bowl", 0}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range tree.Check(t.Context(), CheckOptions{Name: "bowl", Arch: runtime.GOARCH}) {
		if !strings.Contains(p.Text, "its loader") { // built with cgo
			t.Error(p)
		}
	}
	other := map[string]string{"amd64": "arm64"}[runtime.GOARCH]
	if problems := tree.Check(t.Context(), CheckOptions{Name: "bowl", Arch: other}); other != "" && len(problems) != 1 {
		t.Errorf("for %s: %v", other, problems)
	}
}

func TestVerify(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("needs systemd-analyze")
	}
	good, err := Verify(t.Context(), checkTree(t, nil))
	if err != nil || len(good) != 0 {
		t.Errorf("of a good tree: %v %v", good, err)
	}
	bad, err := Verify(t.Context(), checkTree(t, map[string]string{
		unitDir + "bowl.service": "[Service]\nExecStart=/usr/bin/bowl\nExecStop=/usr/bin/nope\nFrobnicate=yes\n[X-Devbox]\nReads=/etc\n"}))
	if err != nil || len(bad) != 1 || bad[0].Path != unitDir+"bowl.service" || bad[0].Line != 4 || !strings.Contains(bad[0].Text, "Frobnicate") || !bad[0].Warning {
		t.Errorf("of a bad tree: %+v %v", bad, err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Verify(t.Context(), checkTree(t, nil)); err != ErrNoVerify {
		t.Errorf("without the tool: %v", err)
	}
}
