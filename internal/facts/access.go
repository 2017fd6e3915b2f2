package facts

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstUser and noUser bound the IDs that Debian gives to people.
const (
	firstUser = 1000
	noUser    = 65534
)

// users are root, people, and what no package made.
func (h *host) users(_ context.Context, f *Facts) error {
	passwd, err := os.ReadFile(h.path("etc/passwd"))
	if err != nil {
		return err
	}
	group, err := os.ReadFile(h.path("etc/group"))
	if err != nil {
		return err
	}
	shadow, err := os.ReadFile(h.path("etc/shadow"))
	if err != nil {
		return err
	}
	known, err := h.packagedUsers()
	if err != nil {
		return err
	}
	all := map[string]User{}
	gids := map[string]string{}
	for _, p := range records(group, 4) {
		gids[p[2]] = p[0]
	}
	var errs []error
	for _, p := range records(passwd, 7) {
		uid, err := strconv.Atoi(p[2])
		if err != nil || uid == noUser || uid != 0 && uid < firstUser && known(p[0]) {
			continue
		}
		u := User{UID: uid, Shell: p[6]}
		if g := gids[p[3]]; g != p[0] {
			u.Groups = append(u.Groups, g)
		}
		for _, g := range records(group, 4) {
			if g[0] != p[0] && slices.Contains(strings.Split(g[3], ","), p[0]) && !slices.Contains(u.Groups, g[0]) {
				u.Groups = append(u.Groups, g[0])
			}
		}
		slices.Sort(u.Groups)
		for _, name := range []string{"authorized_keys", "authorized_keys2"} {
			data, err := readUsers(h.path(filepath.Join(p[5], ".ssh", name)))
			errs = append(errs, there(err))
			u.Keys = append(u.Keys, Fingerprints(data)...)
		}
		slices.Sort(u.Keys)
		all[p[0]] = u
	}
	for _, s := range records(shadow, 9) {
		if u, ok := all[s[0]]; ok {
			u.Password = s[1] == "" || s[1][0] == '$' || s[1][0] == '_' // else locked: ! and *
			all[s[0]] = u
		}
	}
	f.Users = all
	return errors.Join(errs...)
}

// maxUsers bounds a file of a user's, in bytes.
const maxUsers = 1 << 20

// readUsers reads a file in a user's own folder, who may have put there what
// never ends: a pipe, a device, or a link to one.
func readUsers(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is not a file", name))
	}
	return io.ReadAll(io.LimitReader(f, maxUsers))
}

// records are the lines of a file such as /etc/passwd that have n fields.
func records(data []byte, n int) [][]string {
	var all [][]string
	for line := range bytes.Lines(data) {
		if fields := strings.Split(strings.TrimSpace(string(line)), ":"); len(fields) == n {
			all = append(all, fields)
		}
	}
	return all
}

// packagedUsers tells of a system user whether a package made it: it is in
// base-passwd's list, in a sysusers.d file, or named by a package's script.
func (h *host) packagedUsers() (func(name string) bool, error) {
	scripts, err := h.scripts()
	if err != nil {
		return nil, err
	}
	texts := slices.DeleteFunc(slices.Clone(scripts), func(s []byte) bool {
		return !bytes.Contains(s, []byte("adduser")) && !bytes.Contains(s, []byte("useradd"))
	})
	for _, pattern := range []string{"usr/share/base-passwd/passwd.master", "usr/lib/sysusers.d/*.conf"} {
		files, err := filepath.Glob(h.path(pattern))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			texts = append(texts, data)
		}
	}
	return func(name string) bool {
		word := regexp.MustCompile(`(?m)(^|[^a-zA-Z0-9_-])` + regexp.QuoteMeta(name) + `($|[^a-zA-Z0-9_-])`)
		return slices.ContainsFunc(texts, word.Match)
	}, nil
}

// Fingerprints are those of the keys in an authorized_keys file, as
// `ssh-keygen -l` says them. A key with options, which may let in for one
// command only, is marked.
func Fingerprints(authorizedKeys []byte) []string {
	var all []string
	for line := range bytes.Lines(authorizedKeys) {
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		for i, word := range strings.Fields(text) {
			blob, err := base64.StdEncoding.DecodeString(word)
			if err != nil || !strings.HasPrefix(word, "AAAA") {
				continue
			}
			sum := sha256.Sum256(blob)
			print := "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
			if i > 1 { // options, type, key
				print += " with options"
			}
			all = append(all, print)
			break
		}
	}
	return all
}

