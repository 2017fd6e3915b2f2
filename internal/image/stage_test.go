package image

import (
	"bytes"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"devbox/internal/hint"
)

func TestStageAdds(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/usr/bin/bowl", "#!/bin/sh\n", 0o711)
	write(t, src+"/etc/bowl.yml", "a: b\n", 0o600)
	write(t, src+"/usr/lib/systemd/system/bowl.service",
		"[Service]\nExecStart=/usr/bin/bowl\nStateDirectory=bowl\nRuntimeDirectory=bowl\nBindPaths=/srv/x:/srv/y -/etc/hosts /run/z\nTemporaryFileSystem=/opt/t:ro\n", 0o644)
	over := t.TempDir()
	write(t, over+"/etc/bowl.yml", "c: d\n", 0o600)
	extra := filepath.Join(t.TempDir(), "key")
	write(t, extra, "k", 0o600)
	tree, err := Stage(Options{Name: "bowl", Dirs: []string{src, over}, Files: []File{{extra, "/etc/keys/", 0o400}, {over, "/srv/copy", 0}}})
	if err != nil {
		t.Fatal(err)
	}
	const dir, tmp = fs.ModeDir | 0o755, fs.ModeDir | fs.ModeSticky | 0o777
	want := map[string]fs.FileMode{
		"dev": dir, "etc": dir, "etc/bowl.yml": 0o644, "etc/hosts": 0o644, "etc/keys": dir, "etc/keys/key": 0o400, "etc/machine-id": 0o644,
		"etc/resolv.conf": 0o644, "opt": dir, "opt/t": dir, "proc": dir, "run": dir, "srv": dir, "srv/copy": dir, "srv/copy/etc": dir,
		"srv/copy/etc/bowl.yml": 0o644, "srv/y": dir, "sys": dir, "tmp": tmp, "usr": dir, "usr/bin": dir, "usr/bin/bowl": 0o755, "usr/lib": dir,
		"usr/lib/os-release": 0o644, "usr/lib/systemd": dir, "usr/lib/systemd/system": dir, "usr/lib/systemd/system/bowl.service": 0o644,
		"var": dir, "var/lib": dir, "var/lib/bowl": dir, "var/tmp": tmp,
	}
	got := map[string]fs.FileMode{}
	for _, e := range tree.Entries() {
		got[e.Path] = e.Mode
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %v\nwant %v", got, want)
	}
	for name, text := range map[string]string{"etc/bowl.yml": "c: d\n", "etc/machine-id": "", "etc/resolv.conf": "",
		"usr/lib/os-release": "ID=bowl\nPRETTY_NAME=bowl\nPORTABLE_PREFIXES=bowl\n"} {
		if b, err := fs.ReadFile(tree.FS(), name); err != nil || string(b) != text {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
}

func TestStageRefuses(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for link, to := range map[string]string{"links/out": "../x", "links/deep/out": "a/../../../x", "links/fine": "deep/../ok", "bin/bin": "/usr/bin"} {
		os.MkdirAll(filepath.Dir(path(link)), 0o755)
		if err := os.Symlink(to, path(link)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, path("odd/\xff"), "", 0o644)
	write(t, path("plain/bin/x"), "", 0o644)
	write(t, path("proc/proc"), "", 0o644)
	if err := syscall.Mkfifo(path("odd/pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path("odd/sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := path("plain/bin/x")
	for _, tt := range []struct {
		o    Options
		want []string
	}{
		{Options{Name: "a_b"}, []string{"name \"a_b\" has a `_`"}},
		{Options{Name: ""}, []string{"no name"}},
		{Options{Name: "Ä"}, []string{`has a 'Ä'`}},
		{Options{Name: "a/b"}, []string{`has a '/'`}},
		{Options{Name: "-a"}, []string{"begins or ends"}},
		{Options{Name: strings.Repeat("a", 65)}, []string{"too long"}},
		{Options{Name: "a", Dirs: []string{path("nowhere"), file}}, []string{path("nowhere") + ": no such file", file + " is not a folder"}},
		{Options{Name: "a", Dirs: []string{path("links")}}, []string{"link out escapes", "link deep/out escapes"}},
		{Options{Name: "a", Dirs: []string{path("odd")}}, []string{"pipe is a fifo", "sock is a socket", "is not UTF-8"}},
		{Options{Name: "a", Dirs: []string{path("plain"), path("bin")}}, []string{"bin is a link there, and a folder"}},
		{Options{Name: "a", Dirs: []string{path("bin"), path("plain")}}, []string{"bin is a folder there, and a link", "bin is a link"}},
		{Options{Name: "a", Dirs: []string{path("proc")}}, []string{"/proc is a file, but must be a folder"}},
		{Options{Name: "a", Files: []File{{file, "../x", 0}, {file, "/", 0}, {file, "", 0}, {file, "/a/../../b", 0}, {file, "/a//b", 0}}},
			[]string{`"../x"`, `"/"`, `""`, `"/a/../../b"`, `"/a//b"`}},
		{Options{Name: "a", Files: []File{{file, "/x", 0}, {file, "x", 0}}}, []string{"both go to /x"}},
		{Options{Name: "a", Files: []File{{path("gone"), "/x", 0}, {"/dev/null", "/y", 0}}}, []string{"gone: no such file", "/dev/null is a device"}},
		{Options{Name: "a", Files: []File{{file, "/x", 0}, {file, "/x/y", 0}}}, []string{"x is a file"}},
	} {
		_, err := Stage(tt.o)
		if err == nil {
			t.Errorf("%+v: no error", tt.o)
			continue
		}
		if hint.Of(err) == "" && len(tt.want) == 1 {
			t.Errorf("%v: no cure", err)
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v:\n got %v\nwant %s", tt.o, err, want)
			}
		}
	}
}

// A folder may be named by a link to it; links inside it stay links.
func TestStageFollowsLinkToFolder(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/real/etc/app.conf", "x", 0o644)
	for _, err := range []error{os.Symlink("real", src+"/link"), os.Symlink("app.conf", src+"/real/etc/other")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tree, err := Stage(Options{Name: "a", Dirs: []string{src + "/link"}, Files: []File{{src + "/link", "/srv", 0}}})
	if err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]fs.FileMode{
		"etc/app.conf": 0o644, "srv/etc/app.conf": 0o644, "etc/other": fs.ModeSymlink | 0o777, "srv": fs.ModeDir | 0o755,
	} {
		if e := tree.lookup(path); e == nil || e.Mode != mode {
			t.Errorf("%s: %+v, want mode %v", path, e, mode)
		}
	}
}

// The same inputs give the same bytes, whatever the order in which files were
// made, their times and the umask.
func TestPackIsDeterministic(t *testing.T) {
	names := []string{"usr/bin/bowl", "etc/a.conf", "etc/b/c", "usr/share/z", "usr/share/a"}
	for _, format := range []Format{Erofs, Squashfs} {
		t.Run(string(format), func(t *testing.T) {
			var first []byte
			for i := range 3 {
				src := t.TempDir()
				mask := syscall.Umask([]int{0, 0o27, 0o77}[i])
				for j := range names {
					name := filepath.Join(src, names[(j*2+i)%len(names)])
					os.MkdirAll(filepath.Dir(name), 0o777)
					os.WriteFile(name, bytes.Repeat([]byte(filepath.Base(name)), 3000), 0o766)
					os.Chtimes(name, time.Now(), time.Unix(int64(i)*1e8, 0))
				}
				os.Symlink("c", src+"/etc/b/link")
				syscall.Umask(mask)
				tree, err := Stage(Options{Name: "bowl", Dirs: []string{src}})
				if err != nil {
					t.Fatal(err)
				}
				data, err := os.ReadFile(packTemp(t, tree, format))
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					first = data
				} else if !bytes.Equal(first, data) {
					t.Errorf("run %d differs", i)
				}
			}
		})
	}
}
