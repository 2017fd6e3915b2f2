package image

import (
	"context"
	"os"

	"github.com/erofs/go-erofs"
)

func packErofs(ctx context.Context, tree *Tree, f *os.File) error {
	w := erofs.Create(f, erofs.WithBuildTime(0, 0))
	if err := w.CopyFrom(tree.FS()); err != nil {
		return err
	}
	return w.Close()
}
