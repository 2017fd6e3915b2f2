package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"devbox/internal/config"
	"devbox/internal/image"
	"devbox/internal/protocol"
	"devbox/internal/sync/delta"
)

// Artifact is a packed image on the client.
type Artifact struct {
	Path     string // NAME_VERSION.raw in the image store
	Digest   delta.Digest
	Size     int64 // bytes
	Sums     *delta.Sums
	Source   string // git revision it was built from
	Warnings []image.Problem

	tree *image.Tree
	plan *delta.Plan // against prev, or against nothing if there is no prev
	prev *stored
	file *os.File // what plan reads
}

// Version is the part of the image's file name that tells it from others.
func (a *Artifact) Version() string { return a.Digest.Short() }

// Close lets go of the images that the artifact's delta reads.
func (a *Artifact) Close() {
	if a.prev != nil {
		a.prev.Close()
	}
	if a.file != nil {
		a.file.Close()
	}
}

// Build runs the build command for a host of Go architecture arch, stages and
// checks the tree and packs it. It returns [Problems] when the image would not
// work. When ctx ends, the build command is killed and nothing is kept, nor
// when the disk is full. ended, if not nil, is told of each phase as it ends,
// also of one that fails: "build", "stage", "pack", "digest".
func (p *Project) Build(ctx context.Context, arch string, ended func(protocol.Phase)) (_ *Artifact, err error) {
	defer func() { err = p.Paths.fullCache(err) }()
	unlock, err := lock(ctx, filepath.Join(p.imageDir(), "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	a := &Artifact{}
	clock := time.Now()
	lap := func(name string) {
		if ended != nil {
			ended(protocol.Phase{Name: name, Took: time.Since(clock)})
		}
		clock = time.Now()
	}
	// What does not need the build is done while it runs.
	source, pruned := make(chan string, 1), make(chan error, 1)
	go func() { source <- p.revision(ctx) }()
	go func() { pruned <- p.images().prune() }()
	built, err := p.runBuild(ctx, arch)
	if perr := <-pruned; err == nil { // nothing goes on in the store without the lock
		err = perr
	}
	lap("build")
	if err != nil {
		return nil, err
	}
	a.Source = <-source
	tree, warnings, err := p.stageChecked(ctx, built, arch)
	lap("stage")
	if err != nil {
		return nil, err
	}
	a.Warnings, a.tree = warnings, tree
	if err := p.pack(ctx, tree, a, lap); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// stageChecked stages what was built and returns what in it may be meant so, or
// [Problems].
func (p *Project) stageChecked(ctx context.Context, built, arch string) (*image.Tree, []image.Problem, error) {
	tree, err := p.stage(built)
	if err != nil {
		return nil, nil, err
	}
	found := tree.Check(ctx, p.checkOptions(arch))
	serious := slices.DeleteFunc(slices.Clone(found), func(x image.Problem) bool { return x.Warning })
	if len(serious) > 0 {
		return nil, nil, Problems(serious)
	}
	return tree, found, nil
}

func (p *Project) checkOptions(arch string) image.CheckOptions {
	o := image.CheckOptions{Name: p.Config.Name, Arch: arch}
	if len(p.Config.State.Check) > 0 {
		o.StateCheck = p.Config.State.Check[0]
	}
	return o
}

// runBuild runs the user's build command into an empty stage and returns that
// folder: what an earlier build left must not get into this image. One that
// fails leaves nothing there, least of all on a full disk.
func (p *Project) runBuild(ctx context.Context, arch string) (stage string, err error) {
	if stage, err = p.newStage(arch); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(stage))
		}
	}()
	c := p.Config
	if c.Build.Command == "" {
		return stage, nil
	}
	return stage, runBuild(ctx, c.Build.Command, c.Abs(c.Build.Dir), []string{
		"GOOS=linux", "GOARCH=" + arch, "CGO_ENABLED=0",
		"DEVBOX_STAGE=" + stage, "DEVBOX_CACHE=" + p.Paths.Cache,
	})
}

// newStage makes an empty folder, of a new name each time: the build of a devbox
// that was killed may still be writing into its own, which goes the next time.
func (p *Project) newStage(arch string) (string, error) {
	if err := os.RemoveAll(p.stages()); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return "", fmt.Errorf("remove what an earlier build left: %w", err)
	}
	err := os.MkdirAll(p.stages(), 0o755)
	if err != nil {
		return "", fmt.Errorf("make the stage: %w", err)
	}
	stage, err := os.MkdirTemp(p.stages(), arch+"-")
	if err == nil {
		err = os.Chmod(stage, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("make the stage: %w", err)
	}
	return stage, nil
}

// stage lays the user's tree over what the build made in a folder, and single
// files over both.
func (p *Project) stage(built string) (*image.Tree, error) {
	c := p.Config
	o := image.Options{Name: c.Name, Dirs: []string{built}}
	if c.Image.Tree != "" {
		o.Dirs = append(o.Dirs, c.Abs(c.Image.Tree))
	}
	for _, f := range c.Image.Files {
		o.Files = append(o.Files, image.File{From: c.Abs(f.From), To: f.To, Mode: fileMode(f)})
	}
	return image.Stage(o)
}

func fileMode(f config.File) fs.FileMode { return fs.FileMode(f.Mode) }

// pack writes the image and names it after its content. Comparing it with the
// image before it yields both its digest and the delta to send.
func (p *Project) pack(ctx context.Context, tree *image.Tree, a *Artifact, lap func(string)) (err error) {
	store := p.images()
	if err := os.MkdirAll(store.dir, 0o755); err != nil {
		return fmt.Errorf("make the image folder: %w", err)
	}
	if a.prev, err = store.latest(); err != nil {
		return err
	}
	fresh := filepath.Join(store.dir, packing)
	defer func() {
		if err != nil {
			os.Remove(fresh) // on a full disk above all
		}
	}()
	packed, err := p.packOver(ctx, store, tree, a.prev, fresh)
	lap("pack")
	if err != nil {
		return err
	}
	defer lap("digest")
	if a.file, err = os.Open(fresh); err != nil {
		return fmt.Errorf("read the packed image: %w", err)
	}
	var base *delta.Source
	if a.prev != nil {
		base = a.prev.Source
	}
	a.plan, err = delta.Compare(ctx, base, &delta.Source{ReaderAt: a.file, Size: packed.Size, Kept: packed.Kept})
	if err != nil {
		return fmt.Errorf("compare with the image before: %w", err)
	}
	a.Size, a.Sums = packed.Size, a.plan.Sums
	a.Digest = a.Sums.Digest()
	a.Path, err = store.add(fresh, a.Sums)
	return err
}

// packOver packs over the prepared copy of prev, if this process made one: what
// another left may be of before a power cut.
func (p *Project) packOver(ctx context.Context, store imageStore, tree *image.Tree, prev *stored, fresh string) (image.Packed, error) {
	if p.prepared && prev != nil && store.claim(prev, fresh) {
		return image.Repack(ctx, tree, fresh)
	}
	return image.Pack(ctx, tree, image.Format(p.Config.Image.Format), fresh)
}

// prepareNext makes the next Build quicker. It is for a process that builds
// again and again, and not to be called during a Build.
func (p *Project) prepareNext(ctx context.Context) (err error) {
	defer func() { err = p.Paths.fullCache(err) }()
	if image.Format(p.Config.Image.Format) != image.Erofs {
		return nil
	}
	unlock, err := lock(ctx, filepath.Join(p.imageDir(), "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	p.prepared = false
	if err := p.images().prepare(ctx); err != nil {
		return err
	}
	p.prepared = true
	return nil
}