const sudoersFile = "/etc/sudoers"

// SudoersFile tells whether a path is one that sudo reads.
func SudoersFile(name string) bool {
	return name == sudoersFile || filepath.Dir(name) == "/etc/sudoers.d"
}

// sudoers are the lines of the files that are not as a package brought them.
func (h *host) sudoers(_ context.Context, f *Facts) error {
	db, err := h.dpkg()
	if err != nil {
		return err
	}
	names := []string{sudoersFile}
	entries, err := os.ReadDir(h.path("etc/sudoers.d"))
	if there(err) != nil {
		return err
	}
	for _, e := range entries {
		names = append(names, "/etc/sudoers.d/"+e.Name())
	}
	f.Sudoers = map[string][]string{}
	for _, name := range names {
		data, err := os.ReadFile(h.path(name))
		if there(err) != nil {
			return err
		}
		if lines := SudoersLines(name, data); len(lines) > 0 && md5sum(data) != db.conffiles[name] {
			f.Sudoers[name] = lines
		}
	}
	return nil
}

// SudoersLines are the lines of a sudoers file, without comments and with
// single spaces; none of a file in sudoers.d whose name sudo ignores.
func SudoersLines(name string, data []byte) []string {
	if base := filepath.Base(name); base != "sudoers" && strings.ContainsAny(base, ".~") {
		return nil
	}
	var all []string
	for line := range strings.Lines(strings.ReplaceAll(string(data), "\\\n", " ")) {
		line = strings.Join(strings.Fields(line), " ")
		if line == "" || line[0] == '#' && !strings.HasPrefix(line, "#include") {
			continue
		}
		all = append(all, line)
	}
	return all
}

func (h *host) sshd(ctx context.Context, f *Facts) error {
	out, err := h.run(ctx, "sshd", "-T")
	if err != nil {
		return err
	}
	f.SSHD = parseSSHD(out)
	return nil
}

// parseSSHD reads `sshd -T`. A setting may be given several times. The
// addresses are among the ports, the host keys each host's own.
func parseSSHD(out []byte) map[string]string {
	all := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		switch {
		case name == "listenaddress" || name == "hostkey":
		case all[name] != "":
			all[name] += ", " + value
		default:
			all[name] = value
		}
	}
	return all
}

// watched are sysctls that people change by hand.
var watched = []string{
	"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.all.disable_ipv6", "net.core.somaxconn",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies", "vm.swappiness", "vm.overcommit_memory", "kernel.panic", "kernel.sysrq",
}

func (h *host) sysctls(_ context.Context, f *Facts) error {
	names := slices.Clone(watched)
	for _, dir := range []string{"etc", "run", "usr/local/lib", "usr/lib"} {
		files, err := filepath.Glob(h.path(dir + "/sysctl.d/*.conf"))
		if err != nil {
			return err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			for name := range Sysctls(data) {
				names = append(names, name)
			}
		}
	}
	f.Sysctls = map[string]string{}
	for _, name := range names {
		pattern := h.path("proc/sys/" + sysctlPath(name))
		files, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, file := range files {
			value, err := os.ReadFile(file)
			if err != nil {
				continue // some can be written only
			}
			key := strings.TrimPrefix(file, h.path("proc/sys")+"/")
			f.Sysctls[sysctlName(key)] = strings.Join(strings.Fields(string(value)), " ")
		}
	}
	return nil
}

// A name is written with dots or, where a part of it has dots, with slashes
// (sysctl.d(5)): the first of them that stands there decides.
func sysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

func sysctlName(path string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '/':
			return '.'
		case '.':
			return '/'
		}
		return r
	}, path)
}

// Sysctl is a value that a file of sysctl.d asks for.
type Sysctl struct {
	Value string
	Try   bool // that it cannot be set is no error
}

// Sysctls are those that a file of sysctl.d sets, by name with dots.
func Sysctls(data []byte) map[string]Sysctl {
	all := map[string]Sysctl{}
	for line := range bytes.Lines(data) {
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' || text[0] == ';' {
			continue
		}
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			continue // "-name" keeps a pattern from being set
		}
		name, try := strings.CutPrefix(strings.TrimSpace(name), "-")
		all[sysctlName(sysctlPath(strings.TrimSpace(name)))] = Sysctl{strings.Join(strings.Fields(value), " "), try}
	}
	return all
}
