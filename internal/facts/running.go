package facts

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// socket is one line of /proc/net that listens.
type socket struct {
	proto   string // tcp or udp
	address netip.Addr
	port    uint16
	inode   string
}

const (
	tcpListen = "0A"
	udpOpen   = "07"
	// ephemeral is where the kernel takes ports from for those who ask for none.
	ephemeral = 32768
)

func (h *host) ports(ctx context.Context, f *Facts) error {
	var open []socket
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
		data, err := os.ReadFile(h.path("proc/net/" + name))
		if there(err) != nil {
			return err
		}
		open = append(open, parseNet(name[:3], data)...)
	}
	holders, err := h.holders()
	if err != nil {
		return err
	}
	var bySystemd map[string]string
	if slices.ContainsFunc(open, func(s socket) bool { return slices.Contains(holders[s.inode], 1) }) {
		out, err := h.run(ctx, "systemctl", "list-sockets", "--output=json", "--no-pager", "--full")
		if err != nil {
			return err
		}
		if bySystemd, err = parseSockets(out); err != nil {
			return err
		}
	}
	f.Ports = map[string]Port{}
	for _, s := range open {
		key := fmt.Sprintf("%s %d", s.proto, s.port)
		p := Port{Address: "*", By: h.holder(s, holders[s.inode], bySystemd)}
		if !s.address.IsUnspecified() {
			p.Address = s.address.Unmap().String()
		}
		if before, ok := f.Ports[key]; ok && before.Address != p.Address && p.Address != "*" {
			if p = before; before.Address != "*" && !slices.Contains(strings.Split(before.Address, ", "), s.address.Unmap().String()) {
				p.Address += ", " + s.address.Unmap().String()
			}
		}
		f.Ports[key] = p
	}
	return nil
}

// parseNet reads /proc/net/tcp and its like (proc_net(5)).
func parseNet(proto string, data []byte) []socket {
	state := udpOpen
	if proto == "tcp" {
		state = tcpListen
	}
	var all []socket
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) < 10 || fields[3] != state {
			continue
		}
		addr, port, ok := parseAddress(fields[1])
		if !ok || proto == "udp" && port >= ephemeral {
			continue
		}
		all = append(all, socket{proto, addr, port, fields[9]})
	}
	return all
}

// parseAddress reads hex, each word of four bytes in the host's order, which is
// little-endian on all that devbox runs on.
func parseAddress(text string) (addr netip.Addr, port uint16, ok bool) {
	host, portText, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(portText, 16, 16)
	if err != nil || perr != nil || len(b)%4 != 0 {
		return addr, 0, false
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	addr, ok = netip.AddrFromSlice(b)
	return addr, uint16(n), ok
}

// holders are the processes that have each socket, by its inode.
func (h *host) holders() (map[string][]int, error) {
	entries, err := os.ReadDir(h.path("proc"))
	if err != nil {
		return nil, err
	}
	all := map[string][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := h.path(path.Join("proc", e.Name(), "fd"))
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, fd := range fds {
			to, _ := os.Readlink(filepath.Join(dir, fd.Name()))
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				inode = strings.TrimSuffix(inode, "]")
				all[inode] = append(all[inode], pid)
			}
		}
	}
	return all, nil
}

// holder names who has a socket: the socket unit whose it is, else the service,
// else the program.
func (h *host) holder(s socket, pids []int, bySystemd map[string]string) string {
	if len(pids) == 0 {
		return "the kernel"
	}
	slices.Sort(pids)
	if pids[0] == 1 {
		if unit := bySystemd[strconv.Itoa(int(s.port))]; unit != "" {
			return unit
		}
		if len(pids) == 1 {
			return "systemd"
		}
		pids = pids[1:]
	}
	pid := strconv.Itoa(pids[0])
	if unit := h.unitOf(pid); strings.HasSuffix(unit, ".service") {
		return unit
	}
	name, _ := h.text("proc/" + pid + "/comm")
	return cmp.Or(name, "process "+pid)
}

// unitOf is the unit of a process, by its cgroup.
func (h *host) unitOf(pid string) string {
	text, _ := h.text("proc/" + pid + "/cgroup")
	parts := strings.Split(text, "/")
	for _, part := range slices.Backward(parts) {
		if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
			return part
		}
	}
	return ""
}

