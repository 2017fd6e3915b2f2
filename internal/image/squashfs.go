package image

import (
	"context"
	"errors"
	"os"
)

func packSquashfs(ctx context.Context, tree *Tree, f *os.File) error {
	return errors.New("squashfs cannot be packed yet")
}
