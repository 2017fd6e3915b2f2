package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/google/renameio/v2"

	"devbox/internal/hint"
)

// Each container has a network namespace of its own, joined to the host by a
// virtual cable with a /30 on it, and reaches the world through the host by
// masquerading. Everything is rebuilt from what is missing, so a reboot, a
// flushed firewall or a half-done removal heals at the next start.

// pool is where the /30 networks come from; netLock serializes the choice.
var pool = netip.MustParsePrefix("10.213.0.0/16")

const netLock = "/run/devbox-net.lock"

// inside is the cable's name in the container. Not host0, which the DHCP
// client of systemd-networkd would claim if someone enables it.
const inside = "eth0"

// hostEnd and guestEnd are the two addresses of a container's /30.
func hostEnd(net netip.Prefix) netip.Addr  { return net.Addr().Next() }
func guestEnd(net netip.Prefix) netip.Addr { return net.Addr().Next().Next() }

// chooseNet picks a free /30 for id out of pool: the one it had, if that is
// still free, else the first free one from a place that id determines, so
// that a machine made anew usually gets its old address.
//
// Networks wider than the pool may contain it (a company's 10.0.0.0/8): our
// narrower route then wins for four of its addresses.
func chooseNet(id string, had netip.Prefix, used []netip.Prefix) (netip.Prefix, error) {
	free := func(n netip.Prefix) bool {
		for _, u := range used {
			if u.Bits() >= pool.Bits() && u.Overlaps(n) {
				return false
			}
		}
		return true
	}
	if had.IsValid() && free(had) {
		return had, nil
	}
	h := fnv.New32a()
	h.Write([]byte(id))
	const size = 1 << 14 // how many /30 a /16 has
	base := pool.Addr().As4()
	for i := range uint32(size) {
		k := (h.Sum32() + i) % size * 4
		n := netip.PrefixFrom(netip.AddrFrom4([4]byte{base[0], base[1], byte(k >> 8), byte(k)}), 30)
		if free(n) {
			return n, nil
		}
	}
	return netip.Prefix{}, hint.Errorf("see `ip route` for what uses it, and remove a machine or that route", "no free network in %s", pool)
}

type ipRoute struct {
	Dst string `json:"dst"`
	Dev string `json:"dev"`
}

