package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	cloudinit "devbox/cloud-init"
	"devbox/internal/config"
	"devbox/internal/hint"
	"devbox/internal/provision"
	"devbox/internal/remote"
	"devbox/internal/ui"
	"devbox/internal/vm"
	"devbox/test/vps"
)

// rented is a server of a provider's, and a project that has it as its target.
type rented struct {
	*vps.Server
	t       *testing.T
	project *Project
	said    *strings.Builder
	key     string // the person's public key, which root lets in
}

// rent gets one, by user-data made of the cloud-config if there is one.
func rent(t *testing.T, cloudConfig string) *rented {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a server, and -short was given")
	}
	if err := vm.NspawnReady(); err != nil {
		t.Skipf("needs systemd-nspawn: %v", err)
	}
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(home, ".ssh", "id_ed25519")
	command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@test", "-f", identity)
	key, err := os.ReadFile(identity + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(home, "bin", "devbox-host-linux-"+runtime.GOARCH)
	command(t, "go", "build", "-o", bin, "devbox/cmd/devbox-host")
	for _, arch := range []string{"amd64", "arm64"} {
		if other := filepath.Join(home, "bin", "devbox-host-linux-"+arch); other != bin {
			if err := os.WriteFile(other, nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := &rented{t: t, said: &strings.Builder{}, key: strings.TrimSpace(string(key))}
	o := vps.Options{Authorized: []string{string(key)}}
	if cloudConfig != "" {
		if o.UserData, err = provision.UserData([]byte(strings.ReplaceAll(cloudConfig, "KEY", r.key))); err != nil {
			t.Fatal(err)
		}
	}
	r.Server = vps.New(t, o)
	address, err := r.Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.project = &Project{
		Config: &config.Config{
			Name: "shop", Dir: home, CloudInit: "server.yaml", DeployUser: "deploy",
			Targets: map[string]config.Target{"prod": {Host: address, User: "root"}},
		},
		Paths:   Paths{Home: home, Cache: home + "/cache", State: home + "/state", Executable: filepath.Join(home, "bin", "devbox")},
		Version: "test",
		SSH:     remote.Options{Home: home},
	}
	if cloudConfig != "" {
		r.sh("cloud-init status --wait >/dev/null || true") // makes the host's keys anew
	}
	r.trust()
	return r
}

// trust makes the server's host keys known.
func (r *rented) trust() {
	r.t.Helper()
	hosts, err := r.KnownHosts(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.project.Paths.Home, ".ssh", "known_hosts"), []byte(hosts), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// write makes text the project's cloud-config; KEY in it is the person's.
func (r *rented) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.project.Paths.Home, "server.yaml"), []byte(strings.ReplaceAll(text, "KEY", r.key)), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rented) ui() *ui.UI { return ui.New(io.Discard, r.said, ui.Options{}) }

// look finds out what is to be done, and leaves it at that.
func (r *rented) look() (*Provisioning, error) {
	r.t.Helper()
	g, err := r.begin()
	if err == nil {
		g.Close()
	}
	return g, err
}

// begin is look with the connection left open.
func (r *rented) begin() (*Provisioning, error) {
	r.t.Helper()
	target, err := r.project.Target("prod")
	if err != nil {
		r.t.Fatal(err)
	}
	g, err := target.Provisioning(r.t.Context(), r.ui())
	if err == nil {
		g.trial = 15 * time.Second
	}
	return g, err
}

// provision does all, and reports how long it took.
func (r *rented) provision() error {
	r.t.Helper()
	g, err := r.begin()
	if err != nil {
		return err
	}
	defer g.Close()
	begin := time.Now()
	_, err = g.Do(r.t.Context(), r.ui())
	r.t.Logf("%.1f s: %v (hint: %s)", time.Since(begin).Seconds(), err, hint.Of(err))
	return err
}

func (r *rented) sh(command string) string {
	r.t.Helper()
	out, err := r.Run(r.t.Context(), command)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// is holds the server to what a command there prints.
func (r *rented) is(what, command, want string) {
	r.t.Helper()
	if got := r.sh(command); got != want {
		r.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// state is what must not change.
const state = `find /etc /usr/local /root /home /var/lib/devbox -xdev ! -type d -printf '%p %m %u %s %T@ %l\n' 2>/dev/null | sort
dpkg-query -W`

func kinds(c provision.Changes) string {
	var all []string
	for _, x := range c.All {
		all = append(all, x.Kind+" "+x.Name)
	}
	return strings.Join(all, "\n")
}

// server is the cloud-config of `devbox init`, with the person's key.
func server() string { return string(cloudinit.Render([]string{"KEY"})) }

// with adds a file to it.
func with(path, text string) string {
	var entry strings.Builder
	fmt.Fprintf(&entry, "write_files:\n  - path: %s\n    content: |\n", path)
	for l := range strings.Lines(text) {
		entry.WriteString("      " + l)
	}
	return strings.Replace(server(), "write_files:\n", entry.String(), 1)
}

const notTrial = "ls -A /var/lib/devbox | grep -vxE 'provision.(json|files)' ; systemctl list-unit-files --no-legend 'devbox-undo*' || true"

// A server as it is rented becomes a host, by a way on which nothing locks its
// owner out.
func TestProvision(t *testing.T) {
	r := rent(t, "")
	step := func(name string, do func(*testing.T)) {
		t.Run(name, func(t *testing.T) {
			r.t = t
			do(t)
		})
	}
	undone := func(t *testing.T, err error, what ...string) {
		t.Helper()
		var e *provision.UndoneError
		if !errors.As(err, &e) || hint.Of(err) == "" {
			t.Fatalf("%v, want what was undone, with a cure", err)
		}
		for _, w := range what {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v\ndoes not tell %q", err, w)
			}
		}
		r.is("record", "test ! -e /var/lib/devbox/provision.json && echo none", "none")
		r.is("left of the trial", notTrial, "provision.undone")
		if _, err := r.look(); err != nil {
			t.Fatalf("nobody gets in: %v", err)
		}
	}

	step("another system is refused", func(t *testing.T) {
		r.write(server())
		r.sh("cp -a /etc/os-release /etc/os-release.was; printf 'ID=ubuntu\\nVERSION_ID=24.04\\nPRETTY_NAME=\"Ubuntu 24.04 LTS\"\\n' >/etc/os-release.new; mv -fT /etc/os-release.new /etc/os-release")
		defer r.sh("mv -fT /etc/os-release.was /etc/os-release")
		before := r.sh(state)
		_, err := r.look()
		if !Refused(err) || !strings.Contains(err.Error(), "it is Ubuntu 24.04 LTS, not Debian 13") || hint.Of(err) == "" {
			t.Error(err)
		}
		if after := r.sh(state); after != before {
			t.Error("a refused server was changed")
		}
	})

	step("without a key of this person", func(t *testing.T) {
		for text, want := range map[string]string{
			string(cloudinit.Render(nil)): "server.yaml has no key for that user",
			string(cloudinit.Render([]string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3dDJkfJxJ0vrgO8PXsGvUDcS2GsrDFHJZDpMGJcHHz other@test"})): "of your keys",
		} {
			r.write(text)
			if _, err := r.look(); !Refused(err) || !strings.Contains(err.Error(), want) || !strings.Contains(hint.Of(err), "ssh_authorized_keys") {
				t.Errorf("%v (%s)", err, hint.Of(err))
			}
		}
	})

	step("the plan changes nothing", func(t *testing.T) {
		r.write(server())
		before := r.sh(state)
		g, err := r.look()
		if err != nil {
			t.Fatal(err)
		}
		got := kinds(g.Changes)
		for _, want := range []string{
			"install cloud-init", "install sudo", "install systemd-container", "user deploy", "key me@test",
			"new file /etc/sudoers.d/devbox", "run systemctl try-reload-or-restart ssh.service", "devbox-host test",
		} {
			if !strings.Contains("\n"+got+"\n", "\n"+want+"\n") {
				t.Errorf("%q is not in the plan:\n%s", want, got)
			}
		}
		if after := r.sh(state); after != before {
			t.Error("looking changed the server")
		}
	})

	step("sshd lets nobody in", func(t *testing.T) {
		r.write(with("/etc/ssh/sshd_config.d/10-mine.conf", "AllowUsers somebody\n"))
		undone(t, r.provision(), "log in as root", "removed /etc/ssh/sshd_config.d/10-mine.conf")
		r.is("sudo", "visudo -c >/dev/null && echo right", "right")
	})

	step("a line of sshd's is wrong", func(t *testing.T) {
		r.write(with("/etc/ssh/sshd_config.d/10-mine.conf", "PortNumber 22\n"))
		err := r.provision()
		if step := new(provision.StepError); !errors.As(err, &step) || step.Step != "runcmd" {
			t.Fatal(err)
		}
		r.is("left of it", notTrial+"; ls /etc/ssh/sshd_config.d; sshd -t && echo right", "provision.undone\nright")
		if !strings.Contains(r.said.String(), "undone: removed /etc/ssh/sshd_config.d/10-mine.conf") {
			t.Error(r.said)
		}
	})

	step("the firewall lets nobody in", func(t *testing.T) {
		r.write(strings.Replace(strings.Replace(with("/etc/nftables.conf", "flush ruleset\ntable inet filter {\n  chain input {\n    type filter hook input priority filter; policy drop;\n  }\n}\n"),
			"  - dbus\n", "  - dbus\n  - nftables\n", 1), "  - set -eu\n", "  - set -eu\n  - systemctl enable nftables\n  - systemctl restart nftables\n", 1))
		undone(t, r.provision(), "removed /etc/nftables.conf", "emptied the firewall")
		r.is("rules", "nft list ruleset; systemctl is-enabled nftables || true", "disabled")
	})

	step("the connection is lost in a long step", func(t *testing.T) {
		r.write(strings.Replace(with("/etc/ssh/sshd_config.d/10-mine.conf", "X11Forwarding no\n"),
			"  - set -eu\n", "  - set -eu\n  - touch /run/long\n  - sleep 45\n", 1))
		r.sh(`systemd-run --quiet --unit=cut sh -c 'until [ -e /run/long ]; do sleep .1; done; cd /proc
			for p in [0-9]*; do [ "$(cat $p/comm)" != sshd-session ] || kill $p; done'`)
		undone(t, r.provision(), "connection lost", "removed /etc/ssh/sshd_config.d/10-mine.conf")
	})

	step("the power goes while it is on trial", func(t *testing.T) {
		r.write(with("/etc/ssh/sshd_config.d/10-mine.conf", "AllowUsers somebody\n"))
		g, err := r.begin()
		if err != nil {
			t.Fatal(err)
		}
		report, err := g.apply(t.Context(), r.ui())
		g.Close()
		if err != nil || !onTrial(report) {
			t.Fatal(report, err)
		}
		if _, err := r.look(); err == nil {
			t.Fatal("what is to lock everyone out does not")
		}
		if err := errors.Join(r.Kill(t.Context()), r.Boot(t.Context())); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		for {
			if g, err = r.look(); err == nil {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("still locked out: %v", err)
			case <-time.After(2 * time.Second):
			}
		}
		if len(g.Seen.Undone) == 0 || !g.Changes.Apply {
			t.Errorf("it is not told: %+v", g.Seen)
		}
		r.is("left of the trial", "sleep 2; "+notTrial, "provision.undone")
	})

	step("a server becomes a host", func(t *testing.T) {
		r.write(server())
		if err := r.provision(); err != nil {
			t.Fatalf("%v (%s)", err, hint.Of(err))
		}
		r.is("left of the trial", notTrial, "")
		r.is("cloud-init does nothing at boot", "test -e /etc/cloud/cloud-init.disabled && echo so", "so")
		before := r.sh(state)
		begin := time.Now()
		g, err := r.look()
		if err != nil || !g.Changes.None() {
			t.Fatalf("a second time: %v\n%s", err, kinds(g.Changes))
		}
		t.Logf("a second time: %.2f s", time.Since(begin).Seconds())
		if after := r.sh(state); after != before {
			t.Error("a second time changed the server")
		}
	})

	step("what was changed by hand comes back", func(t *testing.T) {
		r.sh("sed -i s/500M/1G/ /etc/systemd/journald.conf.d/60-devbox.conf; chmod 600 /etc/sysctl.d/60-devbox.conf")
		g, err := r.look()
		if err != nil {
			t.Fatal(err)
		}
		var hand []provision.Change
		for _, c := range g.Changes.All {
			if c.Kind == "file" {
				hand = append(hand, c)
			}
		}
		if len(hand) != 2 || !strings.Contains(hand[1].Diff, "-SystemMaxUse=1G\n+SystemMaxUse=500M\n") || !strings.Contains(hand[0].Why, "mode 0600 to 0644") {
			t.Errorf("%+v", hand)
		}
		if err := r.provision(); err != nil {
			t.Fatal(err)
		}
		if g, err := r.look(); err != nil || !g.Changes.None() {
			t.Errorf("%v\n%s", err, kinds(g.Changes))
		}
	})

	step("by sudo, with a password", func(t *testing.T) {
		r.sh(`useradd -m -s /bin/bash -G sudo admin && echo 'admin:correct horse' | chpasswd
			install -d -o admin -g admin -m 700 ~admin/.ssh && install -o admin -g admin -m 600 ~/.ssh/authorized_keys ~admin/.ssh/`)
		target := r.project.Config.Targets["prod"]
		target.User = "admin"
		r.project.Config.Targets["prod"] = target
		if _, err := r.look(); err == nil || !strings.Contains(err.Error(), "there is no terminal") {
			t.Errorf("nobody to ask: %v", err)
		}
		asked := 0
		answer := "wrong"
		r.project.SSH.Answer = func(_ context.Context, q remote.Question) (string, error) {
			if asked++; q.Echo || q.User != "admin" {
				t.Errorf("asked %+v", q)
			}
			return answer, nil
		}
		if _, err := r.look(); err == nil || asked != sudoTries || !strings.Contains(err.Error(), "incorrect password") {
			t.Errorf("a wrong password, %d times: %v", asked, err)
		}
		answer = "correct horse"
		listed := func(more string) string {
			return strings.Replace(server(), "users:\n", "users:\n  - name: admin\n    ssh_authorized_keys: ['KEY']\n"+more, 1)
		}
		r.write(listed(""))
		if _, err := r.look(); !Refused(err) || !strings.Contains(err.Error(), "would lock the password of admin") || !strings.Contains(hint.Of(err), "lock_passwd: false") {
			t.Errorf("a password that would be locked: %v (%s)", err, hint.Of(err))
		}
		r.write(listed("    lock_passwd: false\n    hashed_passwd: $6$salt$hash\n"))
		undone(t, r.provision(), "become root as admin", "restored the password of admin")
		r.write(server())
		asked = 0
		r.sh("rm /usr/local/sbin/devbox-host; echo x >>/etc/apt/apt.conf.d/60devbox-upgrades")
		// What is run and written meanwhile is looked at for the password.
		r.sh(`systemd-run --quiet --unit=watch sh -c 'while :; do cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ; done 2>/dev/null | tr "\0" "\n" | grep -a "correct h[o]rse" >/run/leak'`)
		if err := r.provision(); err != nil || asked != 1 {
			t.Errorf("asked %d times: %v", asked, err)
		}
		r.sh("systemctl stop watch || true")
		r.is("what others could read of the password", "cat /run/leak; journalctl | grep 'correct h[o]rse'; true", "")
		r.is("devbox-host", "test -x /usr/local/sbin/devbox-host && echo there", "there")
	})
}

// A server made with the user-data lacks devbox-host alone.
func TestProvisionWithUserData(t *testing.T) {
	config := strings.Replace(server(), "users:\n", "users:\n  - name: boss\n    sudo: ALL=(ALL) NOPASSWD:ALL\n    lock_passwd: true\n    ssh_authorized_keys: ['KEY']\n", 1)
	r := rent(t, config)
	r.write(config)
	target := r.project.Config.Targets["prod"]
	target.User = "boss"
	r.project.Config.Targets["prod"] = target
	r.is("schema", "cloud-init schema -c /var/lib/cloud/seed/nocloud/user-data | tail -n1", "Valid schema /var/lib/cloud/seed/nocloud/user-data")
	r.is("the provider's own user", "id -un debian", "debian")
	g, err := r.look()
	if err != nil {
		t.Fatalf("%v (%s)\n%s", err, hint.Of(err), r.sh("tail -n 40 /var/log/cloud-init-output.log; grep -a WARN /var/log/cloud-init.log || true"))
	}
	if got := kinds(g.Changes); got != "devbox-host test" {
		t.Fatalf("to do:\n%s\n%s", got, r.sh("tail -n 40 /var/log/cloud-init-output.log; grep -a -e WARN -e ERROR /var/log/cloud-init.log || true"))
	}
	if err := r.provision(); err != nil {
		t.Fatal(err)
	}
	if g, err := r.look(); err != nil || !g.Changes.None() {
		t.Errorf("%v\n%s", err, kinds(g.Changes))
	}
	r.is("cloud-init stays as it is", "test ! -e /etc/cloud/cloud-init.disabled && echo so", "so")
}
