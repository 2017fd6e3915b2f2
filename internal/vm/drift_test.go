package vm

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDrift(t *testing.T) {
	const cure = "X"
	for _, tt := range []struct {
		name       string
		want, have size
		text       string
	}{
		{"the same", size{2, 1 << 30, 10 << 30}, size{2, 1 << 30, 10 << 30}, ""},
		{"not known", size{2, 1 << 30, unknown}, size{unknown, unknown, 5}, ""},
		{"all", size{4, 2 << 30, 20 << 30}, size{2, 1 << 30, 10 << 30},
			"machine.cpus asks for 4, it has 2, machine.memory asks for 2048 MiB, it has 1024 MiB, " +
				"machine.disk asks for 20480 MiB, it has 10240 MiB: in effect after X"},
		{"a limit goes", size{0, 1 << 30, unknown}, size{1, 1 << 30, unknown},
			"machine.cpus asks for all of this computer's, it has 1: in effect after X"},
	} {
		if got := drift(tt.want, tt.have, cure); got != tt.text {
			t.Errorf("%s: %q\nwant %q", tt.name, got, tt.text)
		}
	}
}

// What limitFiles writes is read back, in both versions of control groups.
func TestHeldTo(t *testing.T) {
	v1 := []hierarchy{{options: []string{"rw", "cpu"}}}
	for _, tt := range []struct {
		name    string
		mounted []hierarchy
		files   map[string]string
		want    size
	}{
		{"v2", nil, limitFiles(true, 2, 1<<30), size{2, 1 << 30, unknown}},
		{"v2 without limits", nil, map[string]string{"cpu.max": "max 100000\n", "memory.max": "max\n"}, size{0, 0, unknown}},
		{"v2 without controllers", nil, nil, size{unknown, unknown, unknown}},
		{"v1", v1, map[string]string{"cpu.cfs_quota_us": limitFiles(false, 3, 0)["cpu.cfs_quota_us"] + "\n", "cpu.cfs_period_us": "100000\n",
			"memory.limit_in_bytes": limitFiles(false, 0, 1<<29)["memory.limit_in_bytes"]}, size{3, 1 << 29, unknown}},
		{"v1 without limits", v1, map[string]string{"memory.limit_in_bytes": "9223372036854771712\n"}, size{0, 0, unknown}},
	} {
		dir := t.TempDir()
		for name, text := range tt.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := heldTo(tt.mounted, []string{dir}); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestLimaTellsDrift(t *testing.T) {
	f := newLimaFixture(t, nil)
	f.spec.CPUs, f.spec.MemoryBytes, f.spec.DiskBytes = 2, 4<<30, 10<<30
	const had = `"plain":true},"cpus":2,"memory":2147483648,"disk":10737418240,"config":{"plain":true,`
	const want = "machine.memory asks for 4096 MiB, it has 2048 MiB: in effect after `devbox destroy && devbox up`, which removes its data"
	for _, state := range []string{"Running", "Stopped"} {
		fakeLimactl(t, "1.2.3", f.listWith(state, had, f.script))
		st, err := f.Status(t.Context())
		if err != nil || st.Drift != want || st.Detail != "limactl 1.2.3, "+want {
			t.Errorf("%s: %+v, %v\nwant %q", state, st, err, want)
		}
	}
}