// usedNets lists the networks that the host has routes to, other than by link.
func usedNets(routesJSON, link string) ([]netip.Prefix, error) {
	var routes []ipRoute
	if err := json.Unmarshal([]byte(routesJSON), &routes); err != nil {
		return nil, fmt.Errorf("read `ip -j route`: %w", err)
	}
	var used []netip.Prefix
	for _, r := range routes {
		if r.Dev == link || r.Dst == "default" {
			continue
		}
		if p, err := netip.ParsePrefix(r.Dst); err == nil {
			used = append(used, p)
		} else if a, err := netip.ParseAddr(r.Dst); err == nil {
			used = append(used, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return used, nil
}

// subnet returns the machine's network as last chosen; invalid if never.
func (n *Nspawn) subnet() (netip.Prefix, error) {
	b, err := os.ReadFile(n.path("subnet"))
	if errors.Is(err, fs.ErrNotExist) {
		return netip.Prefix{}, nil
	}
	if err != nil {
		return netip.Prefix{}, err
	}
	p, err := netip.ParsePrefix(strings.TrimSpace(string(b)))
	if err != nil || p.Bits() != 30 || !pool.Contains(p.Addr()) {
		return netip.Prefix{}, nil // as if never chosen
	}
	return p, nil
}

// ensureNet makes what is missing of the machine's network. leader is the
// container's init where it runs already, else 0.
func (n *Nspawn) ensureNet(ctx context.Context, leader int) error {
	unlock, err := lockFile(ctx, netLock, nil)
	if err != nil {
		return err
	}
	defer unlock()

	net, err := n.subnet()
	if err != nil {
		return err
	}
	if leader == 0 {
		routes, err := run(ctx, "ip", "-j", "-4", "route", "show", "table", "all")
		if err != nil {
			return err
		}
		used, err := usedNets(routes, n.link)
		if err != nil {
			return err
		}
		chosen, err := chooseNet(n.id, net, used)
		if err != nil {
			return err
		}
		if chosen != net {
			if err := n.dropNet(ctx); err != nil {
				return err
			}
			if err := renameio.WriteFile(n.path("subnet"), []byte(chosen.String()+"\n"), 0o600); err != nil {
				return err
			}
			net = chosen
		}
	}
	if err := n.ensureNamespace(ctx, leader); err != nil {
		return fmt.Errorf("make network namespace %s: %w", n.id, err)
	}
	if err := n.ensureCable(ctx, net); err != nil {
		return fmt.Errorf("connect %s: %w", n.link, err)
	}
	if err := n.ensureForwarding(ctx, net); err != nil {
		return fmt.Errorf("let %s reach the network: %w", n.spec.Name, err)
	}
	return n.writeKnownHosts(net)
}

func (n *Nspawn) ensureNamespace(ctx context.Context, leader int) error {
	if netnsMounted(n.id) {
		return nil
	}
	// A plain file is what a crash between the two steps of `ip netns add` leaves.
	if err := ignoreMissing(os.Remove(netnsPath(n.id))); err != nil {
		return err
	}
	if leader != 0 {
		_, err := run(ctx, "ip", "netns", "attach", n.id, fmt.Sprint(leader))
		return err
	}
	_, err := run(ctx, "ip", "netns", "add", n.id)
	return err
}

func netnsPath(name string) string { return "/run/netns/" + name }

func netnsMounted(name string) bool {
	mounts, err := os.ReadFile("/proc/self/mounts")
	return err == nil && strings.Contains(string(mounts), " "+netnsPath(name)+" nsfs ")
}

func (n *Nspawn) ensureCable(ctx context.Context, net netip.Prefix) error {
	out, err := run(ctx, "ip", "-j", "-n", n.id, "link", "show")
	if err != nil {
		return err
	}
	_, hostErr := os.Stat("/sys/class/net/" + n.link)
	if hostErr != nil || !strings.Contains(out, `"ifname":"`+inside+`"`) {
		if hostErr == nil { // its other end is in a namespace that is gone
			if _, err := run(ctx, "ip", "link", "del", n.link); err != nil {
				return err
			}
		}
		if _, err := run(ctx, "ip", "link", "add", n.link, "type", "veth", "peer", "name", inside, "netns", n.id); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"ip", "addr", "replace", hostEnd(net).String() + "/30", "dev", n.link},
		{"ip", "link", "set", n.link, "up"},
		{"ip", "-n", n.id, "addr", "replace", guestEnd(net).String() + "/30", "dev", inside},
		{"ip", "-n", n.id, "link", "set", "lo", "up"},
		{"ip", "-n", n.id, "link", "set", inside, "up"},
		{"ip", "-n", n.id, "route", "replace", "default", "via", hostEnd(net).String()},
	} {
		if _, err := run(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// ensureForwarding turns routing on and leaves it on when the machine goes:
// by then others may count on it.
func (n *Nspawn) ensureForwarding(ctx context.Context, net netip.Prefix) error {
	const sysctl = "/proc/sys/net/ipv4/ip_forward"
	if b, err := os.ReadFile(sysctl); err != nil || strings.TrimSpace(string(b)) != "1" {
		if err := os.WriteFile(sysctl, []byte("1\n"), 0o644); err != nil {
			return fmt.Errorf("turn on routing: %w", err)
		}
	}
	// Declared before it is deleted, so that the first time is no error; the
	// whole is one transaction.
	rules := fmt.Sprintf(`table ip %[1]s
delete table ip %[1]s
table ip %[1]s {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr %[2]s oifname != "%[3]s" masquerade
	}
}
`, n.id, net, n.link)
	if _, err := (tool{args: []string{"nft", "-f", "-"}, stdin: rules}).run(ctx); err != nil {
		return err
	}
	return n.openForward(ctx)
}

// openForward lets the machine's packets through a host firewall that drops
// what it forwards, as Docker and ufw set it up. A verdict in a table of our
// own cannot overrule theirs, so the exception has to be among their rules.
func (n *Nspawn) openForward(ctx context.Context) error {
	if _, err := lookTool("iptables"); err != nil {
		return nil
	}
	have, err := run(ctx, "iptables", "-w", "-S", "FORWARD")
	if err != nil || strings.HasPrefix(have, "-P FORWARD ACCEPT") {
		return nil // no such table in this kernel, or nothing to open
	}
	for _, rule := range n.forwardRules() {
		if strings.Contains(have, strings.Join(rule[:2], " ")+" ") {
			continue
		}
		if _, err := run(ctx, append([]string{"iptables", "-w", "-I", "FORWARD"}, rule...)...); err != nil {
			return err
		}
	}
	return nil
}

func (n *Nspawn) forwardRules() [][]string {
	return [][]string{{"-i", n.link, "-j", "ACCEPT"}, {"-o", n.link, "-j", "ACCEPT"}}
}

// dropNet removes all of the machine's network; what is not there is no error.
func (n *Nspawn) dropNet(ctx context.Context) error {
	var errs []error
	if _, err := os.Stat("/sys/class/net/" + n.link); err == nil {
		_, err := run(ctx, "ip", "link", "del", n.link)
		errs = append(errs, err)
	}
	if netnsMounted(n.id) {
		_, err := run(ctx, "ip", "netns", "del", n.id)
		errs = append(errs, err)
	} else {
		errs = append(errs, ignoreMissing(os.Remove(netnsPath(n.id))))
	}
	drop := fmt.Sprintf("table ip %[1]s\ndelete table ip %[1]s\n", n.id)
	_, err := tool{args: []string{"nft", "-f", "-"}, stdin: drop}.run(ctx)
	errs = append(errs, err)
	if _, err := lookTool("iptables"); err == nil {
		if have, err := run(ctx, "iptables", "-w", "-S", "FORWARD"); err == nil && strings.Contains(have, " "+n.link+" ") {
			for _, rule := range n.forwardRules() {
				_, err := run(ctx, append([]string{"iptables", "-w", "-D", "FORWARD"}, rule...)...)
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the network of %s: %w", n.spec.Name, err)
	}
	return nil
}

// writeKnownHosts pins the host key to the machine's address.
func (n *Nspawn) writeKnownHosts(net netip.Prefix) error {
	key, err := ensureKey(n.path("host_key"), "root@"+n.spec.Name)
	if err != nil {
		return err
	}
	line := guestEnd(net).String() + " " + key.public
	if was, _ := os.ReadFile(n.path("known_hosts")); string(was) == line {
		return nil
	}
	return renameio.WriteFile(n.path("known_hosts"), []byte(line), 0o600)
}
