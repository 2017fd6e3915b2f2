package watch

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	tests := []struct {
		pattern, s string
		want       bool
	}{
		{"a/*/c", "a/b/c", true},
		{"a/*/c", "a/b/b/c", false},
		{"a/**/c", "a/c", true},
		{"a/**/c", "a/b/b/c", true},
		{"**/c", "c", true},
		{"**/c", "a/b/c", true},
		{"**/c", "a/bc", false},
		{"a/**", "a/b/c", true},
		{"a**/c", "ab/c", true},
		{"a**/c", "ab/b/c", false},
		{"a?c", "a/c", false},
		{"a[!b]c", "a/c", false},
		{"[a-c]x", "bx", true},
		{"[!a-c]x", "bx", false},
		{"[]x]", "]", true},
		{"[[:digit:]]", "7", true},
		{"[[:alpha:]-]", "-", true},
		{"[a", "a", false},
		{`\*`, "*", true},
		{`\*`, "a", false},
		{`a\`, "a", false},
		{"*.*", "a.b", true},
		{"*", "", true},
	}
	for _, tt := range tests {
		if got := glob(tt.pattern, tt.s, true); got != tt.want {
			t.Errorf("glob(%q, %q) = %v", tt.pattern, tt.s, got)
		}
	}
}

// git is the judge of what a .gitignore means.
func TestIgnoreAsGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git, the judge of what a .gitignore means")
	}
	rules := map[string]string{
		".gitignore": "# comment\n*.log\n!important.log\n/rooted\nanywhere\nfolder-only/\ndoc/*.txt\n" +
			"a/**/z\n**/foo/bar\nabc/**\nspace\\ \ntrailing   \n\\#hash\n\\!bang\n[xy]?.tmp\ncrlf\r\n" +
			"/web/*\n!/web/keep\n/deep/nested/\n*.[oa]\nfoo*bar\nun[closed\n\n!\n/\n**\\/odd\nq**q/r\n*.d/\nback\\slash\n",
		"sub/.gitignore":        "!again.log\n/only-here\n*.md\n!README.md\n",
		"sub/deeper/.gitignore": "*\n!*.go\n!.gitignore\n",
		"negated/.gitignore":    "*.x\n!keep/*.x\nkeep/no.x\n",
		".git/info/exclude":     "excluded\n*.keep\n",
		"other/.gitignore":      "!*.keep\n",
	}
	paths := strings.Fields(`a.log important.log sub/x.log sub/again.log sub/important.log rooted sub/rooted
		anywhere sub/anywhere folder-only sub/folder-only/x doc/a.txt doc/sub/a.txt sub/doc/a.txt a/z a/b/z a/b/c/z b/a/z
		foo/bar x/foo/bar foo/x/bar abc/x abc/d/e sub/abc/x #hash !bang x1.tmp z1.tmp crlf web/x web/keep web/dir/x web/keep/x
		deep/nested/x deep/other nested/x m.o m.a m.c fooXbar foo/Xbar un[closed sub/only-here only-here sub/a.md sub/README.md
		sub/deeper/a.txt sub/deeper/a.go sub/deeper/d/a.go negated/a.x negated/keep/a.x negated/keep/no.x excluded sub/excluded
		f.keep other/f.keep trailing x/odd qq/r qxq/r q/x/q/r conf.d/x sub/conf.d/y plain main.go sub/deeper/.gitignore .gitignore backslash`)
	paths = append(paths, "space ", "crlf\r", `back\slash`)

	root := t.TempDir()
	content := make(map[string]string)
	for _, p := range paths {
		content[p] = "x"
	}
	// A name can be a file in one place and a folder in another of the list.
	for p := range content {
		for q := range content {
			if strings.HasPrefix(q, p+"/") {
				delete(content, p)
			}
		}
	}
	git := func(stdin string, args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", root, "-c", "core.excludesFile="}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("git %v: %v", args, err)
		}
		return string(out)
	}
	git("", "init", "-q")
	files(t, root, content)
	files(t, root, rules)

	tracked := make(map[string]bool)
	for _, p := range strings.Split(git("", "ls-files", "-z", "--others", "--exclude-standard"), "\x00") {
		tracked[p] = true
	}
	w := newWatcher(t, Options{Root: root})
	watched := w.Snapshot()
	for p := range content {
		if _, got := watched[p]; got != tracked[p] {
			t.Errorf("%q is watched: %v, git: %v", p, got, tracked[p])
		}
	}
}

func TestLastWord(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{".gitignore": "*.gen\n!*.swp\n", "a.gen": "", "b.md": "", ".c.go.swp": "", "d.go~": ""})
	w := newWatcher(t, Options{Root: root, Ignore: []string{"!a.gen", "*.md"}})
	got := w.Snapshot()
	for name, want := range map[string]bool{"a.gen": true, "b.md": false, ".c.go.swp": true, "d.go~": false} {
		if _, ok := got[name]; ok != want {
			t.Errorf("%s is watched: %v, want %v", name, ok, want)
		}
	}
}

func TestLinkedWorktree(t *testing.T) {
	top := t.TempDir()
	files(t, top, map[string]string{
		"repo/.git/info/exclude":           "hidden\n",
		"repo/.git/worktrees/wt/commondir": "../..\n",
		"wt/.git":                          "gitdir: ../repo/.git/worktrees/wt\n",
		"wt/hidden":                        "",
		"wt/seen":                          "",
	})
	w := newWatcher(t, Options{Root: filepath.Join(top, "wt")})
	if got := w.Snapshot(); len(got) != 1 || got["seen"] == "" {
		t.Errorf("watched are %v, want seen alone", got)
	}
}

func FuzzIgnore(f *testing.F) {
	f.Add([]byte("*.log\n!a/**/b\n[a-z]/\n"), "a/b/c.log")
	f.Fuzz(func(t *testing.T, text []byte, path string) {
		if len(text) > 200 || len(path) > 100 || bytes.Count(text, []byte("*")) > 8 {
			return // the patterns are the user's own: no limit on their cost
		}
		r := refine(nil, "/r", text)
		r.decide("/r/"+path, true)
		r.decide("/r/"+path, false)
	})
}
