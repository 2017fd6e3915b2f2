package provision

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"devbox/internal/hint"
)

// UserData returns the cloud-config to create a server with: that of the file,
// comments and all, with a last line of runcmd that records it as applied if
// all before it succeeded, and with the provider's own user, whom an own list
// of users would leave out, so that its administrator can log in. On a server
// made with it [Compare] finds only devbox-host to install.
func UserData(cloudConfig []byte) ([]byte, error) {
	if problems := Check(cloudConfig); len(problems) > 0 {
		return nil, problems
	}
	out := bytes.TrimRight(cloudConfig, "\n")
	out = append(bytes.Clone(out), '\n')
	w := readWanted(cloudConfig)
	var err error
	if out, err = insert(out, "runcmd", recordItem(cloudConfig, w), false); err != nil {
		return nil, err
	}
	if hasList(out, "users") && !hasDefault(cloudConfig) {
		if out, err = insert(out, "users", "- default\n", true); err != nil {
			return nil, err
		}
	}
	return out, checkUserData(cloudConfig, out)
}

// recordItem is the item of runcmd. cloud-init goes on after a module that
// failed: its log and the packages tell. $? is how the user's own lines ended.
func recordItem(cloudConfig []byte, w wanted) string {
	var b strings.Builder
	p, _ := plan(cloudConfig)
	fmt.Fprintf(&b, `# Added by devbox: so that it finds all this applied.
- |
  if [ $? = 0 ] && ! grep -aqE '\[(ERROR|CRITICAL)\]: |(Running module|Package) .* failed' /var/log/cloud-init.log`)
	if p.packages != "" {
		fmt.Fprintf(&b, ` &&
    ! dpkg-query -W -f '${db:Status-Status}\n' %s 2>&1 | grep -qvx installed`, p.packages)
	}
	b.WriteString("; then\n    mkdir -p /var/lib/devbox && cd /var/lib/devbox &&\n")
	if files := paths(cloudConfig); len(files) > 0 {
		quoted := make([]string, len(files))
		for i, f := range files {
			quoted[i] = "'" + strings.ReplaceAll(f, "'", `'\''`) + "'"
		}
		fmt.Fprintf(&b, `    for f in %s; do
      [ ! -f "$f" ] || echo "$(sha256sum <"$f" | cut -c1-64) $(stat -L -c '%%04a %%U:%%G' "$f") $f"
    done >provision.files &&
`, strings.Join(quoted, " "))
	}
	fmt.Fprintf(&b, `    printf '{"hash":"%s","version":%d,"at":"%%s"}\n' "$(date -u +%%Y-%%m-%%dT%%H:%%M:%%SZ)" >.record &&
    sync && mv -f .record provision.json
  fi
`, Hash(cloudConfig), Version)
	return b.String()
}

// insert adds an item, in lines that begin with column 1, to a top-level list
// of the file, as the first or the last. The rest stays as it is, to the byte.
func insert(doc []byte, key, item string, first bool) ([]byte, error) {
	pairs, bad := parse(doc)
	if bad != nil {
		return nil, bad
	}
	lines := bytes.SplitAfter(doc, []byte("\n"))
	at, indent := len(lines)-1, "  " // the last one is empty: doc ends with a line break
	head := key + ":\n"
	for i, p := range pairs {
		if keyOf(p) != key {
			continue
		}
		list, ok := p.Value.(*ast.SequenceNode)
		if !ok || list.IsFlowStyle || len(list.Values) == 0 {
			t := p.Key.GetToken().Position
			return nil, Problems{{
				Line: t.Line, Column: t.Column, Problem: key + " is not a list of lines that begin with a dash",
				Cure: "write it so: --user-data adds a line to it",
			}}
		}
		head, indent = "", strings.Repeat(" ", list.Start.Position.Column-1)
		switch {
		case first:
			at = list.Start.Position.Line - 1
		case i+1 < len(pairs):
			at = pairs[i+1].Key.GetToken().Position.Line - 1
			for at > 0 && (len(bytes.TrimSpace(lines[at-1])) == 0 || lines[at-1][0] == '#') {
				at-- // what stands above the next key belongs to it
			}
		}
	}
	var added strings.Builder
	added.WriteString(head)
	for l := range strings.Lines(item) {
		added.WriteString(indent + l)
	}
	return bytes.Join([][]byte{bytes.Join(lines[:at], nil), []byte(added.String()), bytes.Join(lines[at:], nil)}, nil), nil
}

func hasList(doc []byte, key string) bool {
	var all map[string]any
	_ = yaml.Unmarshal(doc, &all)
	_, ok := all[key].([]any)
	return ok
}

// hasDefault tells whether the file names the provider's own user.
func hasDefault(cloudConfig []byte) bool {
	var d document
	_ = yaml.Unmarshal(cloudConfig, &d)
	list, _ := d.Users.([]any)
	for _, u := range list {
		if u == "default" {
			return true
		}
		if m, ok := u.(map[string]any); ok && m["name"] == "default" {
			return true
		}
	}
	return false
}

// checkUserData holds the result to what insert is to do and no more.
func checkUserData(before, after []byte) error {
	var was, is map[string]any
	if err := errors.Join(yaml.Unmarshal(before, &was), yaml.Unmarshal(after, &is)); err != nil {
		return fmt.Errorf("make user-data: %w", err)
	}
	run, _ := is["runcmd"].([]any)
	if len(run) > 0 {
		is["runcmd"] = run[:len(run)-1]
		if len(run) == 1 {
			delete(is, "runcmd")
		}
	}
	if people, _ := is["users"].([]any); len(people) > 0 && people[0] == "default" && !hasDefault(before) {
		is["users"] = people[1:]
	}
	if len(run) == 0 || !reflect.DeepEqual(was, is) {
		return hint.Errorf("end the file with its runcmd, a list of lines that begin with a dash", "make user-data: nothing can be added to this file safely")
	}
	if problems := Check(after); len(problems) > 0 {
		return problems
	}
	return nil
}
