package vm

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"devbox/internal/hint"
)

// limaBase chooses what a new machine boots from: the image that the user asked
// for, else Debian's pinned cloud image, else, where Debian's server cannot be
// reached, a disk built from packages.
type limaBase struct {
	spec   Spec
	goarch string
	client *http.Client
	// build is BuildDisk.
	build func(context.Context, DiskOptions, Progress) (*Disk, error)
}

// probeTimeout is how long devbox waits for Debian's server before it takes it
// to be out of reach.
const probeTimeout = 8 * time.Second

func (b limaBase) choose(ctx context.Context, p Progress) (limaImage, error) {
	if base, ok := b.spec.Base[b.goarch]; ok && base.URL != "" {
		return b.asked(base, p)
	}
	if len(b.spec.Base) > 0 {
		return limaImage{}, hint.Errorf("add an image and its digest for "+b.goarch+", or leave machine.base out to get Debian's own",
			"machine.base: no image for %s, the architecture of this machine", b.goarch)
	}
	pinned, newest, err := limaDefaultImages(b.goarch)
	if err != nil {
		return limaImage{}, err
	}
	if limaCached(pinned.Location) {
		p.Step("use the Debian 13 cloud image that Lima has in its cache")
		return pinned, nil
	}
	status, err := b.head(ctx, pinned.Location)
	switch {
	case err == nil && status == http.StatusOK:
		p.Step("use Debian's cloud image %s", path.Base(pinned.Location))
		return pinned, nil
	case err == nil && (status == http.StatusNotFound || status == http.StatusGone):
		p.Step("Debian no longer has the pinned image %s: use its newest", path.Base(pinned.Location))
		newest.Digest, err = b.newestDigest(ctx, newest.Location)
		return newest, err
	case ctx.Err() != nil:
		return limaImage{}, context.Cause(ctx)
	case err == nil:
		err = fmt.Errorf("HTTP status %d", status)
	}
	u, _ := url.Parse(pinned.Location)
	p.Step("%s cannot be reached (%v): build the base system from packages", u.Host, shortCause(err))
	disk, err := b.build(ctx, DiskOptions{Arch: b.goarch, CacheDir: b.spec.CacheDir}, p)
	if err != nil {
		return limaImage{}, fmt.Errorf("no Debian 13 to boot from: %s cannot be reached, and building it: %w", u.Host, err)
	}
	return limaImage{
		Location: disk.Image, Digest: disk.Digest,
		Kernel: disk.Kernel, Initrd: disk.Initrd, Cmdline: disk.Cmdline,
	}, nil
}

// shortCause drops the method and address that net/http puts before the cause.
func shortCause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

var digestRE = regexp.MustCompile(`sha(?:256:[0-9a-f]{64}|512:[0-9a-f]{128})\b`)

// asked is the image of machine.base, checked as far as that needs no download.
func (b limaBase) asked(base BaseImage, p Progress) (limaImage, error) {
	field := "machine.base." + b.goarch
	if digestRE.FindString(base.Digest) != base.Digest || base.Digest == "" {
		return limaImage{}, hint.Errorf("write sha256: or sha512: and the hexadecimal checksum that the image's publisher gives",
			"%s: %q is not a digest", field, base.Digest)
	}
	if filepath.IsAbs(base.URL) {
		have, err := fileDigest(base.URL, base.Digest)
		if err != nil {
			return limaImage{}, hint.Wrap(fmt.Errorf("%s: %w", field, err), "give the path of a disk image that you can read")
		}
		if have != base.Digest {
			return limaImage{}, wrongDigest(field, base, have)
		}
	}
	p.Step("use the image of %s: %s", field, base.URL)
	return limaImage{Location: base.URL, Digest: base.Digest}, nil
}

func wrongDigest(field string, base BaseImage, have string) error {
	return hint.Errorf("if you trust the file, write its digest into "+field+"; if not, get it again",
		"%s: %s has the digest %s, wanted %s", field, base.URL, have, base.Digest)
}

