package facts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func (h *host) system(ctx context.Context, f *Facts) error {
	s := &f.System
	s.Arch = runtime.GOARCH
	release, err := h.text("etc/os-release")
	errs := []error{err}
	s.OS = strings.TrimSpace(setting(release, "ID") + " " + setting(release, "VERSION_ID"))
	for name, to := range map[string]*string{
		"etc/debian_version": &s.Point, "proc/sys/kernel/osrelease": &s.Kernel, "proc/sys/kernel/hostname": &s.Host,
	} {
		*to, err = h.text(name)
		errs = append(errs, err)
	}
	if zone, err := os.Readlink(h.path("etc/localtime")); err == nil {
		_, s.Timezone, _ = strings.Cut(zone, "zoneinfo/")
	} else {
		s.Timezone = "Etc/UTC" // what a host without the file has (localtime(5))
		errs = append(errs, there(err))
	}
	out, err := h.run(ctx, "systemd-detect-virt") // exits with 1 for "none"
	if s.Virt = strings.TrimSpace(string(out)); s.Virt == "" {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// setting is a value of os-release(5).
func setting(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return strings.Trim(value, `"'`)
		}
	}
	return ""
}

// provision reads what provision's apply.sh wrote when it was done.
func (h *host) provision(_ context.Context, f *Facts) error {
	data, err := os.ReadFile(h.path("var/lib/devbox/provision.json"))
	if err != nil {
		return there(err)
	}
	var p Provision
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	f.Provision = &p
	return nil
}

// units are the unit files that portabled took out of the app's image.
func (h *host) units(_ context.Context, f *Facts) error {
	const dir = "etc/systemd/system.attached"
	entries, err := os.ReadDir(h.path(dir))
	if err != nil {
		return there(err)
	}
	f.Units = map[string]string{}
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), f.App)
		if !ours || rest == "" || !strings.ContainsRune("-.@", rune(rest[0])) || !e.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(h.path(filepath.Join(dir, e.Name())))
		if err != nil {
			return err
		}
		f.Units[e.Name()] = Digest(data)
	}
	return nil
}

// Digest is a SHA-256 in hex, as the facts have it of files.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

const systemUnits = "etc/systemd/system"

// enabled reads the links that `systemctl enable` and `mask` make: asking
// systemctl, which reads every unit file there is, takes many times as long.
func (h *host) enabled(_ context.Context, f *Facts) error {
	entries, err := os.ReadDir(h.path(systemUnits))
	if err != nil {
		return err
	}
	owners, err := h.owned()
	if err != nil {
		return err
	}
	f.Enabled = map[string]Unit{}
	for _, e := range entries {
		name := e.Name()
		ext := filepath.Ext(name)
		switch {
		case e.Type()&os.ModeSymlink != 0:
			to, err := os.Readlink(h.path(filepath.Join(systemUnits, name)))
			if err != nil {
				return err
			}
			if to == "/dev/null" {
				f.Enabled[name] = Unit{"masked", ownerOf(owners, name)}
			} else {
				f.Enabled[name] = Unit{"alias of " + filepath.Base(to), ownerOf(owners, filepath.Base(to))}
			}
		case e.IsDir() && (ext == ".wants" || ext == ".requires"):
			wanted, err := os.ReadDir(h.path(filepath.Join(systemUnits, name)))
			if err != nil {
				return err
			}
			for _, w := range wanted {
				if f.Enabled[w.Name()].State != "masked" {
					f.Enabled[w.Name()] = Unit{"enabled", ownerOf(owners, w.Name())}
				}
			}
		}
	}
	return nil
}

const packagedUnits = "/usr/lib/systemd/system"

// ownerOf is the package that has a unit, or the template of an instance.
func ownerOf(owners map[string]string, unit string) string {
	if owner := owners[packagedUnits+"/"+unit]; owner != "" {
		return owner
	}
	ext := filepath.Ext(unit)
	template, _, _ := strings.Cut(strings.TrimSuffix(unit, ext), "@")
	return owners[packagedUnits+"/"+template+"@"+ext]
}

func (h *host) failed(ctx context.Context, f *Facts) error {
	out, err := h.run(ctx, "systemctl", "list-units", "--state=failed", "--no-legend", "--no-pager", "--plain", "--full")
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 0 {
			f.Failed = append(f.Failed, fields[0])
		}
	}
	return err
}

func (h *host) disks(_ context.Context, f *Facts) error {
	var seen []unix.Fsid
	for _, path := range []string{"/", "/var"} {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			return &os.PathError{Op: "statfs", Path: path, Err: err}
		}
		if slices.Contains(seen, st.Fsid) {
			continue // the same file system
		}
		seen = append(seen, st.Fsid)
		f.Disks = append(f.Disks, Disk{path, int64(st.Blocks) * int64(st.Bsize), int64(st.Bavail) * int64(st.Bsize)}) //nolint:unconvert // 32 bits on macOS
	}
	return nil
}
