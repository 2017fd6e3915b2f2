package deploy

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"devbox/internal/config"
)

// appWithTool is a project whose image holds a big file and a small one.
func appWithTool(t *testing.T) *Project {
	dir := t.TempDir()
	for _, d := range []string{"tree/usr/lib/systemd/system", "tree/usr/bin", "tree/etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	save(t, dir, "tree/usr/lib/systemd/system/shop.service", "[Service]\nExecStart=/usr/bin/tool\n")
	save(t, dir, "tree/etc/page", "one")
	tool := append(program(t), make([]byte, 9<<20)...)
	rand.New(rand.NewSource(1)).Read(tool[len(tool)-9<<20:])
	save(t, dir, "tree/usr/bin/tool", string(tool))
	if err := os.Chmod(filepath.Join(dir, "tree/usr/bin/tool"), 0o755); err != nil {
		t.Fatal(err)
	}
	return &Project{
		Config: &config.Config{Name: "shop", Dir: dir, Image: config.Image{Tree: "tree", Format: "erofs"}},
		Paths:  Paths{Cache: t.TempDir()},
	}
}

// program is the least that counts as a static program of this architecture.
func program(t *testing.T) []byte {
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Phentsize: 56, Shentsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Packed over what was prepared, an image is the same as packed whole, and the
// copy is used up; without one, or after another devbox packed, it is whole.
func TestBuildOverThePreparedImage(t *testing.T) {
	p := appWithTool(t)
	var path string // of the last image
	build := func() (string, []byte) {
		t.Helper()
		a, err := p.Build(t.Context(), runtime.GOARCH, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		path = a.Path
		data, err := os.ReadFile(a.Path)
		if err != nil {
			t.Fatal(err)
		}
		return a.Version(), data
	}
	whole := func() (string, []byte) {
		t.Helper()
		cache := p.Paths.Cache
		defer func() { p.Paths.Cache = cache }()
		p.Paths.Cache = t.TempDir()
		return build()
	}
	next := func() []string {
		left, err := filepath.Glob(filepath.Join(p.imageDir(), nextPrefix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
	build()
	for _, page := range []string{"two", "three", "three", "a longer page"} {
		if err := p.prepareNext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(next()) != 1 {
			t.Fatalf("prepared %q", next())
		}
		prepared := stat(t, next()[0])
		save(t, p.Config.Dir, "tree/etc/page", page)
		version, data := build()
		if !os.SameFile(prepared, stat(t, path)) {
			t.Errorf("%s: not packed over the prepared copy", page)
		}
		wantVersion, want := whole()
		if version != wantVersion || !bytes.Equal(data, want) {
			t.Errorf("%s: over the prepared one %s, whole %s", page, version, wantVersion)
		}
		if len(next()) != 0 {
			t.Errorf("%s: left %q", page, next())
		}
	}
}

// A copy that another process left may be of before a power cut: it is not
// trusted, and goes.
func TestBuildIgnoresAStrangersCopy(t *testing.T) {
	p := appWithTool(t)
	a, err := p.Build(t.Context(), runtime.GOARCH, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	left := filepath.Join(p.imageDir(), nextPrefix+a.Version())
	if err := os.WriteFile(left, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	copied := stat(t, left)
	again, err := p.Build(t.Context(), runtime.GOARCH, nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if again.Version() != a.Version() || exists(left) || os.SameFile(copied, stat(t, again.Path)) {
		t.Errorf("version %s after %s, copy still there: %t", again.Version(), a.Version(), exists(left))
	}
}

func TestPrepareThatIsCutShortLeavesNoCopy(t *testing.T) {
	p := appWithTool(t)
	a, err := p.Build(t.Context(), runtime.GOARCH, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.prepareNext(ctx); err == nil {
		return // this file system clones at once: there is no half a copy
	}
	if exists(filepath.Join(p.imageDir(), nextPrefix+a.Version())) || p.prepared {
		t.Error("half a copy counts as prepared")
	}
}

func TestBuildRemovesOldImages(t *testing.T) {
	p := appWithTool(t)
	for i := range keptImages + 2 {
		save(t, p.Config.Dir, "tree/etc/page", strconv.Itoa(i))
		a, err := p.Build(t.Context(), runtime.GOARCH, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
	}
	// The newest comes after the others are counted.
	if all, err := p.images().images(); err != nil || len(all) != keptImages+1 {
		t.Errorf("%d images left, %v", len(all), err)
	}
}

// built builds and returns the image's path.
func built(t *testing.T, p *Project) string {
	t.Helper()
	a, err := p.Build(t.Context(), runtime.GOARCH, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	return a.Path
}

func stat(t *testing.T, name string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
