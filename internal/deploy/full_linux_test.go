package deploy

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"devbox/internal/hint"
	"devbox/test/smalldisk"
)

// A full disk is told as such, with its cure; nothing half-done stays on it,
// and with more space the next build works. Images here have 9 MiB.
func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int64 // of the disk; 0: what the image itself takes
		format  string
		command string // that builds
		needs   string // a program
		says    string
	}{
		{"the stage", 6 << 20, "erofs", `mkdir -p "$DEVBOX_STAGE/usr/share" && cp tree/usr/bin/tool "$DEVBOX_STAGE/usr/share/copy"`, "", "build command"},
		{"an erofs image", 6 << 20, "erofs", "", "", packing},
		{"a squashfs image", 6 << 20, "squashfs", "", "mksquashfs", packing},
		{"what belongs to an image", 0, "erofs", "", "", ".sums"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := exec.LookPath(c.needs); c.needs != "" && err != nil {
				t.Skipf("needs %s", c.needs)
			}
			p := appWithTool(t)
			p.Config.Image.Format, p.Config.Build.Command = c.format, c.command
			disk := smalldisk.Mount(t, 64<<20)
			p.Paths.Cache = disk.Dir
			if c.size == 0 {
				c.size = stat(t, built(t, p)).Sys().(*syscall.Stat_t).Blocks * 512
				if err := os.RemoveAll(filepath.Join(disk.Dir, "apps")); err != nil {
					t.Fatal(err)
				}
			}
			disk.Resize(t, c.size)
			_, err := p.Build(t.Context(), runtime.GOARCH, nil)
			isFull(t, p, err)
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("it does not name %q: %v", c.says, err)
			}
			onlyImages(t, p, 0)
			disk.Resize(t, 64<<20)
			built(t, p)
		})
	}
}

// A copy for the next image that the disk cannot hold is no loss: it goes, and
// so does an image that there is no room for beside the one before.
func TestFullDiskForTheNextImage(t *testing.T) {
	p := appWithTool(t)
	disk := smalldisk.Mount(t, 15<<20)
	p.Paths.Cache = disk.Dir
	built(t, p)
	isFull(t, p, p.prepareNext(t.Context()))
	onlyImages(t, p, 1)
	save(t, p.Config.Dir, "tree/etc/page", "two")
	_, err := p.Build(t.Context(), runtime.GOARCH, nil)
	isFull(t, p, err)
	onlyImages(t, p, 1)

	// Packed over the copy, an image may outgrow what is left.
	disk.Resize(t, 20<<20)
	if err := p.prepareNext(t.Context()); err != nil {
		t.Fatal(err)
	}
	save(t, p.Config.Dir, "tree/etc/large", strings.Repeat("x", 4<<20))
	_, err = p.Build(t.Context(), runtime.GOARCH, nil)
	isFull(t, p, err)
	onlyImages(t, p, 1)
	disk.Resize(t, 64<<20)
	built(t, p)
	onlyImages(t, p, 2)
}

// What a killed devbox was packing is removed by the next one.
func TestHalfAnImageIsRemoved(t *testing.T) {
	p := appWithTool(t)
	built(t, p)
	for _, left := range []string{packing, "." + packing + ".123"} {
		save(t, p.imageDir(), left, "half")
	}
	built(t, p)
	onlyImages(t, p, 1)
}

func isFull(t *testing.T, p *Project, err error) {
	t.Helper()
	if err == nil || !strings.Contains(strings.ToLower(err.Error()), "no space left on device") {
		t.Errorf("got %v, want no space left", err)
	}
	for _, want := range []string{"free some space on the disk of " + p.Paths.Cache, "XDG_CACHE_HOME"} {
		if !strings.Contains(hint.Of(err), want) {
			t.Errorf("the cure is %q, want %q in it", hint.Of(err), want)
		}
	}
}

// onlyImages fails unless the cache holds so many whole images and no other
// content.
func onlyImages(t *testing.T, p *Project, want int) {
	t.Helper()
	images := 0
	err := filepath.WalkDir(p.Paths.Cache, func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil || d.IsDir() || name == "lock":
		case strings.HasSuffix(name, ".raw"):
			images++
			fallthrough
		case strings.HasSuffix(name, ".sums"):
			if st, err := p.images().open(strings.TrimSuffix(path, ".sums")); err != nil || st == nil {
				t.Errorf("%s is not whole: %v", path, err)
			} else {
				st.Close()
			}
		default:
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil || images != want {
		t.Errorf("%d images are left, want %d: %v", images, want, err)
	}
	if _, err := os.Stat(p.imageDir()); err != nil {
		t.Error(err)
	}
}
