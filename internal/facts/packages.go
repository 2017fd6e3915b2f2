package facts

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// database is what dpkg knows.
type database struct {
	packages  map[string]Package
	conffiles map[string]string // path -> MD5 of what the package brought, hex
}

func (h *host) packages(_ context.Context, f *Facts) error {
	db, err := h.dpkg()
	if err != nil {
		return err
	}
	f.Packages = db.packages
	f.System.Systemd = db.packages["systemd"].Version
	return nil
}

func (h *host) readDpkg() (*database, error) {
	status, err := os.ReadFile(h.path("var/lib/dpkg/status"))
	if err != nil {
		return nil, err
	}
	auto, err := os.ReadFile(h.path("var/lib/apt/extended_states"))
	if there(err) != nil {
		return nil, err
	}
	db := parseDpkg(status, auto)
	// ucf, for packages that ask where a plain conffile would be in the way.
	ucf, err := os.ReadFile(h.path("var/lib/ucf/hashfile"))
	if there(err) != nil {
		return nil, err
	}
	for line := range strings.Lines(string(ucf)) {
		if fields := strings.Fields(line); len(fields) == 2 {
			db.conffiles[fields[1]] = fields[0]
		}
	}
	return db, nil
}

// parseDpkg reads /var/lib/dpkg/status and apt's list of packages that nobody
// asked for.
func parseDpkg(status, extended []byte) *database {
	auto := map[string]bool{}
	stanzas(extended, func(s stanza) {
		if s["Auto-Installed"] == "1" {
			auto[s["Package"]+":"+s["Architecture"]] = true
		}
	})
	db := &database{map[string]Package{}, map[string]string{}}
	var native string
	needed := map[string]bool{}
	stanzas(status, func(s stanza) {
		if s["Package"] == "dpkg" {
			native = s["Architecture"]
		}
		if !strings.HasSuffix(s["Status"], " installed") {
			return
		}
		for _, field := range []string{"Pre-Depends", "Depends", "Recommends"} {
			for _, one := range strings.FieldsFunc(s[field], func(r rune) bool { return r == ',' || r == '|' }) {
				name, _, _ := strings.Cut(strings.TrimSpace(one), " ")
				name, _, _ = strings.Cut(name, ":") // python3:any
				needed[name] = true
			}
		}
	})
	stanzas(status, func(s stanza) {
		if !strings.HasSuffix(s["Status"], " installed") {
			return
		}
		name := s["Package"]
		if arch := s["Architecture"]; arch != native && arch != "all" {
			name += ":" + arch
		}
		db.packages[name] = Package{
			Version: s["Version"],
			Base:    s["Essential"] == "yes" || slices.Contains([]string{"required", "important", "standard"}, s["Priority"]),
			// What was installed before apt kept notes is in none of them. apt notes packages of every architecture under the native one.
			Auto: needed[s["Package"]] || auto[s["Package"]+":"+s["Architecture"]] || s["Architecture"] == "all" && auto[s["Package"]+":"+native],
		}
		for line := range strings.SplitSeq(s["Conffiles"], "\n") {
			if fields := strings.Fields(line); len(fields) == 2 {
				db.conffiles[fields[0]] = fields[1]
			}
		}
	})
	return db
}

// stanza is one paragraph of deb822(5). Lines of a field that goes on over
// several are joined by newlines.
type stanza map[string]string

// stanzas calls each with every paragraph; each must not keep it.
func stanzas(data []byte, each func(stanza)) {
	s, last := stanza{}, ""
	for line := range bytes.Lines(data) {
		line = bytes.TrimRight(line, "\n")
		switch {
		case len(line) == 0:
			if len(s) > 0 {
				each(s)
				clear(s)
			}
		case line[0] == ' ' || line[0] == '\t':
			if last == "Conffiles" { // the only one of interest; descriptions are long
				s[last] += "\n" + string(line)
			}
		default:
			name, value, _ := bytes.Cut(line, []byte(":"))
			last = string(name)
			s[last] = string(bytes.TrimSpace(value))
		}
	}
	if len(s) > 0 {
		each(s)
	}
}

// What is made on each host by itself, or has a part of the facts of its own.
var (
	generated = []string{
		"/etc/.pwd.lock", "/etc/.updated", "/etc/adjtime", "/etc/hostname", "/etc/ld.so.cache", "/etc/localtime", "/etc/timezone",
		"/etc/machine-id", "/etc/mtab", "/etc/resolv.conf", "/etc/ca-certificates.conf", "/etc/udev/hwdb.bin",
		"/etc/passwd", "/etc/passwd-", "/etc/group", "/etc/group-", "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-",
		"/etc/subuid", "/etc/subuid-", "/etc/subgid", "/etc/subgid-",
		"/usr/local/sbin/devbox-host",
	}
	generatedBelow = []string{
		"/etc/alternatives", "/etc/credstore", "/etc/credstore.encrypted", "/etc/portables", "/etc/ssl/certs", "/etc/ssl/private",
		"/etc/sudoers.d", "/etc/systemd/system.attached",
		"/etc/rc0.d", "/etc/rc1.d", "/etc/rc2.d", "/etc/rc3.d", "/etc/rc4.d", "/etc/rc5.d", "/etc/rc6.d", "/etc/rcS.d",
	}
)

// Bounds of what is read of files.
const (
	maxFile  = 4 << 20
	maxFiles = 5000
)

