package deploy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/sync/delta"
)

// put adds an image to the store as if it had been packed age ago.
func put(t *testing.T, s imageStore, content []byte, age time.Duration) string {
	t.Helper()
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	packed := filepath.Join(s.dir, ".packing")
	if err := os.WriteFile(packed, content, 0o644); err != nil {
		t.Fatal(err)
	}
	then := time.Now().Add(-age)
	if err := os.Chtimes(packed, then, then); err != nil {
		t.Fatal(err)
	}
	sums, err := delta.Sum(t.Context(), bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	path, err := s.add(packed, sums)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStoreKeepsTheNewest(t *testing.T) {
	s := imageStore{dir: t.TempDir(), app: "shop"}
	other := put(t, imageStore{dir: s.dir, app: "other"}, []byte("other"), 99*time.Hour)
	var paths []string // the newest first
	for i := range keptImages + 3 {
		age := time.Duration(keptImages+3-i) * time.Hour
		paths = append([]string{put(t, s, fmt.Appendf(nil, "image %d", i), age)}, paths...)
	}
	if err := s.prune(); err != nil {
		t.Fatal(err)
	}
	got, err := s.images()
	if err != nil || !slices.Equal(got, paths[:keptImages]) {
		t.Errorf("kept %q, %v; want %q", got, err, paths[:keptImages])
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "shop_*.sums")); len(left) != keptImages {
		t.Errorf("%d files of sums for %d images", len(left), keptImages)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("another app's image is gone: %v", err)
	}
	latest, err := s.latest()
	if err != nil || latest == nil || s.path(latest.digest) != paths[0] {
		t.Fatalf("latest is %v, %v", latest, err)
	}
	latest.Close()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestStoreTrustsNothingDamaged(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, path string)
	}{
		{"no sums", func(t *testing.T, path string) { os.Remove(path + ".sums") }},
		{"sums cut off", func(t *testing.T, path string) { os.Truncate(path+".sums", 20) }},
		{"sums empty", func(t *testing.T, path string) { os.Truncate(path+".sums", 0) }},
		{"sums of another image", func(t *testing.T, path string) {
			other := put(t, imageStore{dir: t.TempDir(), app: "shop"}, []byte("other"), 0)
			os.Rename(other+".sums", path+".sums")
		}},
		{"image cut off", func(t *testing.T, path string) { os.Truncate(path, 3) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := imageStore{dir: t.TempDir(), app: "shop"}
			path := put(t, s, []byte("an image"), 0)
			if st, err := s.latest(); err != nil || st == nil {
				t.Fatalf("before: %v, %v", st, err)
			} else {
				st.Close()
			}
			c.damage(t, path)
			if st, err := s.latest(); err != nil || st != nil {
				t.Errorf("got %v, %v; want neither an image nor an error", st, err)
			}
		})
	}
}

func TestStoreFindsTheFirstThatItHas(t *testing.T) {
	s := imageStore{dir: t.TempDir(), app: "shop"}
	digest := func(content string) string {
		sums, err := delta.Sum(t.Context(), strings.NewReader(content), int64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		return sums.Digest().String()
	}
	put(t, s, []byte("a"), 0)
	put(t, s, []byte("b"), 0)
	for _, c := range []struct {
		name    string
		digests []string
		want    string // content
		err     bool
	}{
		{"none asked", nil, "", false},
		{"none there", []string{digest("c")}, "", false},
		{"the first", []string{"", digest("c"), digest("b"), digest("a")}, "b", false},
		{"a host that sends nonsense", []string{"../../etc/passwd"}, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := s.find(c.digests)
			if (err != nil) != c.err {
				t.Fatalf("error %v", err)
			}
			content := ""
			if got != nil {
				defer got.Close()
				b := make([]byte, got.Size)
				got.ReadAt(b, 0)
				content = string(b)
			}
			if content != c.want {
				t.Errorf("found %q, want %q", content, c.want)
			}
		})
	}
}
