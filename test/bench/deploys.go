package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"devbox/internal/config"
	"devbox/internal/deploy"
	"devbox/test/vps"
)

// linkRate is that of a home's upload, for tc(8).
const linkRate = "20mbit"

// shipped is a way to bring a change to a server over the slow link.
type shipped struct {
	Name    string
	Payload int64 // bytes of the change itself, 0 where that is not told
	Link    int64 // bytes on the link, towards the server, with all that SSH and the network add
	Took    samples
}

func (s *shipped) row() string {
	payload := "–"
	if s.Payload > 0 {
		payload = kilobytes(s.Payload)
	}
	return fmt.Sprintf("%s | %s | %s", payload, kilobytes(s.Link), s.Took.row())
}

func kilobytes(n int64) string { return fmt.Sprintf("%.1f kB", float64(n)/1000) }

// deploys are what measureDeploys finds.
type deploys struct {
	Image, Whole   int64 // bytes of the image, and of it compressed as it is sent the first time
	Template, Code shipped
	Rsync          shipped
	Article        shipped // the article's flow, its build apart
	Steps          []phase // of it
	Peak           int64   // of devbox-host, resident
}

// measureDeploys deploys to a server at the end of a slow link, and brings the
// same change there in other ways.
func (b *bench) measureDeploys(ctx context.Context, r *report) (err error) {
	d := &r.Deploys
	key := filepath.Join(b.dir, "home", ".ssh", "id_ed25519")
	if err := os.MkdirAll(filepath.Dir(key), 0o700); err != nil {
		return err
	}
	if err := b.do(ctx, b.dir, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); err != nil {
		return err
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		return err
	}
	server, err := vps.Rent(ctx, vps.Options{Name: "bench", Authorized: []string{string(public)}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Destroy(context.WithoutCancel(ctx))) }()
	if err := server.Boot(ctx); err != nil {
		return err
	}
	dir, address, err := b.settle(ctx, server)
	if err != nil {
		return err
	}
	say("  provision the server")
	if err := b.do(ctx, dir, b.devbox, "provision", "prod", "--yes"); err != nil {
		return err
	}
	if err := b.do(ctx, dir, "sh", "-c", `echo | "$1" secret set prod s3`, "sh", b.devbox); err != nil {
		return err
	}
	if _, err := server.Run(ctx, "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends rsync"); err != nil {
		return err
	}
	first, err := b.deployed(ctx, dir, server, nil)
	if err != nil {
		return err
	}
	d.Whole = first.Wire
	image := filepath.Join(b.dir, "cache", "devbox", "apps", "bowl", "images", "bowl_"+first.Version+".raw")
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	d.Image = info.Size()
	ssh := []string{"-q", "-F", "none", "-i", key, "-o", "UserKnownHostsFile=" + filepath.Join(b.dir, "home", ".ssh", "known_hosts")}
	a, err := b.articleTo("deployed-article", image, "root@"+address, ssh)
	if err != nil {
		return err
	}
	if _, err := a.deliver(ctx, 0); err != nil {
		return err
	}
	if err := server.Shape(ctx, linkRate); err != nil {
		return err
	}
	d.Template.Name, d.Code.Name = "template", "code"
	for n, into := range []*shipped{&d.Template, &d.Code} {
		s, err := kinds[n].in(dir)
		if err != nil {
			return err
		}
		for round := range b.article {
			if _, err := s.save(round + 1); err != nil {
				return err
			}
			// What is deployed has run on the dev machine, so that it is built.
			if _, err := b.built(ctx, dir); err != nil {
				return err
			}
			if _, err := b.deployed(ctx, dir, server, into); err != nil {
				return err
			}
		}
	}
	if err := b.articleOver(ctx, a, server, d); err != nil {
		return err
	}
	return b.rsyncOver(ctx, dir, server, a, d)
}

