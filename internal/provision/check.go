package provision

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"golang.org/x/crypto/ssh"

	"devbox/internal/hint"
)

// maxConfig bounds a cloud-config in bytes. Providers take 16 to 64 KiB.
const maxConfig = 64 << 10

// Problem is something in a cloud-config that cannot be applied.
type Problem struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line"`   // from 1
	Column  int    `json:"column"` // from 1
	Problem string `json:"problem"`
	Cure    string `json:"cure,omitempty"`
}

func (p Problem) Error() string {
	s := fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Problem)
	if p.Cure != "" {
		s += "; " + p.Cure
	}
	return s
}

// Problems is all that is wrong with one cloud-config.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Modules of cloud-init that devbox runs, in the order of Debian's cloud.cfg,
// and the keys that make each of them needed. A module whose keys are not in
// the file is not run: it would act on what the provider or Lima gave.
var modules = []struct {
	name string
	keys []string
}{
	{"write_files", []string{"write_files"}},
	{"ca_certs", []string{"ca_certs"}},
	{"users_groups", []string{"groups", "users"}},
	{"locale", []string{"locale", "locale_configfile"}},
	{"apt_pipelining", []string{"apt_pipelining"}},
	{"apt_configure", []string{"apt"}},
	{"ntp", []string{"ntp"}},
	{"timezone", []string{"timezone"}},
	{"package_update_upgrade_install", []string{"packages", "package_update", "package_upgrade"}},
	{"write_files_deferred", nil}, // for entries of write_files with defer: true
	{"runcmd", []string{"runcmd"}},
}

// refused says why a key is not taken. Keys in neither list are refused too.
var refused = map[string]string{
	"bootcmd":     "it would run at each boot of a cloud's machine and never here; use runcmd",
	"power_state": "devbox does not restart or stop a machine that it is setting up",
	"package_reboot_if_required": "devbox does not restart a machine that it is setting up; " +
		"unattended-upgrades can, by Unattended-Upgrade::Automatic-Reboot",
	"user":                "it changes the provider's default user; put users under `users`",
	"password":            "devbox uses keys only; put ssh_authorized_keys under `users`",
	"chpasswd":            "devbox uses keys only; put ssh_authorized_keys under `users`",
	"ssh_pwauth":          "set PasswordAuthentication in a file of /etc/ssh/sshd_config.d, by write_files",
	"disable_root":        "set PermitRootLogin in a file of /etc/ssh/sshd_config.d, by write_files",
	"ssh_authorized_keys": "it belongs to the provider's default user; put it under an entry of `users`",
	"ssh_keys":            "it would replace the host's keys; a changed host key locks devbox out",
	"ssh_deletekeys":      "it would replace the host's keys; a changed host key locks devbox out",
	"hostname":            "the provider or Lima names the machine",
	"fqdn":                "the provider or Lima names the machine",
	"disk_setup":          "disks of a running machine are not repartitioned",
	"fs_setup":            "disks of a running machine are not formatted",
	"phone_home":          "devbox sees how it ends",
}

// planned is what apply.sh is to do.
type planned struct {
	steps    []string // modules, in order
	packages string   // names, separated by spaces, if being installed is all that is asked of them
}

// Check says what in a cloud-config cannot be applied to a running host. It is
// not cloud-init's schema check, which the host does in [Apply].
func Check(cloudConfig []byte) Problems {
	_, problems := plan(cloudConfig)
	return problems
}

func plan(data []byte) (planned, Problems) {
	first, _, _ := bytes.Cut(data, []byte("\n"))
	switch {
	case len(data) > maxConfig:
		return planned{}, Problems{{Line: 1, Column: 1, Problem: fmt.Sprintf("larger than %d KiB", maxConfig>>10), Cure: "ship large files in the image"}}
	case strings.TrimSpace(string(first)) != "#cloud-config":
		return planned{}, Problems{{Line: 1, Column: 1, Problem: "not a cloud-config", Cure: "let the first line be #cloud-config"}}
	}
	pairs, bad := parse(data)
	if bad != nil {
		return planned{}, Problems{*bad}
	}
	c := &checking{needed: map[string]bool{}}
	for _, p := range pairs {
		c.key(p)
	}
	var out planned
	for _, m := range modules {
		if c.needed[m.name] {
			out.steps = append(out.steps, m.name)
		}
	}
	if !c.upgrade {
		out.packages = strings.Join(c.packages, " ")
	}
	slices.SortStableFunc(c.problems, func(a, b Problem) int { return a.Line - b.Line })
	return out, c.problems
}

type checking struct {
	problems Problems
	needed   map[string]bool
	packages []string
	upgrade  bool // packages are to be more than installed
}

