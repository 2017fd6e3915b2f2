package release

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
	"devbox/internal/sync/delta"
)

func stream(t *testing.T, b built, base *built) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := encode(&out, b, base); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func packed(t *testing.T, page string) built {
	t.Helper()
	path, size, sums := packUnits(t, page, unitsOne)
	return built{path, sums.Digest().String(), size, sums}
}

func files(t *testing.T, root string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, stateDir, "bowl/images"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestReceiveLeavesNothingOnError(t *testing.T) {
	f := newFake(t)
	h := New(f, f.root)
	one, two := packed(t, "one"), packed(t, "two")
	good := protocol.Receive{App: "bowl", Digest: one.digest, Size: one.size}
	whole := stream(t, one, nil)
	tests := []struct {
		name string
		req  func(*protocol.Receive)
		data []byte
		code string
		want error
	}{
		{"cut off", nil, whole[:len(whole)-1], "", nil},
		{"nothing", nil, nil, "", nil},
		{"garbage", nil, bytes.Repeat([]byte("x"), 4096), "", delta.ErrCorrupt},
		{"a bit is flipped", nil, flip(whole), "", delta.ErrDigest},
		{"another image than announced", nil, stream(t, two, nil), "", delta.ErrDigest},
		{"larger than announced", func(r *protocol.Receive) { r.Size = 4096 }, whole, "", delta.ErrTooLarge},
		{"smaller than announced", func(r *protocol.Receive) { r.Size += 4096 }, whole, "", nil},
		{"unknown base", func(r *protocol.Receive) { r.Base = two.digest }, whole, protocol.CodeUnknownBase, nil},
	}
	for _, tt := range tests {
		req := good
		if tt.req != nil {
			tt.req(&req)
		}
		err := h.Receive(context.Background(), req, bytes.NewReader(tt.data), nil)
		var coded *CodedError
		switch {
		case err == nil:
			t.Errorf("%s: no error", tt.name)
		case tt.want != nil && !errors.Is(err, tt.want):
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		case tt.code != "" && (!errors.As(err, &coded) || coded.Code != tt.code):
			t.Errorf("%s: %v has no code %s", tt.name, err, tt.code)
		}
		if left := files(t, f.root); len(left) > 0 {
			t.Errorf("%s: left %v", tt.name, left)
		}
	}
	rest := bytes.NewReader(append(slices.Clone(whole), "what follows"...))
	if err := h.Receive(context.Background(), good, rest, nil); err != nil || rest.Len() != len("what follows") {
		t.Errorf("good: %v, %d bytes left", err, rest.Len())
	}
}

func flip(b []byte) []byte {
	b = slices.Clone(b)
	b[len(b)-len(b)/4] ^= 1
	return b
}

// A delta is applied in place to the copy that was prepared, and without one
// gives the same.
// One image at a time comes to its name: between the look for another one of
// that name and the rename, a second session could put it there.
func TestReceiveWaitsForItsTurn(t *testing.T) {
	f := newFake(t)
	h := New(f, f.root)
	one := packed(t, "one")
	a, err := h.open("bowl")
	must(t, err)
	must(t, os.MkdirAll(a.images(), 0o755))
	unlock, err := a.lockImages()
	must(t, err)
	done := make(chan error, 1)
	go func() {
		done <- h.Receive(context.Background(), protocol.Receive{App: "bowl", Digest: one.digest, Size: one.size}, bytes.NewReader(stream(t, one, nil)), nil)
	}()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	if _, err := os.Stat(a.image(short(one.digest))); err == nil {
		t.Error("the image has its name before its turn")
	}
	unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestReceiveIntoThePreparedCopy(t *testing.T) {
	f, h, _ := first(t)
	ctx := context.Background()
	one := packed(t, "one")
	if err := h.Prepare(ctx, "bowl"); err != nil {
		t.Fatal(err)
	}
	next := nextPrefix + short(one.digest)
	if got := files(t, f.root); !slices.Contains(got, next) {
		t.Fatalf("prepared nothing: %v", got)
	}
	inode := func(name string) os.FileInfo {
		info, err := os.Stat(filepath.Join(f.root, stateDir, "bowl/images", name))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	prepared := inode(next)
	for i, page := range []string{"two", "three"} {
		b := packed(t, page)
		req := protocol.Receive{App: "bowl", Digest: b.digest, Size: b.size, Base: one.digest}
		if err := h.Receive(ctx, req, bytes.NewReader(stream(t, b, &one)), nil); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(b.path)
		if err != nil {
			t.Fatal(err)
		}
		name := "bowl_" + short(b.digest) + ".raw"
		got, err := os.ReadFile(filepath.Join(f.root, stateDir, "bowl/images", name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another image, %v", page, err)
		}
		if in := os.SameFile(prepared, inode(name)); in != (i == 0) {
			t.Errorf("%s: written in place: %v", page, in)
		}
	}
	if got := files(t, f.root); slices.ContainsFunc(got, func(n string) bool { return strings.HasPrefix(n, ".") }) {
		t.Errorf("left %v", got)
	}
}

// After a power cut sums may be lost or empty; the image is good, they are made again.
func TestLostSums(t *testing.T) {
	for _, text := range []string{"", "gone", "\x00\x00"} {
		f, h, digest := first(t)
		sums := filepath.Join(f.root, stateDir, "bowl/images/bowl_"+short(digest)+".sums")
		if text == "gone" {
			if err := os.Remove(sums); err != nil {
				t.Fatal(err)
			}
		} else {
			f.write(strings.TrimPrefix(sums, f.root), text)
		}
		w, err := h.Welcome(context.Background(), "bowl")
		if err != nil || w.Current != digest || !slices.Equal(w.Images, []string{digest}) {
			t.Errorf("sums %q: %+v, %v", text, w, err)
		}
	}
}

func TestCollectKeepsWhatIsNeeded(t *testing.T) {
	f, h, one := first(t)
	var digests []string
	for _, page := range []string{"a", "b", "c", "d", "e"} {
		digests = append(digests, f.put(h, page, unitsOne))
	}
	// What a killed process left, and a copy of an image that no longer runs.
	f.write(filepath.Join(stateDir, "bowl/images", tempPrefix+"dead"), "x")
	f.write(filepath.Join(stateDir, "bowl/images", nextPrefix+short(one)), "x")
	held, err := os.Create(filepath.Join(f.root, stateDir, "bowl/images", tempPrefix+"alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	a, err := h.open("bowl")
	if err != nil {
		t.Fatal(err)
	}
	mine, err := a.temp()
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	if r, err := f.activate(h, digests[0], protocol.Settings{}); err != nil || r.Outcome != protocol.Committed {
		t.Fatalf("%+v %v", r, err)
	}
	w, err := h.Welcome(context.Background(), "bowl")
	if err != nil {
		t.Fatal(err)
	}
	// The running one (digests[0]), the one before (one), and the three newest.
	for i, d := range append([]string{one}, digests...) {
		if kept := slices.Contains(w.Images, d); kept != (i != 2) {
			t.Errorf("image %d: kept %v", i, kept)
		}
	}
	left := files(t, f.root)
	if slices.Contains(left, tempPrefix+"dead") || slices.Contains(left, nextPrefix+short(one)) {
		t.Errorf("stale files are left: %v", left)
	}
	if !slices.Contains(left, filepath.Base(mine.Name())) {
		t.Errorf("an image on its way was deleted: %v", left)
	}
}

// Two images that were made to have one name do not take each other's place.
func TestSameName(t *testing.T) {
	is, err := delta.Parse(digestOf("ab"))
	must(t, err)
	alike, err := delta.Parse(digestOf("ab")[:62] + "cd")
	must(t, err)
	other, err := delta.Parse(digestOf("cd"))
	must(t, err)
	if sameName(is, is) != nil || sameName(is, other) != nil {
		t.Error("one that is the same, or damaged, is refused")
	}
	if err := sameName(is, alike); err == nil || hint.Of(err) == "" {
		t.Errorf("one of another digest: %v", err)
	}
}
