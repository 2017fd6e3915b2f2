package vm

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// suite is the Debian that machines run, version 13.
const suite = "trixie"

// aptSources returns one-line apt sources for a suite from the same mirrors
// that a Debian host uses itself, because a machine behind a wall may reach
// only those. It returns nothing where the host is no Debian or its sources
// say nothing of use: mmdebstrap then takes Debian's own archive.
//
// files are the host's sources by name, in the one-line and in the deb822
// format (sources.list(5)).
func aptSources(codename string, files map[string]string, suite string) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, s := range parseSources(name, files[name]) {
			kind, ok := strings.CutPrefix(s.suite, codename)
			if !ok || codename == "" || !slices.Contains(s.components, "main") {
				continue
			}
			switch kind {
			case "", "-updates", "-security":
				line := "deb " + s.uri + " " + suite + kind + " main"
				if !slices.Contains(lines, line) {
					lines = append(lines, line)
				}
			}
		}
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, " "+suite+" main") }) {
		return nil
	}
	return lines
}

type aptSource struct {
	uri, suite string
	components []string
}

var bracketed = regexp.MustCompile(`\[[^\]]*\]`)

func parseSources(name, text string) []aptSource {
	if strings.HasSuffix(name, ".sources") {
		return parseDeb822(text)
	}
	var found []aptSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(bracketed.ReplaceAllString(line, ""))
		if len(f) >= 4 && f[0] == "deb" {
			found = append(found, aptSource{f[1], f[2], f[3:]})
		}
	}
	return found
}

func parseDeb822(text string) []aptSource {
	var found []aptSource
	fields := map[string]string{}
	last := ""
	flush := func() {
		if slices.Contains(strings.Fields(fields["types"]), "deb") && !strings.EqualFold(strings.TrimSpace(fields["enabled"]), "no") {
			for _, uri := range strings.Fields(fields["uris"]) {
				for _, suite := range strings.Fields(fields["suites"]) {
					found = append(found, aptSource{uri, suite, strings.Fields(fields["components"])})
				}
			}
		}
		fields, last = map[string]string{}, ""
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n\r \t")
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			fields[last] += line
		default:
			key, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(key)
			fields[last] = value
		}
	}
	flush()
	return found
}

// hostAptSources applies aptSources to this machine.
func hostAptSources(suite string) []string {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil || osReleaseField(string(release), "ID") != "debian" {
		return nil
	}
	names, _ := filepath.Glob("/etc/apt/sources.list.d/*")
	files := map[string]string{}
	for _, name := range append(names, "/etc/apt/sources.list") {
		if text, err := os.ReadFile(name); err == nil {
			files[name] = string(text)
		}
	}
	return aptSources(osReleaseField(string(release), "VERSION_CODENAME"), files, suite)
}

func osReleaseField(text, field string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), field+"="); ok {
			return strings.Trim(value, `"'`)
		}
	}
	return ""
}
