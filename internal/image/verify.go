package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrNoVerify is returned by [Verify] where systemd-analyze is not installed.
// Nothing was checked then.
var ErrNoVerify = errors.New("systemd-analyze is not available")

// Verify has systemd-analyze(1) read the tree's units and returns what it says
// about them. The checks are those of the systemd on this machine, which may be
// older than the host's, so that all of it are warnings.
func Verify(ctx context.Context, tree *Tree) ([]Problem, error) {
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return nil, ErrNoVerify
	}
	units, err := unitsIn(tree.FS(), []string{tree.Name})
	if err != nil {
		return nil, fmt.Errorf("verify units: %w", err)
	}
	if len(units) == 0 {
		return nil, nil
	}
	root, err := os.MkdirTemp("", "devbox-verify-")
	if err != nil {
		return nil, fmt.Errorf("verify units: %w", err)
	}
	defer os.RemoveAll(root)
	args := []string{"systemd-analyze", "verify", "--root=" + root, "--man=no", "--recursive-errors=no"}
	for _, u := range units {
		if err := standIn(tree, root, u); err != nil {
			return nil, fmt.Errorf("verify units: %w", err)
		}
		if !strings.Contains(u.Name, "@.") { // a template has no name to load it by
			args = append(args, u.Name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, args[1:]...)
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=warning", "SYSTEMD_LOG_COLOR=0", "SYSTEMD_LOG_TARGET=console", "LC_ALL=C")
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("verify units: %w", context.Cause(ctx))
	}
	problems := parseVerify(out.String(), root, units)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || len(problems) == 0) {
		return nil, fmt.Errorf("verify units: %w", &ToolError{args, out.String(), err})
	}
	// [Tree.Check] looks for the programs itself and says more about them.
	return slices.DeleteFunc(problems, func(p Problem) bool { return strings.Contains(p.Text, " is not executable: ") }), nil
}

// VerifyKnows tells whether the systemd-analyze here is of the systemd on hosts
// or newer. An older one calls settings unknown that a host knows.
func VerifyKnows(ctx context.Context) bool {
	out, err := exec.CommandContext(ctx, "systemd-analyze", "--version").Output()
	if err != nil {
		return false
	}
	var version int
	_, err = fmt.Sscanf(string(out), "systemd %d", &version)
	return err == nil && version >= hostSystemd
}

// hostSystemd is Debian 13's version of systemd.
const hostSystemd = 257

// VerifyKey is the same for trees of which [Verify] says the same.
func VerifyKey(tree *Tree) (string, error) {
	units, err := unitsIn(tree.FS(), []string{tree.Name})
	if err != nil {
		return "", fmt.Errorf("verify units: %w", err)
	}
	h := sha256.New()
	for _, u := range units {
		data, err := readSmall(tree.FS(), u.Path, maxUnit)
		if err != nil {
			return "", fmt.Errorf("verify units: %w", err)
		}
		fmt.Fprintf(h, "%q %q\n", u.Path, data)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// standIn writes a unit and, for each program of it that the tree has, an empty
// executable: systemd-analyze looks no deeper, and the tree need not be copied.
func standIn(tree *Tree, root string, u Unit) error {
	data, err := readSmall(tree.FS(), u.Path, maxUnit)
	if err != nil {
		return err
	}
	// Always in one folder: where it lies in the image makes no difference.
	if err := writeUnder(root, path.Join("usr/lib/systemd/system", u.Name), data, 0o644); err != nil {
		return err
	}
	for _, p := range u.Execs {
		if e := tree.lookup(p[1:]); e != nil && !e.Mode.IsDir() {
			if err := writeUnder(root, p[1:], nil, 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeUnder writes a file at name inside root. name comes from [Tree] paths,
// which never climb.
func writeUnder(root, name string, data []byte, mode os.FileMode) error {
	file := filepath.Join(root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, data, mode)
}

// verifyLine is "FOLDER/usr/lib/systemd/system/UNIT:LINE: text" or "UNIT: text".
var verifyLine = regexp.MustCompile(`^(?:(/[^:]*):(\d+)|([^:/ ]+)): (.*)$`)

// parseVerify turns systemd-analyze's lines into problems. Lines about units
// that the host has and the image does not are left out.
func parseVerify(out, root string, units []Unit) []Problem {
	paths := map[string]string{}
	for _, u := range units {
		paths[u.Name] = u.Path
	}
	var problems []Problem
	for line := range strings.Lines(out) {
		m := verifyLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		name := m[3]
		if m[1] != "" {
			name = path.Base(m[1])
		}
		file, ok := paths[name]
		text := strings.TrimSuffix(strings.ReplaceAll(m[4], root, ""), ".")
		if !ok {
			continue
		}
		n, _ := strconv.Atoi(m[2])
		problems = append(problems, Problem{Path: file, Line: n, Text: text, Cure: "see `systemd-analyze verify`", Warning: true})
	}
	return problems
}
