package main

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/deploy"
	"devbox/internal/drift"
	"devbox/internal/facts"
	"devbox/internal/image"
	"devbox/internal/protocol"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// section returns the part of docs/commands.md below a heading.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n## "+heading+"\n")
	if !ok {
		t.Errorf("docs/commands.md has no section %q", heading)
	}
	part, _, _ := strings.Cut(rest, "\n## ")
	return part
}

func commandsDoc(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var flagWord = regexp.MustCompile("`(?:-[a-zA-Z]`, `)?(--?[a-zA-Z][a-z-]*)")

func TestEveryCommandAndFlagIsDocumented(t *testing.T) {
	doc := commandsDoc(t)
	root := newRoot(newApp(os.Stdin, os.Stdout, os.Stderr))
	global := map[string]bool{"--help": true}
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		global["--"+f.Name] = true
		if !strings.Contains(doc, "`--"+f.Name) {
			t.Errorf("the flag --%s of every command is not documented", f.Name)
		}
	})
	var commands []string
	for _, c := range root.Commands() {
		if c.Hidden || c.Name() == "help" {
			continue
		}
		heading := "`devbox " + c.Name() + "`"
		commands = append(commands, heading)
		text := section(t, doc, heading)
		flags := maps.Clone(global)
		for _, x := range append([]*cobra.Command{c}, c.Commands()...) {
			x.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
				if f.Name == "help" {
					return
				}
				flags["--"+f.Name] = true
				want := "`--" + f.Name
				if f.Shorthand != "" {
					want = "`-" + f.Shorthand + "`, `--" + f.Name
				}
				if !strings.Contains(text, want) {
					t.Errorf("devbox %s: the flag --%s is not documented as %s", c.Name(), f.Name, want)
				}
			})
		}
		for _, m := range flagWord.FindAllStringSubmatch(text, -1) {
			if strings.HasPrefix(m[1], "--") && !flags[m[1]] {
				t.Errorf("devbox %s: the documented flag %s does not exist", c.Name(), m[1])
			}
		}
		for _, sub := range c.Commands() {
			if !strings.Contains(text, sub.Name()) {
				t.Errorf("devbox %s %s is not documented", c.Name(), sub.Name())
			}
		}
	}
	for _, m := range regexp.MustCompile("(?m)^## (`.*`)$").FindAllStringSubmatch(doc, -1) {
		if !slices.Contains(commands, m[1]) {
			t.Errorf("the documented command %s does not exist", m[1])
		}
	}
}

func TestEveryExitCodeIsDocumented(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "exit.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(v.Names[0].Name, "exit") {
			codes = append(codes, v.Values[0].(*ast.BasicLit).Value)
		}
		return true
	})
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(section(t, commandsDoc(t), "Exit codes"), -1) {
		documented = append(documented, m[1])
	}
	if len(codes) == 0 || !slices.Equal(codes, documented) {
		t.Errorf("documented %v, in the code %v", documented, codes)
	}
}

// TestEveryJSONFieldIsDocumented holds the fields of what --json prints, and
// the values of outcome.
func TestEveryJSONFieldIsDocumented(t *testing.T) {
	doc := commandsDoc(t)
	for heading, values := range map[string][]any{
		"`devbox up`":     {deploy.Cycle{}, protocol.Failure{}, protocol.Migration{}, protocol.UnitWhy{}, protocol.Phase{}},
		"`devbox watch`":  {deploy.WatchEvent{}, deploy.LogLine{}},
		"`devbox doctor`": {finding{}},
		"`devbox check`":  {image.Problem{}},
		"`devbox secret`": {secretReport{}},
		"`devbox status`": {report{}, machineReport{}, deploy.Forward{}, protocol.Status{}, protocol.Release{}, protocol.State{}, protocol.Data{}, protocol.UnitStatus{},
			deploy.Summary{}, facts.Updates{}, facts.Disk{}, facts.Certificate{}, facts.Unknown{}},
		"`devbox diff`": {deploy.Diff{}, drift.Names{}, drift.Difference{}},
	} {
		text := section(t, doc, heading)
		for _, v := range values {
			for _, name := range jsonNames(reflect.TypeOf(v)) {
				if !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, `"`+name+`":`) {
					t.Errorf("%s: the field %q of %T is not documented", heading, name, v)
				}
			}
		}
	}
	for _, outcome := range []string{protocol.Committed, protocol.Unchanged, protocol.RolledBack, protocol.Failed, deploy.BuildFailed, deploy.BadImage, deploy.HostLost} {
		if !strings.Contains(section(t, doc, "`devbox up`"), "`"+outcome+"`") {
			t.Errorf("the outcome %s is not documented", outcome)
		}
	}
}

func jsonNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			names = append(names, jsonNames(f.Type)...)
		case name != "-" && f.IsExported():
			names = append(names, name)
		}
	}
	return names
}

// The program in the README is what a reader starts with: it builds by what is
// said there, and ends by itself as is said there.
func TestTheReadmesProgramBuilds(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	module := regexp.MustCompile("`go (mod init [a-z]+)` and this main.go").FindStringSubmatch(string(b))
	if module == nil {
		t.Fatal("README.md does not say how to make the module")
	}
	_, rest, _ := strings.Cut(string(b), "```go\n")
	program, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatal("README.md has no Go program")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{strings.Fields(module[1]), {"vet", "."}, {"build", "-o", "hello", "."}} {
		step := exec.Command("go", args...)
		step.Dir = dir
		if out, err := step.CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "hello")).CombinedOutput()
	if err == nil || ctx.Err() != nil || len(out) == 0 {
		t.Errorf("without systemd's socket: %v, %q", err, out)
	}
}

// Links between the documents lead somewhere.
func TestLinksBetweenDocumentsLeadSomewhere(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../../README.md", "../../ARCHITECTURE.md") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}