// files walks /etc and /usr/local for what is not as a package brought it.
func (h *host) files(ctx context.Context, f *Facts) error {
	db, err := h.dpkg()
	if err != nil {
		return err
	}
	owned, err := h.owned()
	if err != nil {
		return err
	}
	f.Files = map[string]string{}
	walk := func(full string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(full, h.root), "/")
		switch {
		case d.IsDir() && (slices.Contains(generatedBelow, name) || isWants(name)):
			return fs.SkipDir
		case d.IsDir(), slices.Contains(generated, name), name == sudoersFile, strings.HasPrefix(name, "/etc/ssh/ssh_host_"):
			return nil
		case d.Type()&fs.ModeSymlink != 0 && (owned[name] != "" || filepath.Dir(name) == "/"+systemUnits):
			return nil
		case len(f.Files) >= maxFiles:
			return fmt.Errorf("more than %d files are not from packages", maxFiles)
		}
		what, err := fileFact(full, d, db.conffiles[name], owned[name] != "")
		if err != nil {
			return there(err) // one that went away meanwhile
		}
		if what != "" {
			f.Files[name] = what
		}
		return nil
	}
	if err := errors.Join(filepath.WalkDir(h.path("etc"), walk), there(filepath.WalkDir(h.path("usr/local"), walk))); err != nil {
		return err
	}
	f.Scripted, err = h.scripted(f.Files)
	return err
}

// isWants tells of the folders in which `systemctl enable` makes its links.
func isWants(dir string) bool {
	ext, of := filepath.Ext(dir), filepath.Dir(dir)
	return (of == "/"+systemUnits || of == "/etc/systemd/user") && (ext == ".wants" || ext == ".requires")
}

// Private stands for the content of a file that not everyone may read.
const Private = "not readable by everyone"

// fileFact is a digest of a file, or "" if it is as its package brought it.
func fileFact(full string, d fs.DirEntry, conffile string, owned bool) (string, error) {
	if d.Type()&fs.ModeSymlink != 0 {
		to, err := os.Readlink(full)
		return "-> " + to, err
	}
	info, err := d.Info()
	if err != nil || !info.Mode().IsRegular() {
		return "", err
	}
	if conffile == "" && owned {
		return "", nil
	}
	if info.Size() > maxFile {
		return fmt.Sprintf("%d bytes", info.Size()), nil
	}
	data, err := os.ReadFile(full)
	if err != nil {
		return "", err
	}
	if md5sum(data) == conffile {
		return "", nil
	}
	if info.Mode().Perm()&0o004 == 0 {
		return Private, nil // a digest of a short secret would give it away
	}
	return Digest(data), nil
}

// md5sum is how dpkg tells whether a file is as the package brought it.
func md5sum(data []byte) string {
	sum := md5.Sum(data)
	return hex.EncodeToString(sum[:])
}

// readOwned finds which package has a path below /etc and /usr/local, and which
// one has a unit.
func (h *host) readOwned() (map[string]string, error) {
	lists, err := filepath.Glob(h.path("var/lib/dpkg/info/*.list"))
	if err != nil {
		return nil, err
	}
	owned := map[string]string{}
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			return nil, err
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(list), ".list"), ":")
		for line := range bytes.Lines(data) {
			for _, dir := range []string{"/etc/", "/usr/local/", packagedUnits + "/"} {
				if bytes.HasPrefix(line, []byte(dir)) {
					owned[string(bytes.TrimSpace(line))] = name
				}
			}
		}
	}
	return owned, nil
}

// readScripts reads what packages run when they are installed.
func (h *host) readScripts() ([][]byte, error) {
	var all [][]byte
	for _, pattern := range []string{"*.postinst", "*.preinst"} {
		files, err := filepath.Glob(h.path("var/lib/dpkg/info/" + pattern))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			all = append(all, data)
		}
	}
	return all, nil
}

// scripted are the paths that a script of a package names.
func (h *host) scripted(files map[string]string) ([]string, error) {
	scripts, err := h.scripts()
	if err != nil {
		return nil, err
	}
	var all []string
	for name := range files {
		if slices.ContainsFunc(scripts, func(s []byte) bool { return bytes.Contains(s, []byte(name)) }) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all, nil
}

// updates asks apt what it would install, by the lists that it has.
func (h *host) updates(ctx context.Context, f *Facts) error {
	read, err := h.listsRead()
	if err != nil {
		return err
	}
	if read.IsZero() {
		return errors.New("apt has no package lists: `apt-get update` was never run here")
	}
	out, err := h.run(ctx, "apt-get", "-s", "-q", "-o", "Debug::NoLocking=1", "--with-new-pkgs", "upgrade")
	if err != nil {
		return err
	}
	f.Updates = &Updates{Lists: read}
	f.Updates.Pending, f.Updates.Security = parseUpgrade(out)
	return nil
}

// listsRead is when apt last read its package lists: the lists themselves have
// the archive's date.
func (h *host) listsRead() (read time.Time, err error) {
	lists, err := filepath.Glob(h.path("var/lib/apt/lists/*Packages*"))
	if err != nil || len(lists) == 0 {
		return read, err
	}
	for _, name := range []string{"lists/partial", "periodic/update-stamp", "periodic/update-success-stamp"} {
		if info, err := os.Stat(h.path("var/lib/apt/" + name)); err == nil && info.ModTime().After(read) {
			read = info.ModTime().UTC().Truncate(time.Second)
		}
	}
	return read, nil
}

// parseUpgrade reads `apt-get -s upgrade`:
//
//	Inst libssl3t64 [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
func parseUpgrade(out []byte) (pending, security []string) {
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "Inst" {
			continue
		}
		pending = append(pending, fields[1])
		if strings.Contains(lines.Text(), "Debian-Security:") || strings.Contains(lines.Text(), "-security ") {
			security = append(security, fields[1])
		}
	}
	return pending, security
}