// createError makes the failure of `limactl create` one of machine.base where
// Lima found another digest than the one it was given.
func (b limaBase) createError(err error, image limaImage) error {
	var failed *LimactlError
	if !errors.As(err, &failed) {
		return err
	}
	field := "the pinned image"
	base, asked := b.spec.Base[b.goarch]
	if asked {
		field = "machine.base." + b.goarch
	} else {
		base = BaseImage{URL: image.Location, Digest: image.Digest}
	}
	for _, have := range digestRE.FindAllString(failed.Stderr, -1) {
		if have != image.Digest {
			return wrongDigest(field, base, have)
		}
	}
	if asked {
		return hint.Wrap(fmt.Errorf("%s: %s: %w", field, base.URL, err), "check the address, and that this machine reaches it")
	}
	return err
}

// minFree is what a new machine writes before it does anything: the base image
// and the first packages of its own.
const minFree = 2 << 30

// checkFree refuses to begin what the disk under dir cannot hold.
func checkFree(dir string, want uint64, cure string) error {
	for ; ; dir = filepath.Dir(dir) {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		if errors.Is(err, os.ErrNotExist) && dir != filepath.Dir(dir) {
			continue // not made yet: the folder above it has the same disk
		}
		if err != nil {
			return fmt.Errorf("ask for free space: %s: %w", dir, err)
		}
		if free := s.Bavail * uint64(s.Bsize); free < want {
			return hint.Errorf(cure, "%s has %d MiB free, a machine needs %d MiB to begin with", dir, free>>20, want>>20)
		}
		return nil
	}
}

// roomFor is the cure of a full disk under dir, which a variable names.
func roomFor(dir, variable string) string {
	return fmt.Sprintf("free some space on the disk of %s, or set %s to a folder on another one", dir, variable)
}

func (b limaBase) head(ctx context.Context, location string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, location, nil)
	if err != nil {
		return 0, err
	}
	res, err := b.client.Do(req)
	if err != nil {
		return 0, err
	}
	res.Body.Close()
	return res.StatusCode, nil
}

// newestDigest reads SHA512SUMS beside the image.
func (b limaBase) newestDigest(ctx context.Context, location string) (string, error) {
	dir, name := path.Split(location)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, dir+"SHA512SUMS", nil)
	if err != nil {
		return "", err
	}
	res, err := b.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("read the digest of %s: %w", name, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("read the digest of %s: %s: %s", name, req.URL, res.Status)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("read the digest of %s: %w", name, err)
	}
	return findSum(string(text), name)
}

func findSum(sums, name string) (string, error) {
	for line := range strings.Lines(sums) {
		fields := strings.Fields(line)
		if len(fields) != 2 || strings.TrimPrefix(fields[1], "*") != name {
			continue
		}
		if digest := "sha512:" + fields[0]; digestRE.FindString(digest) == digest {
			return digest, nil
		}
	}
	return "", fmt.Errorf("SHA512SUMS does not name %s", name)
}

// limaCached says whether Lima has downloaded an address before. It keeps
// downloads under the user's cache folder by the hash of their address.
func limaCached(location string) bool {
	cache, err := os.UserCacheDir()
	if err != nil {
		return false
	}
	sum := sha256.Sum256([]byte(location))
	_, err = os.Stat(filepath.Join(cache, "lima", "download", "by-url-sha256", hex.EncodeToString(sum[:]), "data"))
	return err == nil
}

// fileDigest is the digest of a file, by the same algorithm as like's.
func fileDigest(path, like string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var h hash.Hash
	algorithm, _, _ := strings.Cut(like, ":")
	if algorithm == "sha256" {
		h = sha256.New()
	} else {
		h = sha512.New()
	}
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return algorithm + ":" + hex.EncodeToString(h.Sum(nil)), nil
}
