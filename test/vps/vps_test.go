package vps

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devbox/internal/vm"
)

func ready(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots machines, and -short was given")
	}
	if err := vm.NspawnReady(); err != nil {
		t.Skipf("needs systemd-nspawn: %v", err)
	}
}

// sh runs what must succeed on the server.
func sh(t *testing.T, s *Server, command string) string {
	t.Helper()
	out, err := s.Run(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ssh logs in as root, by key, with the host key verified.
func ssh(t *testing.T, s *Server, command string) string {
	t.Helper()
	hosts, err := s.KnownHosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	address, err := s.Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh", "-F", "none", "-i", s.KeyFile(), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile="+file, "root@"+address, command).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh %s: %v\n%s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestBare(t *testing.T) {
	ready(t)
	s := New(t, Options{})
	if got := ssh(t, s, "id -un; . /etc/os-release; echo $ID $VERSION_ID; hostname"); got != "root\ndebian 13\nvps" {
		t.Errorf("by SSH: %q", got)
	}
	for _, program := range []string{"sudo", "cloud-init", "portablectl", "curl"} {
		if _, err := s.Run(t.Context(), "command -v "+program); err == nil {
			t.Errorf("a bare server has %s", program)
		}
	}
	if got := sh(t, s, "systemctl --failed --no-legend"); got != "" {
		t.Errorf("units failed: %s", got)
	}
	sh(t, s, "apt-get update -q && apt-get install -q -y --no-install-recommends bc && bc --version")
}

// Another machine, which booted beside it, does not hold the server's disk.
func TestBesideOthers(t *testing.T) {
	ready(t)
	s, err := Rent(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	// As systemd-nspawn makes its view of all mounts.
	other := exec.Command("unshare", "--mount", "--propagation", "slave", "sleep", "600")
	if err := other.Start(); err != nil {
		t.Error(err)
	}
	defer func() { _, _ = other.Process.Kill(), other.Wait() }()
	time.Sleep(200 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	if err := s.Destroy(ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.dir); err == nil {
		t.Error("something of it is left")
	}
}

// A cut takes exactly what was not synced, and nothing stays behind.
func TestPowerCut(t *testing.T) {
	ready(t)
	s := New(t, Options{})
	boot := sh(t, s, "cat /proc/sys/kernel/random/boot_id")
	sh(t, s, `cd /var/lib
echo old >replaced; echo 1 >synced; sync
truncate -s 64M image; mkfs.ext4 -q image; losetup -f --show image >loop; sync`)
	// The kernel by itself writes after five seconds, which this is far below.
	sh(t, s, `cd /var/lib
echo 2 >>synced; sync synced
echo data >unsynced
echo new >replaced.new; mv replaced.new replaced`)
	begin := time.Now()
	if err := s.PowerCut(t.Context()); err != nil {
		t.Fatal(err)
	}
	cut := time.Since(begin)
	if left := leftovers(t, s); left != "" {
		t.Errorf("a server without power holds\n%s", left)
	}
	if err := s.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("cut %s, boot %s", cut, time.Since(begin)-cut)
	if now := sh(t, s, "cat /proc/sys/kernel/random/boot_id"); now == boot {
		t.Error("it is the same boot")
	}
	if got := sh(t, s, "cat /var/lib/synced"); got != "1\n2" {
		t.Errorf("what was synced is %q", got)
	}
	if got := sh(t, s, "cat /var/lib/unsynced || true"); got != "" {
		t.Errorf("what was not synced is there: %q", got)
	}
	if got := sh(t, s, "cat /var/lib/replaced || true"); got == "new" {
		t.Error("a rename that nobody synced is there, with its content")
	}
	// Everything in order, it keeps what nobody synced, too.
	sh(t, s, "echo kept >/var/lib/unsynced")
	if err := s.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, s, "cat /var/lib/unsynced"); got != "kept" {
		t.Errorf("a kill without a power cut leaves %q", got)
	}
	if err := s.Destroy(context.Background()); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, s); left != "" {
		t.Errorf("a destroyed server left\n%s", left)
	}
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("its folder: %v", err)
	}
}

// leftovers is what the server holds of this computer.
func leftovers(t *testing.T, s *Server) string {
	t.Helper()
	var found strings.Builder
	for _, command := range [][]string{{"losetup", "--list"}, {"cat", "/proc/mounts"}, {"ps", "-eo", "args"}} {
		out, err := exec.Command(command[0], command[1:]...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, s.dir) {
				found.WriteString(line)
			}
		}
	}
	return found.String()
}

// What goes over a shaped cable takes its time, both ways.
func TestShape(t *testing.T) {
	ready(t)
	s := New(t, Options{})
	if err := s.Shape(t.Context(), "20mbit"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	ssh(t, s, "head -c 5000000 /dev/urandom")
	if took := time.Since(begin); took < 1800*time.Millisecond || took > 6*time.Second {
		t.Errorf("5 MB at 20 Mbit/s took %s", took)
	}
}

// The first boot does what the user data say, with keys that are its own.
func TestUserData(t *testing.T) {
	ready(t)
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	s := New(t, Options{UserData: []byte("#cloud-config\nusers:\n- name: anna\n  ssh_authorized_keys: ['" + strings.TrimSpace(string(public)) + "']\n" +
		"packages: [bc]\npackage_update: true\nruncmd: [[touch, /done]]\n")})
	if got := sh(t, s, "cloud-init status --wait --format json | grep -o '\"status\": \"[a-z]*\"'; ls /done; command -v bc; cat /home/anna/.ssh/authorized_keys | cut -d' ' -f2"); got !=
		"\"status\": \"done\"\n/done\n/usr/bin/bc\n"+strings.Fields(string(public))[1] {
		t.Errorf("%s\n%s", got, sh(t, s, "cloud-init status --long; tail -n 50 /var/log/cloud-init.log"))
	}
}
