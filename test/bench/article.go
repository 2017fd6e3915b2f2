package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"devbox/internal/image"
)

// The article's flow runs beside devbox's app on the same machine, under a name
// of its own, with the same files in its image.
const (
	articleName = "bowlxz"
	articlePort = 8081
)

// article delivers a copy of the app to one machine in the article's way.
type article struct {
	*bench
	source string // the copy of the app
	stage  string
	tree   string
	host   string   // the machine, for ssh
	ssh    []string // options of ssh and scp
}

// articleTo is the article's way to host, with the files of devbox's image of
// the app.
func (b *bench) articleTo(name, img, host string, ssh []string) (*article, error) {
	source, err := b.copyApp(name)
	if err != nil {
		return nil, err
	}
	a := &article{bench: b, source: source, stage: source + "-stage", tree: source + "-tree", host: host, ssh: ssh}
	return a, a.makeTree(img)
}

// measureArticle builds, packs with squashfs and xz, copies with scp, reattaches
// and restarts.
func (b *bench) measureArticle(ctx context.Context, r *report) error {
	ssh := []string{"-q", "-F", "none", "-i", b.admin.IdentityFiles[0], "-o", "IdentitiesOnly=yes",
		"-o", "UserKnownHostsFile=" + b.admin.KnownHosts[0], "-o", "StrictHostKeyChecking=yes"}
	img := filepath.Join(b.dir, "cache", "devbox", "apps", "bowl", "images", "bowl_"+b.version+".raw")
	a, err := b.articleTo("article", img, b.admin.User+"@"+b.admin.Host, ssh)
	if err != nil {
		return err
	}
	s, err := kinds[0].in(a.source)
	if err != nil {
		return err
	}
	for n := range b.article + 1 {
		begin, err := s.save(n)
		if err != nil {
			return err
		}
		laps, err := a.deliver(ctx, n)
		if err != nil {
			return err
		}
		at, _, err := until(ctx, b.guest(articlePort, "/"), func(body string) bool { return strings.Contains(body, mark(n)) })
		if err != nil {
			return err
		}
		if n > 0 {
			r.Article.add(at.Sub(begin), laps)
		}
	}
	return nil
}

// flow is the article's way, with its steps.
type flow struct {
	Total samples
	Steps []phase
}

func (f *flow) add(total time.Duration, laps []time.Duration) {
	f.Total.add(total)
	if f.Steps == nil {
		for _, name := range articleSteps {
			f.Steps = append(f.Steps, phase{Name: name})
		}
	}
	for i, d := range laps {
		f.Steps[i].Took.add(d)
	}
}

var articleSteps = []string{"build", "mksquashfs xz", "scp", "portablectl reattach", "systemctl restart"}

// deliver runs the steps and returns how long each took.
func (a *article) deliver(ctx context.Context, n int) ([]time.Duration, error) {
	img := fmt.Sprintf("%s_%d.raw", articleName, n)
	local := filepath.Join(a.dir, img)
	defer os.Remove(local)
	verb, pack := "reattach", []string{"-comp", "xz"}
	if n == 0 { // not measured: it need not take long
		verb, pack = "attach", []string{"-noI", "-noD", "-noF", "-noX"}
	}
	remote := func(command string) []string {
		return append(append([]string{"ssh"}, a.ssh...), a.host, "sudo -n sh -euc '"+command+"'")
	}
	steps := [][]string{
		{"sh", "-euc", `DEVBOX_STAGE=$1 GOOS=linux GOARCH=$2 scripts/build.sh; rm -rf "$3/usr/share/bowl"; cp -RL "$1/usr" "$3"`,
			"sh", a.stage, runtime.GOARCH, a.tree},
		append([]string{"mksquashfs", a.tree, local, "-all-root", "-noappend", "-quiet", "-no-progress"}, pack...),
		append(append([]string{"scp"}, a.ssh...), local, a.host+":"+img),
		remote(fmt.Sprintf("mv %s /var/lib/portables/; portablectl %s --quiet --profile=default /var/lib/portables/%s", img, verb, img)),
		remote(fmt.Sprintf("systemctl restart %s.service", articleName)),
	}
	var laps []time.Duration
	for _, s := range steps {
		begin := time.Now()
		if err := a.do(ctx, a.source, s[0], s[1:]...); err != nil {
			return nil, err
		}
		laps = append(laps, time.Since(begin))
	}
	old := remote(fmt.Sprintf("rm -f /var/lib/portables/%s_%d.raw", articleName, n-1))
	return laps, a.do(ctx, a.source, old[0], old[1:]...)
}

// makeTree takes the tree out of devbox's image and gives its units the other
// name. Litestream stays in the image but does not run twice.
func (a *article) makeTree(img string) error {
	if err := unpack(img, a.tree); err != nil {
		return err
	}
	return a.rename()
}

// unpack takes the tree out of an image.
func unpack(file, tree string) error {
	img, err := image.Open(file)
	if err != nil {
		return err
	}
	defer img.Close()
	for _, e := range img.Entries() {
		to := filepath.Join(tree, filepath.FromSlash(e.Path))
		switch {
		case e.Mode.IsDir():
			err = os.MkdirAll(to, e.Mode.Perm()|0o700)
		case e.Mode.Type() == fs.ModeSymlink:
			err = os.Symlink(e.Target, to)
		default:
			err = extract(img.FS(), e, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func extract(from fs.FS, e image.Entry, to string) error {
	in, err := from.Open(e.Path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, e.Mode.Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (a *article) rename() error {
	units := filepath.Join(a.tree, "usr", "lib", "systemd", "system")
	for _, name := range []string{"bowl.service", "bowl.socket"} {
		data, err := os.ReadFile(filepath.Join(units, name))
		if err != nil {
			return err
		}
		text := strings.NewReplacer(
			" bowl-restore.service", "",
			"bowl.socket", articleName+".socket",
			"User=bowl", "User="+articleName,
			"StateDirectory=bowl", "StateDirectory="+articleName,
			"ListenStream=80\nListenStream=443\n", "",
			"ListenStream=8080", fmt.Sprintf("ListenStream=%d", articlePort),
		).Replace(string(data))
		to := filepath.Join(units, articleName+path.Ext(name))
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			return err
		}
	}
	old, err := filepath.Glob(filepath.Join(units, `bowl[.\-]*`))
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		file := filepath.Join(a.tree, name)
		if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if err := edit(file, map[string]string{"PORTABLE_PREFIXES=bowl": "PORTABLE_PREFIXES=" + articleName}); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(a.stage, 0o755); err != nil {
		return err
	}
	return os.MkdirAll(filepath.Join(a.tree, "var", "lib", articleName), 0o755)
}
