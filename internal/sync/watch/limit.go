package watch

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"devbox/internal/hint"
)

// outOfWatches tells where the watches went and what helps.
func (t *tree) outOfWatches() error {
	folders, _ := t.count()
	limit := strings.TrimSpace(string(readSmall("/proc/sys/fs/inotify/max_user_watches")))
	inUse := watchesInUse("/proc")
	n, _ := strconv.Atoi(limit)
	want := 65536
	for want < max(n, inUse+t.unwanted)*2 {
		want *= 2
	}
	return hint.Errorf(
		fmt.Sprintf("add the largest to watch.ignore, or run `sudo sysctl fs.inotify.max_user_watches=%d`", want),
		"no inotify watches left: %d are in use of %s, this tree needs %d, most of them in %s",
		inUse, cmp.Or(limit, "an unknown number"), folders, strings.Join(t.largest(3), ", "))
}

// outOfFiles is for macOS, where each file in a watched folder takes a
// descriptor. Go has raised the soft limit to the hard one already.
func (t *tree) outOfFiles(err error) error {
	folders, files := t.count()
	return hint.Errorf(
		"add the largest folders to watch.ignore, or raise the limit: see `ulimit -Hn`, and on macOS `sysctl kern.maxfilesperproc`",
		"too many files to watch: %w after %d folders with %d files, most of them in %s",
		err, folders, files, strings.Join(t.largest(3), ", "))
}

// largest names the folders with the most folders in them, at most two levels
// deep.
func (t *tree) largest(n int) []string {
	type group struct {
		path    string
		folders int
	}
	var groups []group
	var collect func(d *dir, level int)
	collect = func(d *dir, level int) {
		for _, sub := range d.dirs {
			g := group{path: t.name(sub.path)}
			sub.all(func(*dir) { g.folders++ })
			// A folder that has nearly all of it in one below says less
			// than that one.
			deeper := false
			for _, s := range sub.dirs {
				in := 0
				s.all(func(*dir) { in++ })
				deeper = deeper || level < 2 && in*10 >= g.folders*9 && in > 1
			}
			if deeper {
				collect(sub, level+1)
				continue
			}
			groups = append(groups, g)
		}
	}
	collect(t.root, 0)
	slices.SortFunc(groups, func(a, b group) int {
		return cmp.Or(cmp.Compare(b.folders, a.folders), strings.Compare(a.path, b.path))
	})
	var names []string
	for _, g := range groups[:min(n, len(groups))] {
		names = append(names, fmt.Sprintf("%s (%d)", g.path, g.folders))
	}
	return names
}

// watchesInUse counts those of all programs that proc lets us see, which are
// the user's own.
func watchesInUse(proc string) int {
	total := 0
	infos, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fdinfo", "*"))
	for _, name := range infos {
		if b, err := os.ReadFile(name); err == nil {
			total += strings.Count(string(b), "inotify wd:")
		}
	}
	return total
}
