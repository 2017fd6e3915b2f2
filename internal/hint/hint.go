// Package hint lets any error carry its cure: the next thing to type or to
// change. The command line prints it on a line of its own after the error.
package hint

import (
	"errors"
	"fmt"
	"slices"
)

type hinted struct {
	error
	cure string
}

func (h *hinted) Unwrap() error { return h.error }

// Wrap gives err a cure, a lower-case sentence without a full stop such as
// "run `devbox doctor --fix`". It returns nil for a nil err, and err itself for
// an empty cure, so that a cure already in the chain stays visible.
func Wrap(err error, cure string) error {
	if err == nil || cure == "" {
		return err
	}
	return &hinted{err, cure}
}

// Errorf makes an error with a cure from a format as fmt.Errorf takes it.
func Errorf(cure, format string, args ...any) error {
	return &hinted{fmt.Errorf(format, args...), cure}
}

// Of returns the outermost cure in err's chain, or "".
func Of(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.cure
	}
	return ""
}

// All returns the cures of all errors that err joins, each once, in the order
// of the errors' text. Of each single chain it is the outermost, which knows
// best what the caller wanted.
func All(err error) []string {
	var cures []string
	add := func(cure string) {
		if !slices.Contains(cures, cure) {
			cures = append(cures, cure)
		}
	}
	for err != nil {
		switch x := err.(type) { //nolint:errorlint // this is what walks the chain
		case *hinted:
			add(x.cure)
			return cures
		case interface{ Unwrap() []error }:
			for _, part := range x.Unwrap() {
				for _, cure := range All(part) {
					add(cure)
				}
			}
			return cures
		}
		err = errors.Unwrap(err)
	}
	return cures
}
