package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"devbox/internal/hint"
)

// zstdLevel is 3: level 15 makes an image a tenth smaller and takes fifty times
// as long.
const zstdLevel = "3"

// ToolError is a failed run of an outside program.
type ToolError struct {
	Args   []string
	Stderr string
	Err    error // *exec.ExitError if the program ran
}

func (e *ToolError) Error() string {
	if text := strings.TrimSpace(e.Stderr); text != "" {
		return fmt.Sprintf("%s: %v: %s", e.Args[0], e.Err, text)
	}
	return fmt.Sprintf("%s: %v", e.Args[0], e.Err)
}

func (e *ToolError) Unwrap() error { return e.Err }

// Is tells a full disk by what the program printed.
func (e *ToolError) Is(target error) bool {
	return target == syscall.ENOSPC && hint.SaysFull(e.Stderr)
}

// packSquashfs streams the tree to mksquashfs as a tar archive, so that nothing
// is copied and owners need no root.
func packSquashfs(ctx context.Context, tree *Tree, f *os.File) error {
	args := []string{"mksquashfs", "-", f.Name(), "-tar", "-noappend", "-reproducible", "-all-root", "-all-time", "0", "-mkfs-time", "0",
		"-root-mode", "0755", "-no-xattrs", "-comp", "zstd", "-Xcompression-level", zstdLevel, "-no-progress", "-quiet"}
	tool, err := exec.LookPath(args[0])
	if err != nil {
		return hint.Errorf("install squashfs-tools, or set the image's format to erofs, which needs no tool", "mksquashfs is not installed")
	}
	cmd := exec.CommandContext(ctx, tool, args[1:]...)
	// mksquashfs refuses its time options when this is set.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SOURCE_DATE_EPOCH=") })
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return &ToolError{args, "", err}
	}
	fed := tree.writeTar(in)
	if err := in.Close(); fed == nil {
		fed = err
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case fed != nil && !errors.Is(fed, syscall.EPIPE): // then mksquashfs only misses the rest
		return fed
	case strings.Contains(stderr.String(), "-tar"):
		return hint.Wrap(&ToolError{args, firstLine(stderr.String()), err}, "install squashfs-tools 4.5 or later, or set the image's format to erofs")
	case err != nil:
		return &ToolError{args, stderr.String(), err}
	}
	return fed
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// writeTar writes the tree as a tar archive, in the order of its paths.
func (t *Tree) writeTar(w io.Writer) error {
	out := tar.NewWriter(w)
	for _, e := range t.entries {
		head := &tar.Header{Name: e.Path, Mode: int64(unixMode(e.Mode) & 0o7777), ModTime: time.Unix(0, 0), Format: tar.FormatGNU}
		switch e.Mode.Type() {
		case fs.ModeDir:
			head.Typeflag, head.Name = tar.TypeDir, e.Path+"/"
		case fs.ModeSymlink:
			head.Typeflag, head.Linkname = tar.TypeSymlink, e.Target
		default:
			head.Typeflag, head.Size = tar.TypeReg, e.Size
		}
		if err := out.WriteHeader(head); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		if head.Size == 0 {
			continue
		}
		if err := copyWhole(out, e); err != nil {
			return err
		}
	}
	return out.Close()
}

func copyWhole(w io.Writer, e *Entry) error {
	r, err := e.openSized()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.CopyN(w, r, e.Size)
	if errors.Is(err, io.EOF) || err == nil && n != e.Size {
		return changed(e)
	}
	return err
}
