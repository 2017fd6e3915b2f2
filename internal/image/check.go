package image

import "context"

// Problem is something about a tree that will go wrong, or may, on a host.
type Problem struct {
	Path    string // in the image; "" for the whole
	Line    int    // in that file, 0 if it has none
	Field   string // the setting, "" if none
	Text    string
	Cure    string
	Warning bool // it may be meant so
}

// CheckOptions say what a tree is checked for.
type CheckOptions struct {
	Name string // of the app, which is the unit prefix
	Arch string // the host's, as GOARCH names it
}

// Check finds what portabled would ignore, refuse or fail to start.
func (t *Tree) Check(ctx context.Context, o CheckOptions) []Problem {
	return nil
}
