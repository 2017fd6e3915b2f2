package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"devbox/internal/sync/delta"
)

// imageStore keeps an app's packed images on the client: the newest to ship,
// the ones before it as bases of deltas. Beside each image lie its sums, so
// that only what changed is ever hashed.
type imageStore struct {
	dir string
	app string
}

// keptImages is how many images stay. The host keeps as many, so a base that
// it has is nearly always here too.
const keptImages = 6

// stored is an image of the store, open for reading.
type stored struct {
	*delta.Source
	digest delta.Digest
	file   *os.File
}

func (s *stored) Close() { s.file.Close() }

func (s imageStore) path(d delta.Digest) string {
	return filepath.Join(s.dir, s.app+"_"+d.Short()+".raw")
}

// add names the packed file after its content and returns its new path.
func (s imageStore) add(packed string, sums *delta.Sums) (string, error) {
	path := s.path(sums.Digest())
	b, err := sums.MarshalBinary()
	if err != nil {
		return "", fmt.Errorf("keep %s: %w", path, err)
	}
	if err := os.WriteFile(path+".sums", b, 0o644); err != nil {
		return "", errors.Join(fmt.Errorf("keep %s: %w", path, err), os.Remove(path+".sums"))
	}
	if err := os.Rename(packed, path); err != nil {
		return "", fmt.Errorf("keep the packed image: %w", err)
	}
	return path, s.dropNext()
}

// A copy of the newest image, made while nobody waits: the next one is packed
// over it, so that only what changed is written.
const nextPrefix = ".next-"

// prepare makes the copy. Nothing of a failed one is left.
func (s imageStore) prepare(ctx context.Context) error {
	base, err := s.latest()
	if err != nil || base == nil {
		return err
	}
	defer base.Close()
	next := filepath.Join(s.dir, nextPrefix+base.digest.Short())
	if err := s.dropNext(); err != nil {
		return err
	}
	f, err := os.OpenFile(next+".tmp", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("prepare the next image: %w", err)
	}
	err = delta.Clone(ctx, f, base.file)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), next)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("prepare the next image: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// claim moves the copy of base to path and reports whether there was one.
func (s imageStore) claim(base *stored, path string) bool {
	return os.Rename(filepath.Join(s.dir, nextPrefix+base.digest.Short()), path) == nil
}

func (s imageStore) dropNext() error {
	left, err := filepath.Glob(filepath.Join(s.dir, nextPrefix+"*"))
	for _, f := range left {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

// images are the store's image files, the newest first.
func (s imageStore) images() ([]string, error) {
	found, err := filepath.Glob(filepath.Join(s.dir, s.app+"_*.raw"))
	if err != nil {
		return nil, err
	}
	age := map[string]int64{}
	for _, p := range found {
		if fi, err := os.Stat(p); err == nil {
			age[p] = fi.ModTime().UnixNano()
		}
	}
	slices.SortFunc(found, func(a, b string) int {
		if age[a] != age[b] {
			if age[a] > age[b] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return found, nil
}

// packing is the name of an image that is being made.
const packing = ".packing"

// prune removes old images, which takes longer than packing the next one, and
// half an image that a killed devbox left.
func (s imageStore) prune() error {
	left, err := filepath.Glob(filepath.Join(s.dir, "*"+packing+"*"))
	for _, f := range left {
		err = errors.Join(err, os.Remove(f))
	}
	if err != nil {
		return fmt.Errorf("remove half an image: %w", err)
	}
	all, err := s.images()
	if err != nil {
		return err
	}
	for _, p := range all[min(keptImages, len(all)):] {
		for _, f := range []string{p, p + ".sums"} {
			if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove an old image: %w", err)
			}
		}
	}
	return nil
}

// latest opens the newest image, or returns nil if there is none.
func (s imageStore) latest() (*stored, error) {
	all, err := s.images()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return s.open(all[0])
}

// open opens an image with its sums, or returns nil if the sums are missing or
// do not belong to it: it can be made again.
func (s imageStore) open(path string) (*stored, error) {
	b, err := os.ReadFile(path + ".sums")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open a kept image: %w", err)
	}
	var sums delta.Sums
	if sums.UnmarshalBinary(b) != nil || s.path(sums.Digest()) != path {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open a kept image: %w", err)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != sums.Size {
		f.Close()
		return nil, err
	}
	return &stored{&delta.Source{ReaderAt: f, Size: sums.Size, Sums: &sums}, sums.Digest(), f}, nil
}

// find opens the first of the named images that the store has, or returns nil.
func (s imageStore) find(digests []string) (*stored, error) {
	for _, text := range digests {
		if text == "" {
			continue
		}
		d, err := delta.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("digest of an image on the host: %w", err)
		}
		if st, err := s.open(s.path(d)); st != nil || err != nil {
			return st, err
		}
	}
	return nil, nil
}

// keepOnly keeps an image of another store, as a link to it, and no other. An
// image is never written to once it has its name.
func (s imageStore) keepOnly(a *Artifact) error {
	old, err := s.images()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	b, err := a.Sums.MarshalBinary()
	if err != nil {
		return err
	}
	path := s.path(a.Digest)
	if !slices.Contains(old, path) {
		if err := os.Link(a.Path, path); err != nil {
			return err
		}
	}
	if err := os.WriteFile(path+".sums", b, 0o644); err != nil {
		return errors.Join(err, os.Remove(path+".sums"))
	}
	for _, p := range old {
		if p == path {
			continue
		}
		for _, f := range []string{p, p + ".sums"} {
			if rerr := os.Remove(f); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}
	return err
}
