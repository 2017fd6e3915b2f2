package remote

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"devbox/internal/hint"
)

// Hop is one machine on the way, all of it decided.
type Hop struct {
	Alias          string   // as the user wrote it
	Host           string   // name or address to dial
	Port           int      //
	User           string   //
	IdentityFiles  []string // in the order to offer
	IdentitiesOnly bool     // offer an agent's keys only if a file names them
	AgentSocket    string   // "": no agent
	KnownHosts     []string // files; a new key goes to the first
	HostKeyName    string   // what known_hosts calls the host, host:port
}

// Addr is host:port.
func (h Hop) Addr() string { return net.JoinHostPort(h.Host, strconv.Itoa(h.Port)) }

const maxHops = 8

// Resolve decides how to reach e: the jump hosts in order, then the host. What
// e says explicitly wins over the SSH config, which wins over the defaults.
func Resolve(e Endpoint, o Options) ([]Hop, error) {
	return resolve(e, o, 0)
}

func resolve(e Endpoint, o Options, depth int) ([]Hop, error) {
	if depth > maxHops {
		return nil, fmt.Errorf("resolve %s: more than %d jump hosts, do they name each other in a circle?", e.Host, maxHops)
	}
	if err := validHost(e.Host); err != nil {
		return nil, err
	}
	c := &sshConfig{alias: e.Host, localUser: o.LocalUser, home: o.Home, values: map[string][]string{}}
	if e.User != "" {
		c.set("user", e.User)
	}
	files := o.ConfigFiles
	if e.ConfigFile != "" {
		files = []string{e.ConfigFile}
	}
	for _, file := range files {
		if err := c.read(file, 0); err != nil {
			return nil, err
		}
	}
	hop, err := hopOf(e, o, c)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", e.Host, err)
	}
	jumps, err := c.jumps(e, o, hop, depth)
	if err != nil {
		return nil, err
	}
	return append(jumps, hop), nil
}

func hopOf(e Endpoint, o Options, c *sshConfig) (Hop, error) {
	h := Hop{Alias: e.Host, Host: e.Host, Port: e.Port, User: c.first("user")}
	if name := c.first("hostname"); name != "" {
		h.Host = expand(name, map[byte]string{'h': e.Host, 'n': e.Host})
		if err := validHost(h.Host); err != nil {
			return h, err
		}
	}
	if h.User == "" {
		h.User = o.LocalUser
	}
	if h.User == "" {
		return h, hint.Errorf("name a user, as in user@"+e.Host, "no user name is known")
	}
	if h.Port == 0 {
		h.Port = 22
		if p := c.first("port"); p != "" {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil || n == 0 {
				return h, fmt.Errorf("ssh config: port %q is not a port number", p)
			}
			h.Port = int(n)
		}
	}
	if h.Port < 1 || h.Port > 65535 {
		return h, fmt.Errorf("port %d is not between 1 and 65535", h.Port)
	}
	tokens := map[byte]string{
		'd': o.Home, 'h': h.Host, 'n': e.Host, 'p': strconv.Itoa(h.Port), 'r': h.User, 'u': o.LocalUser,
	}
	path := func(s string) string { return untilde(expand(s, tokens), o.Home) }

	h.AgentSocket = o.AgentSocket
	switch agent := c.first("identityagent"); agent {
	case "", "SSH_AUTH_SOCK", "$SSH_AUTH_SOCK":
	case "none":
		h.AgentSocket = ""
	default:
		h.AgentSocket = path(agent)
	}
	h.identities(e, o, c, path)
	if err := h.knownHosts(e, o, c, path); err != nil {
		return h, err
	}
	name, port := h.Host, h.Port
	if alias := c.first("hostkeyalias"); alias != "" {
		name, port = expand(alias, tokens), 22
	}
	if e.HostKeyAlias != "" {
		name, port = e.HostKeyAlias, 22
	}
	h.HostKeyName = net.JoinHostPort(name, strconv.Itoa(port))
	return h, nil
}