// parseSockets maps the ports of `systemctl list-sockets --output=json` to units.
func parseSockets(out []byte) (map[string]string, error) {
	var list []struct {
		Listen string `json:"listen"`
		Unit   string `json:"unit"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("systemctl list-sockets: %w", err)
	}
	all := map[string]string{}
	for _, s := range list {
		if i := strings.LastIndexByte(s.Listen, ':'); i >= 0 && !strings.HasPrefix(s.Listen, "/") {
			all[s.Listen[i+1:]] = s.Unit
		}
	}
	return all, nil
}

// kernelRelease is that of a kernel, as linux-image-amd64 and -dbg have none.
var kernelRelease = regexp.MustCompile(`^[0-9].*(amd64|arm64)$`)

// reboot says why the host should be rebooted. /run/reboot-required is there
// only where a package such as unattended-upgrades writes it; kernels are
// compared where the running one is the host's own, so not in a container.
func (h *host) reboot(ctx context.Context, f *Facts) error {
	if _, err := os.Stat(h.path("run/reboot-required")); err == nil {
		why := "/run/reboot-required says so"
		if list, err := h.text("run/reboot-required.pkgs"); err == nil && list != "" {
			names := strings.Fields(list)
			slices.Sort(names)
			why += ", for " + strings.Join(slices.Compact(names), ", ")
		}
		f.Reboot = append(f.Reboot, why)
	}
	db, err := h.dpkg()
	if err != nil {
		return err
	}
	running, err := h.text("proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	stale := h.stale(ctx, f)
	own, ok := db.packages["linux-image-"+running]
	if !ok {
		return stale
	}
	if build, err := h.text("proc/version"); err == nil && !strings.Contains(build, " "+own.Version+" ") && strings.Contains(build, "Debian ") {
		f.Reboot = append(f.Reboot, fmt.Sprintf("the kernel %s was replaced by version %s since it was started", running, own.Version))
	}
	for name, p := range db.packages {
		release, ok := strings.CutPrefix(name, "linux-image-")
		if !ok || release == running || !kernelRelease.MatchString(release) {
			continue
		}
		if _, err := h.run(ctx, "dpkg", "--compare-versions", p.Version, "gt", own.Version); err == nil {
			f.Reboot = append(f.Reboot, fmt.Sprintf("the kernel %s is installed, %s runs", release, running))
		}
	}
	slices.Sort(f.Reboot)
	return stale
}

// stale looks for programs that run with a library that an update replaced.
func (h *host) stale(ctx context.Context, f *Facts) error {
	entries, err := os.ReadDir(h.path("proc"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		maps, err := os.ReadFile(h.path(path.Join("proc", e.Name(), "maps")))
		if err != nil || !hasDeletedLibrary(maps) {
			continue // most often it has ended
		}
		if e.Name() == "1" {
			f.Reboot = append(f.Reboot, "systemd runs with a library that was replaced since it was started")
			continue
		}
		unit := h.unitOf(e.Name())
		if unit == "" {
			unit, _ = h.text("proc/" + e.Name() + "/comm")
		}
		if unit != "" && !slices.Contains(f.Stale, unit) {
			f.Stale = append(f.Stale, unit)
		}
	}
	slices.Sort(f.Stale)
	return nil
}

// hasDeletedLibrary reads /proc/PID/maps for code below /usr/lib that is no
// longer there.
func hasDeletedLibrary(maps []byte) bool {
	for line := range bytes.Lines(maps) {
		if bytes.HasSuffix(line, []byte(" (deleted)\n")) && bytes.Contains(line, []byte("/usr/lib/")) && bytes.Contains(line, []byte("x")) {
			fields := bytes.Fields(line)
			if len(fields) > 5 && bytes.ContainsRune(fields[1], 'x') && bytes.HasPrefix(fields[5], []byte("/usr/lib/")) {
				return true
			}
		}
	}
	return false
}

// certificate asks the health check's address, if it is https, for what it
// answers with. Whether that is to be trusted is not its concern.
func (h *host) certificate(ctx context.Context, f *Facts) error {
	if f.Running == nil {
		return nil
	}
	u, err := url.Parse(f.Running.Settings.Health.URL)
	if err != nil || u.Scheme != "https" {
		return nil
	}
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: u.Hostname()}}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")))
	if err != nil {
		return err
	}
	defer conn.Close()
	certs := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return errors.New(u.Host + " shows no certificate")
	}
	f.Certificate = &Certificate{URL: f.Running.Settings.Health.URL, Names: certs[0].DNSNames, Expires: certs[0].NotAfter}
	return nil
}
