package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// air restarts a program on the developer's own computer at every save.
const airVersion = "v1.67.4"

// airConfig builds as devbox's project does. All else is what air does when
// nobody tells it otherwise.
const airConfig = `root = "."
tmp_dir = "tmp"
[build]
cmd = "CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='-s -w' -o tmp/bowl ./cmd/bowl"
bin = "tmp/bowl"
args_bin = ["-listen", "127.0.0.1:%d"]
include_ext = ["go", "html", "css", "js"]
exclude_dir = ["tmp", "data", "bin"]
`

// measureAir runs the app outside systemd, on this computer, below air.
func (b *bench) measureAir(ctx context.Context, r *report) error {
	air := filepath.Join(b.cache, "tools", "air", airVersion, "air")
	if _, err := os.Stat(air); errors.Is(err, fs.ErrNotExist) {
		install := b.command(ctx, b.dir, "go", "install", "github.com/air-verse/air@"+airVersion)
		install.Env = append(install.Env, "GOBIN="+filepath.Dir(air), "GOFLAGS=")
		if out, err := install.CombinedOutput(); err != nil {
			return fmt.Errorf("install air: %w\n%s", err, out)
		}
	}
	dir, err := b.copyApp("air")
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, ".air.toml"), fmt.Appendf(nil, airConfig, port), 0o644); err != nil {
		return err
	}
	s, err := kinds[0].in(dir)
	if err != nil {
		return err
	}
	cmd := b.command(context.WithoutCancel(ctx), dir, air)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err
	}
	err = b.saveBelowAir(ctx, s, fmt.Sprintf("http://127.0.0.1:%d/", port), r)
	_ = cmd.Process.Signal(syscall.SIGINT) // it ends the app too
	kill := time.AfterFunc(10*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	_ = cmd.Wait()
	kill.Stop()
	if err != nil {
		return fmt.Errorf("%w\nair said last:\n%s", err, lastLines(out.String(), 20))
	}
	return nil
}

// airPatience is how long air gets for one save. It was seen to leave nothing
// running after one, until the next: that save is counted, and made again.
const (
	airPatience = 20 * time.Second
	airTries    = 3
)

func (b *bench) saveBelowAir(ctx context.Context, s *saver, url string, r *report) error {
	tries := 0
	for n := 0; len(r.Air) < b.rounds; n++ {
		begin, err := s.save(n)
		if err != nil {
			return err
		}
		patience := airPatience
		if n == 0 { // it builds everything
			patience = answerTime
		}
		wait, cancel := context.WithTimeout(ctx, patience)
		at, _, err := until(wait, url, func(body string) bool { return strings.Contains(body, mark(n)) })
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			if tries++; tries == airTries {
				return err
			}
			r.AirLost++
		case n > 0:
			r.Air.add(at.Sub(begin))
			fallthrough
		default:
			tries = 0
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
