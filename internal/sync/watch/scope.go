package watch

import (
	"path/filepath"
	"slices"
	"strings"
)

// scope is the part of a tree that the consumer asked for.
type scope struct {
	paths []string // relative to the tree's top; empty is all of it
}

// place of a path in relation to a scope.
type place int

const (
	outOfScope place = iota
	onTheWay         // a folder that leads to what was asked for
	named            // what was asked for
	below            // something in it
)

// newScope returns the folder that holds root and all of paths, which may be
// outside of root, and the scope below it.
func newScope(root string, paths []string) (top string, s scope) {
	top = root
	var full []string
	for _, p := range paths {
		p = filepath.Join(root, filepath.FromSlash(p))
		full = append(full, p)
		for p != top && !strings.HasPrefix(p, strings.TrimSuffix(top, "/")+"/") {
			top = filepath.Dir(top)
		}
	}
	for _, p := range full {
		rel := strings.TrimPrefix(strings.TrimPrefix(p, top), "/")
		if rel == "" {
			return top, scope{} // all of it
		}
		s.paths = append(s.paths, filepath.ToSlash(rel))
	}
	slices.Sort(s.paths)
	return top, s
}

func (s scope) of(p string) place {
	if len(s.paths) == 0 {
		return below
	}
	best := outOfScope
	for _, asked := range s.paths {
		switch {
		case p == asked:
			best = max(best, named)
		case strings.HasPrefix(p, asked+"/"):
			return below
		case strings.HasPrefix(asked, p+"/"):
			best = max(best, onTheWay)
		}
	}
	return best
}