// settle makes a copy of the app that has the server as its target, and whose
// ssh knows it.
func (b *bench) settle(ctx context.Context, server *vps.Server) (dir, address string, err error) {
	if dir, err = b.copyApp("deployed"); err != nil {
		return "", "", err
	}
	// It has no key in it: that of the home is put in by init.
	if err := os.RemoveAll(filepath.Join(dir, "cloud-init")); err != nil {
		return "", "", err
	}
	if err := b.do(ctx, dir, b.devbox, "init"); err != nil {
		return "", "", err
	}
	if address, err = server.Address(ctx); err != nil {
		return "", "", err
	}
	hosts, err := server.KnownHosts(ctx)
	if err != nil {
		return "", "", err
	}
	if err := os.WriteFile(filepath.Join(b.dir, "home", ".ssh", "known_hosts"), []byte(hosts), 0o600); err != nil {
		return "", "", err
	}
	// The trial is time that a release is given; here it would only be waited for.
	target := fmt.Sprintf("\ntargets:\n  prod:\n    host: %[1]s\n    trial: 1ms\n    health: {url: \"http://127.0.0.1:8080/healthz\", deadline: 20s}\n"+
		"    env:\n      bowl-restore.service: %[2]s\n      bowl-litestream.service: %[2]s\n\nhealth:\n", address, "{BOWL_REPLICA: \"file:///var/lib/bowl/replica\"}")
	return dir, address, edit(filepath.Join(dir, config.FileName), map[string]string{"\nhealth:\n": target})
}

// deployed deploys, and adds what that took to into.
func (b *bench) deployed(ctx context.Context, dir string, server *vps.Server, into *shipped) (*deploy.Cycle, error) {
	before, _, err := server.Traffic(ctx)
	if err != nil {
		return nil, err
	}
	cmd := b.command(ctx, dir, b.devbox, "deploy", "prod", "--yes", "--allow-unproven", "--json")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("devbox deploy: %w\n%s", err, said.String())
	}
	took := time.Since(begin)
	var c deploy.Cycle
	if err := json.Unmarshal(out.Bytes(), &c); err != nil {
		return nil, err
	}
	after, _, err := server.Traffic(ctx)
	if err != nil || into == nil {
		return &c, err
	}
	into.Payload, into.Link = max(into.Payload, c.Wire), max(into.Link, after-before)
	into.Took.add(took)
	return &c, nil
}

// articleOver brings edits of the code to the server in the article's way.
func (b *bench) articleOver(ctx context.Context, a *article, server *vps.Server, d *deploys) error {
	s, err := kinds[1].in(a.source)
	if err != nil {
		return err
	}
	var f flow
	for n := 1; n <= articleDeploys; n++ {
		if _, err := s.save(n); err != nil {
			return err
		}
		before, _, err := server.Traffic(ctx)
		if err != nil {
			return err
		}
		laps, err := a.deliver(ctx, n)
		if err != nil {
			return err
		}
		after, _, err := server.Traffic(ctx)
		if err != nil {
			return err
		}
		var total time.Duration
		for _, lap := range laps[1:] {
			total += lap
		}
		f.add(total, laps)
		d.Article.Link = max(d.Article.Link, after-before)
	}
	d.Article.Name, d.Article.Took, d.Steps = "the article's flow: mksquashfs xz, scp, reattach, restart", f.Total, f.Steps[1:]
	return nil
}

// articleDeploys is how often: each takes half a minute.
const articleDeploys = 3

