package watch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// largeTree has 100,000 files of which 99,000 are ignored: most in ignored
// folders, some by their names in folders that are watched.
func largeTree(b *testing.B) string {
	b.Helper()
	root := b.TempDir()
	files(b, root, map[string]string{".git/HEAD": "ref", ".gitignore": "node_modules/\n*.o\n"})
	for i := range 100_000 {
		var name string
		switch {
		case i < 1_000:
			name = fmt.Sprintf("src/pkg%d/file%d.go", i%50, i)
		case i < 11_000:
			name = fmt.Sprintf("src/pkg%d/file%d.o", i%50, i)
		default:
			name = fmt.Sprintf("web/node_modules/p%d/lib/file%d.js", i%3000, i)
		}
		p := filepath.Join(root, name)
		must(b, os.MkdirAll(filepath.Dir(p), 0o755))
		must(b, os.WriteFile(p, make([]byte, 2000), 0o644))
	}
	return root
}

func BenchmarkReady(b *testing.B) {
	root := largeTree(b)
	for b.Loop() {
		w, err := New(context.Background(), Options{Root: root})
		must(b, err)
		b.StopTimer()
		folders, files := w.Watched()
		b.ReportMetric(float64(folders), "folders")
		b.ReportMetric(float64(files), "files")
		must(b, w.Close())
		b.StartTimer()
	}
}

// BenchmarkFirst is the time from a save to the batch that tells it.
func BenchmarkFirst(b *testing.B) {
	root := b.TempDir()
	name := filepath.Join(root, "main.go")
	write(b, name, "")
	w := newWatcher(b, Options{Root: root})
	for i := 0; b.Loop(); i++ {
		write(b, name, fmt.Sprint("edit ", i))
		batch := next(b, w)
		batch.Commit()
		b.StopTimer()
		time.Sleep(10 * time.Millisecond) // events of this save that come late
		b.StartTimer()
	}
}
