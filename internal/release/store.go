package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"devbox/internal/image"
	"devbox/internal/sync/delta"
)

const (
	// keepImages is how many images stay beside the running and the previous one,
	// where nobody has said how many releases shall.
	keepImages = 3
	// keepSent is how many images stay that came last, where somebody has: one
	// that was sent is activated soon, or once more.
	keepSent = 2
)

// Names of images that are not, or not yet, an image of their own.
const (
	nextPrefix = ".next-" // .next-VERSION: a synced copy of VERSION's image, to be changed in place
	tempPrefix = ".recv-" // being written; locked by the process that writes it
)

// versions lists the images, newest first.
func (a *app) versions() ([]string, error) {
	entries, err := os.ReadDir(a.images())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	age := map[string]time.Time{}
	var all []string
	for _, e := range entries {
		rest, ok := strings.CutSuffix(e.Name(), ".raw")
		version, ours := strings.CutPrefix(rest, a.name+"_")
		info, err := e.Info()
		if !ok || !ours || err != nil {
			continue
		}
		age[version] = info.ModTime()
		all = append(all, version)
	}
	slices.SortFunc(all, func(x, y string) int { return age[y].Compare(age[x]) })
	return all, nil
}

// digests lists the images that can serve as base of a delta, newest first.
func (a *app) digests() ([]string, error) {
	versions, err := a.versions()
	if err != nil {
		return nil, err
	}
	var all []string
	for _, v := range versions {
		if sums := a.knownSums(v); sums != nil {
			all = append(all, sums.Digest().String())
		}
	}
	return all, nil
}

// knownSums reads the block sums kept beside an image; nil if there are none or
// they are not that image's, as after a power cut.
func (a *app) knownSums(version string) *delta.Sums {
	data, err := os.ReadFile(a.sums(version))
	if err != nil {
		return nil
	}
	var sums delta.Sums
	if sums.UnmarshalBinary(data) != nil || sums.Digest().Short() != version {
		return nil
	}
	info, err := os.Stat(a.image(version))
	if err != nil || info.Size() != sums.Size {
		return nil
	}
	return &sums
}

// errNoImage says that an image is not on this host.
var errNoImage = errors.New("no such image on this host")

// sumsOf returns the block sums of the image with this digest, computing them
// if they were lost.
func (a *app) sumsOf(ctx context.Context, digest string) (*delta.Sums, error) {
	version := short(digest)
	sums := a.knownSums(version)
	if sums == nil {
		f, err := os.Open(a.image(version))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s", errNoImage, version)
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if sums, err = delta.Sum(ctx, f, info.Size()); err != nil {
			return nil, err
		}
		if sums.Digest().String() == digest {
			if err := a.keepSums(version, sums); err != nil {
				return nil, err
			}
		}
	}
	if sums.Digest().String() != digest {
		return nil, fmt.Errorf("%w: %s (the file of that name is another one)", errNoImage, version)
	}
	return sums, nil
}

// keepSums writes the sums of an image beside it, unsynced: they can be
// computed again.
func (a *app) keepSums(version string, sums *delta.Sums) error {
	data, err := sums.MarshalBinary()
	if err != nil {
		return err
	}
	temp := a.sums(version) + ".tmp"
	if err := os.WriteFile(temp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, a.sums(version))
}

// openImage opens an image. One that is damaged counts as one that is not there:
// without its sums it is found out, and sent again.
func (a *app) openImage(digest string) (*image.Image, error) {
	version := short(digest)
	img, err := image.Open(a.image(version))
	switch {
	case errors.Is(err, image.ErrBroken):
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", errNoImage, version, err), removeIfThere(a.sums(version)))
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s", errNoImage, version)
	}
	return img, err
}

// collect deletes the images and the records that nobody needs, and what a
// killed process left.
func (a *app) collect(st state) error {
	versions, err := a.versions()
	if err != nil {
		return err
	}
	history, err := a.history(st)
	if err != nil {
		return err
	}
	keepers := st.keepers(history)
	keep := map[string]bool{}
	for _, r := range keepers {
		keep[short(r.Digest)] = true
	}
	errs := []error{a.forgetOld(history, keepers), a.collectSnapshots(st, history, keep)}
	others := 0
	for i, v := range versions {
		if keep[v] {
			continue
		}
		if others++; st.Keep == 0 && others <= keepImages || st.Keep > 0 && i < keepSent {
			continue
		}
		// In this order nothing is left over if it is interrupted: the image is
		// what is looked for.
		errs = append(errs, removeIfThere(a.sums(v)), removeIfThere(a.image(v)))
	}
	current := ""
	if st.Current != nil {
		current = nextPrefix + short(st.Current.Digest)
	}
	entries, err := os.ReadDir(a.images())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(a.images(), e.Name())
		stale := strings.HasPrefix(e.Name(), nextPrefix) && e.Name() != current ||
			strings.HasPrefix(e.Name(), tempPrefix) && abandoned(name)
		if stale {
			errs = append(errs, removeIfThere(name))
		}
	}
	return errors.Join(errs...)
}

// abandoned says whether no process holds the lock on a temporary image.
func abandoned(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// temp makes a temporary image that collect leaves alone while it is open.
func (a *app) temp() (*os.File, error) {
	f, err := os.CreateTemp(a.images(), tempPrefix+"*")
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	return f, nil
}