func (h *Hop) identities(e Endpoint, o Options, c *sshConfig, path func(string) string) {
	h.IdentitiesOnly = strings.EqualFold(c.first("identitiesonly"), "yes")
	if len(e.IdentityFiles) > 0 {
		h.IdentitiesOnly = true
		for _, file := range e.IdentityFiles {
			h.IdentityFiles = append(h.IdentityFiles, untilde(file, o.Home))
		}
		return
	}
	named := c.values["identityfile"]
	for _, value := range named {
		file := strings.Trim(value, `"`)
		if file == "none" || file == "" {
			continue
		}
		if file = path(file); !slices.Contains(h.IdentityFiles, file) {
			h.IdentityFiles = append(h.IdentityFiles, file)
		}
	}
	if len(named) == 0 && o.Home != "" {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			h.IdentityFiles = append(h.IdentityFiles, filepath.Join(o.Home, ".ssh", name))
		}
	}
}

func (h *Hop) knownHosts(e Endpoint, o Options, c *sshConfig, path func(string) string) error {
	if len(e.KnownHosts) > 0 {
		for _, file := range e.KnownHosts {
			h.KnownHosts = append(h.KnownHosts, untilde(file, o.Home))
		}
		return nil
	}
	add := func(key string, otherwise ...string) error {
		words, err := splitWords(c.raw(key))
		if err != nil {
			return fmt.Errorf("ssh config: %s: %w", key, err)
		}
		if len(words) == 0 {
			words = otherwise
		}
		for _, word := range words {
			if word != "none" {
				h.KnownHosts = append(h.KnownHosts, path(word))
			}
		}
		return nil
	}
	var user []string
	if o.Home != "" {
		user = []string{filepath.Join(o.Home, ".ssh", "known_hosts"), filepath.Join(o.Home, ".ssh", "known_hosts2")}
	}
	if err := add("userknownhostsfile", user...); err != nil {
		return err
	}
	return add("globalknownhostsfile", "/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
}

// jumps resolves ProxyJump. The first jump host's own ProxyJump counts too, as
// it does for ssh; that of a later one does not, since the one before it is
// the way.
func (c *sshConfig) jumps(e Endpoint, o Options, target Hop, depth int) ([]Hop, error) {
	list := c.first("proxyjump")
	if list == "" {
		if command := c.first("proxycommand"); command != "" && command != "none" {
			return nil, hint.Errorf("use ProxyJump for it",
				"resolve %s: the ssh config reaches it by ProxyCommand, which devbox does not run", e.Host)
		}
		return nil, nil
	}
	if list == "none" {
		return nil, nil
	}
	var hops []Hop
	for i, word := range strings.Split(list, ",") {
		jump, err := parseJump(strings.TrimSpace(word))
		if err != nil {
			return nil, fmt.Errorf("resolve %s: ProxyJump %s: %w", e.Host, list, err)
		}
		jump.ConfigFile = e.ConfigFile
		way, err := resolve(jump, o, depth+1)
		if err != nil {
			return nil, fmt.Errorf("resolve %s: ProxyJump %s: %w", e.Host, word, err)
		}
		if i > 0 {
			way = way[len(way)-1:]
		}
		hops = append(hops, way...)
	}
	if len(hops) > maxHops {
		return nil, fmt.Errorf("resolve %s: more than %d jump hosts", e.Host, maxHops)
	}
	return hops, nil
}

// parseJump reads [user@]host[:port] or ssh://[user@]host[:port].
func parseJump(s string) (Endpoint, error) {
	var e Endpoint
	s = strings.TrimSuffix(strings.TrimPrefix(s, "ssh://"), "/")
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		if i == 0 {
			return e, fmt.Errorf("%q has an empty user name", s)
		}
		e.User, s = s[:i], s[i+1:]
	}
	e.Host = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	if host, port, err := net.SplitHostPort(s); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return e, fmt.Errorf("%q is not a port number", port)
		}
		e.Host, e.Port = host, int(n)
	}
	return e, validHost(e.Host)
}

func validHost(host string) error {
	if host == "" {
		return fmt.Errorf("no host is named")
	}
	if host[0] == '-' || strings.ContainsAny(host, " \t\n\r\x00,'\"`$\\;&<>|(){}/") {
		return fmt.Errorf("%q is not a host name", host)
	}
	return nil
}

// expand replaces the % tokens of ssh_config(5) that devbox knows; others stay.
func expand(s string, tokens map[byte]string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if v, ok := tokens[s[i]]; ok {
			b.WriteString(v)
		} else if s[i] == '%' {
			b.WriteByte('%')
		} else {
			b.WriteString(s[i-1 : i+1])
		}
	}
	return b.String()
}
