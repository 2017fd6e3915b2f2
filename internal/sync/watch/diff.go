package watch

import (
	"maps"
	"path"
	"path/filepath"
	"slices"
)

// note records that p has new content.
func (t *tree) note(p string, before, now sum) {
	t.touched = append(t.touched, p)
	switch committed, differs := t.changed[p]; {
	case !differs:
		t.changed[p] = before
	case committed == now:
		delete(t.changed, p)
	}
}

// sumOf a path as it is now.
func (t *tree) sumOf(p string) sum {
	if d := t.find(parent(p)); d != nil {
		if f := d.files[path.Base(p)]; f != nil {
			return f.sum
		}
	}
	return sum{}
}

// changedPaths differ from the last commit.
func (t *tree) changedPaths() []string { return slices.Sorted(maps.Keys(t.changed)) }

// changes since the last commit.
func (t *tree) changes() []Change {
	var changes []Change
	for _, p := range t.changedPaths() {
		c := Change{Path: t.name(p), Edit: Changed, path: p, sum: t.sumOf(p)}
		switch {
		case t.changed[p] == sum{}:
			c.Edit = Added
		case c.sum == sum{}:
			c.Edit = Removed
		}
		changes = append(changes, c)
	}
	return changes
}

// commit makes changes what later ones are compared with.
func (t *tree) commit(changes []Change) {
	for _, c := range changes {
		if t.sumOf(c.path) == c.sum {
			delete(t.changed, c.path)
		} else {
			t.changed[c.path] = c.sum
		}
	}
}

// reconcile makes an older tree what changes are compared with, and returns
// the paths that differ.
func (t *tree) reconcile(before Snapshot) []string {
	if before == nil {
		return nil
	}
	now := t.snapshot()
	for name, s := range now {
		if before[name] != s {
			p := t.path(name)
			t.changed[p] = parseSum(before[name])
		}
	}
	for name, s := range before {
		if _, there := now[name]; !there {
			t.changed[t.path(name)] = parseSum(s)
		}
	}
	return t.changedPaths()
}

// snapshot of the last commit.
func (t *tree) snapshot() Snapshot {
	s := make(Snapshot)
	t.root.all(func(d *dir) {
		for name, f := range d.files {
			s[t.name(join(d.path, name))] = f.sum.String()
		}
	})
	for p, committed := range t.changed {
		if (committed == sum{}) {
			delete(s, t.name(p))
		} else {
			s[t.name(p)] = committed.String()
		}
	}
	return s
}

// name is how a path is told to the consumer.
func (t *tree) name(p string) string {
	if t.base == t.top {
		return p
	}
	rel, err := filepath.Rel(t.base, t.abs(p))
	if err != nil {
		return p
	}
	return filepath.ToSlash(rel)
}

// path is the reverse of name.
func (t *tree) path(name string) string {
	if t.base == t.top {
		return name
	}
	rel, err := filepath.Rel(t.top, filepath.Join(t.base, filepath.FromSlash(name)))
	if err != nil {
		return name
	}
	return filepath.ToSlash(rel)
}