// rsyncOver brings one more edit of the code to the server by rsync, and
// watches devbox-host's memory while the same comes by devbox.
func (b *bench) rsyncOver(ctx context.Context, dir string, server *vps.Server, a *article, d *deploys) error {
	s, err := kinds[1].in(dir)
	if err != nil {
		return err
	}
	old, err := b.built(ctx, dir)
	if err != nil {
		return err
	}
	if _, err := s.save(b.article + 1); err != nil {
		return err
	}
	new, err := b.built(ctx, dir)
	if err != nil {
		return err
	}
	rsync := func(file string, more ...string) error {
		args := append(more, "-e", strings.Join(append([]string{"ssh"}, a.ssh...), " "), "--inplace", file, a.host+":/var/tmp/rsync.raw")
		return b.do(ctx, b.dir, "rsync", args...)
	}
	// Where rsync begins, the server has the image of before.
	if err := rsync(old); err != nil {
		return err
	}
	before, _, err := server.Traffic(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := rsync(new, "-z", "--no-whole-file"); err != nil {
		return err
	}
	d.Rsync.Took.add(time.Since(begin))
	after, _, err := server.Traffic(ctx)
	if err != nil {
		return err
	}
	d.Rsync.Name, d.Rsync.Link = "rsync -z of the image onto the one before, without unpacking, restart or check", after-before
	watched, stop := context.WithCancel(ctx)
	peak := make(chan int64)
	go func() { peak <- peakOf(watched, server, "devbox-host") }()
	_, err = b.deployed(ctx, dir, server, nil)
	stop()
	d.Peak = <-peak
	return err
}

// built is the image of the source as it is.
func (b *bench) built(ctx context.Context, dir string) (string, error) {
	out, err := b.command(ctx, dir, b.devbox, "build", "--json", "--arch", runtime.GOARCH).Output()
	if err != nil {
		return "", err
	}
	var built struct{ Image string }
	err = json.Unmarshal(out, &built)
	return built.Image, err
}

// peakOf is the most memory that a program of the server ever had resident,
// looked at until ctx ends.
func peakOf(ctx context.Context, server *vps.Server, program string) (most int64) {
	for ctx.Err() == nil {
		pids, _ := server.Processes(ctx, program)
		for _, pid := range pids {
			if _, peak, err := memory(pid); err == nil {
				most = max(most, peak)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return most
}

// limits of the targets, in bytes.
const (
	mostTemplate = 5000
	mostHost     = 64e6
)

func (d *deploys) targets() []target {
	if len(d.Template.Took) == 0 {
		return nil
	}
	part := 100 * float64(d.Code.Payload) / float64(d.Whole)
	all := []target{
		{what: "a template's change on its way to a server", limit: "≤ 5 kB", got: kilobytes(d.Template.Payload), ok: d.Template.Payload <= mostTemplate},
		{what: "the code's, as part of the compressed image", limit: "≤ 12 %", got: fmt.Sprintf("%.1f %%", part), ok: part <= 12},
		{what: "`devbox deploy` of a code edit over 20 Mbit/s, to committed", limit: "≤ 2.500 s",
			got: seconds(d.Code.Took.median()), ok: d.Code.Took.median() <= 2500*time.Millisecond},
	}
	if d.Peak > 0 {
		all = append(all, target{what: fmt.Sprintf("memory of devbox-host at most, while it applies a change to an image of %s", megabytes(d.Image)),
			limit: "< 64 MB", got: megabytes(d.Peak), ok: d.Peak < mostHost})
	}
	return all
}

func (d *deploys) write(p func(string, ...any)) {
	if len(d.Template.Took) == 0 {
		return
	}
	p("## To a server, over 20 Mbit/s\n")
	p("A server of its own behind a link that tc(8) holds to 20 Mbit/s both ways. `devbox deploy --yes` from its start to its end,")
	p("connection, health check and commit included. The image was built before, as it is when it has run on the dev machine; deploy builds")
	p("it again, which finds it done. The trial, during which a release only has to stay up, is 1 ms here. The image")
	p("has %s, and %s compressed, as it is sent the first time. Bytes are the most of all samples.\n", megabytes(d.Image), megabytes(d.Whole))
	p("| | the change | on the link | median | p95 | min | max | samples |\n|---|---|---|---|---|---|---|---|")
	for _, s := range []*shipped{&d.Template, &d.Code} {
		p("| `devbox deploy` of a %s edit | %s |", s.Name, s.row())
	}
	for _, s := range []*shipped{&d.Article, &d.Rsync} {
		p("| %s | %s |", s.Name, s.row())
	}
	var parts []string
	for _, x := range d.Steps {
		parts = append(parts, fmt.Sprintf("%s %s", x.Name, seconds(x.Took.median())))
	}
	p("\nThe article's flow of the code edit by step: %s; its build is not counted either. It has no health check", strings.Join(parts, ", "))
	p("and no way back. Its bytes are those of the image that scp copies.\n")
}
