// Package homeless gives a process without $HOME one, before Lima's packages
// look for it: their initialisation panics without. Go initialises packages
// that are ready in the order of their import paths (The Go Programming
// Language Specification, "Package initialization"), so importing this one is
// enough. A service or a cron job may well have no $HOME.
package homeless

import (
	"os"
	"os/user"
)

func init() {
	if os.Getenv("HOME") != "" {
		return
	}
	home := "/"
	if u, err := user.Current(); err == nil && u.HomeDir != "" {
		home = u.HomeDir
	}
	os.Setenv("HOME", home)
}