func (c *checking) add(n ast.Node, problem, cure string) {
	p := Problem{Line: 1, Column: 1, Problem: problem, Cure: cure}
	if t := n.GetToken(); t != nil && t.Position != nil {
		p.Line, p.Column = max(1, t.Position.Line), max(1, t.Position.Column)
	}
	c.problems = append(c.problems, p)
}

func (c *checking) key(p *ast.MappingValueNode) {
	key := keyOf(p)
	if i := slices.IndexFunc(modules, func(m struct {
		name string
		keys []string
	}) bool {
		return slices.Contains(m.keys, key)
	}); i >= 0 {
		c.needed[modules[i].name] = true
	} else {
		why := refused[key]
		if near := hint.Nearest(key, keysRun()); why == "" && near != "" {
			why = fmt.Sprintf("did you mean %q?", near)
		}
		if why == "" {
			why = "remove it, or do what it does by runcmd; devbox runs " + strings.Join(keysRun(), ", ")
		}
		c.add(p.Key, key+" is not run by devbox", why)
		return
	}
	switch key {
	case "packages":
		c.packageList(p.Value)
	case "package_upgrade":
		c.upgrade = c.upgrade || p.Value.String() != "false"
	case "write_files":
		c.files(p.Value)
	case "users":
		c.users(p.Value)
	}
}

func keysRun() []string {
	var keys []string
	for _, m := range modules {
		keys = append(keys, m.keys...)
	}
	return keys
}

var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?$`)

// packageList takes the names if all are plain: with a version or for another
// package manager only cloud-init knows what is asked for.
func (c *checking) packageList(n ast.Node) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		return // the schema says so better
	}
	for _, v := range seq.Values {
		s, ok := v.(*ast.StringNode)
		if !ok || !packageName.MatchString(s.Value) {
			c.upgrade = true
			continue
		}
		c.packages = append(c.packages, s.Value)
	}
}

func (c *checking) files(n ast.Node) {
	for _, entry := range entries(n) {
		if d := field(entry, "defer"); d != nil && d.String() == "true" {
			c.needed["write_files_deferred"] = true
		}
	}
}

// users checks the keys: cloud-init drops one that it cannot read silently.
func (c *checking) users(n ast.Node) {
	for _, entry := range entries(n) {
		keys, ok := field(entry, "ssh_authorized_keys").(*ast.SequenceNode)
		if !ok {
			continue
		}
		for _, k := range keys.Values {
			s, ok := k.(*ast.StringNode)
			if !ok {
				continue
			}
			if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.Value)); err != nil {
				c.add(k, "not a public key", "put the line of your ~/.ssh/id_ed25519.pub here")
			}
		}
	}
}

func entries(n ast.Node) []ast.Node {
	if seq, ok := n.(*ast.SequenceNode); ok {
		return seq.Values
	}
	return nil
}

func field(n ast.Node, name string) ast.Node {
	for _, p := range pairsOf(n) {
		if keyOf(p) == name {
			return p.Value
		}
	}
	return nil
}

// keyOf is a pair's key without the quotes it may be written in.
func keyOf(p *ast.MappingValueNode) string {
	if p.Key == nil || p.Key.GetToken() == nil {
		return ""
	}
	return p.Key.GetToken().Value
}

func pairsOf(n ast.Node) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
}

// parse returns the file's top-level pairs. It guards against a parser that
// panics, as goccy/go-yaml has on some broken files.
func parse(data []byte) (pairs []*ast.MappingValueNode, bad *Problem) {
	defer func() {
		if r := recover(); r != nil {
			pairs, bad = nil, &Problem{Line: 1, Column: 1, Problem: fmt.Sprintf("not readable as YAML: %v", r)}
		}
	}()
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		p := Problem{Line: 1, Column: 1, Problem: "not YAML: " + err.Error(), Cure: "check the indentation and quotes here and on the line above"}
		var ye yaml.Error
		if errors.As(err, &ye) {
			p.Problem = "not YAML: " + ye.GetMessage()
			if t := ye.GetToken(); t != nil && t.Position != nil {
				p.Line, p.Column = max(1, t.Position.Line), max(1, t.Position.Column)
			}
		}
		return nil, &p
	}
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		if pairs != nil {
			return nil, &Problem{Line: 1, Column: 1, Problem: "more than one YAML document", Cure: "keep everything in one, without a --- line in between"}
		}
		if pairs = pairsOf(doc.Body); pairs == nil {
			return nil, &Problem{Line: 2, Column: 1, Problem: "not a mapping", Cure: "write `key: value` lines"}
		}
	}
	for _, p := range pairs {
		if p.Key == nil || p.Value == nil {
			return nil, &Problem{Line: 1, Column: 1, Problem: "a key without a name or value", Cure: "write `key: value`"}
		}
	}
	return pairs, nil
}
