package drift

import (
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	"devbox/internal/facts"
	"devbox/internal/protocol"
)

const (
	digestA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// same is a dev machine, a target and a repository that agree.
func same() (Repo, *Host, *Host) {
	host := func(name, virt, kernel string) *Host {
		return &Host{
			Name: name, Provision: "devbox provision " + name, Deploy: "devbox deploy " + name, Admin: "root",
			Facts: &facts.Facts{
				App:       "bowl",
				System:    facts.System{Host: name, OS: "debian 13", Point: "13.1", Systemd: "257.13", Kernel: kernel, Arch: "amd64", Virt: virt, Timezone: "Etc/UTC"},
				Packages:  map[string]facts.Package{"sudo": {Version: "1.9"}, "libc6": {Version: "2.41", Base: true}, "systemd": {Version: "257", Base: true}},
				Provision: &facts.Provision{Hash: digestA, Version: 1},
				Apps:      []string{"bowl"},
				Running:   &protocol.Release{ID: "r1", Digest: digestA, Settings: protocol.Settings{Env: map[string]map[string]string{}}},
				Units:     map[string]string{"bowl.service": digestA, "bowl.socket": digestB},
				Enabled:   map[string]facts.Unit{"bowl.socket": {State: "enabled"}, "ssh.service": {State: "enabled", Package: "openssh-server"}},
				Files:     map[string]string{"/etc/sysctl.d/60-devbox.conf": facts.Digest([]byte("-net.core.somaxconn = 4096\n-kernel.panic = 10\n"))},
				Sysctls:   map[string]string{"net.core.somaxconn": "4096", "kernel.panic": "10", "vm.swappiness": "60"},
				Users:     map[string]facts.User{"root": {Shell: "/bin/bash"}, "deploy": {UID: 1001, Shell: "/bin/sh", Keys: []string{"SHA256:ann"}}},
				Sudoers:   map[string][]string{"/etc/sudoers.d/devbox": {"deploy ALL=(root) NOPASSWD: /usr/local/sbin/devbox-host"}},
				SSHD:      map[string]string{"passwordauthentication": "no", "permitrootlogin": "without-password", "loglevel": "INFO"},
				Ports:     map[string]facts.Port{"tcp 22": {Address: "*", By: "ssh.service"}, "tcp 8080": {Address: "*", By: "bowl.socket"}},
			},
		}
	}
	repo := Repo{
		App: "bowl", CloudConfig: "cloud-init/server.yaml", Hash: digestA, Version: 1, Packages: []string{"sudo"}, Profile: "default",
		Files: map[string][]byte{
			"/etc/sysctl.d/60-devbox.conf": []byte("-net.core.somaxconn = 4096\n-kernel.panic = 10\n"),
			"/etc/sudoers.d/devbox":        []byte("# one program\ndeploy ALL=(root) NOPASSWD: /usr/local/sbin/devbox-host\n"),
			"/root/elsewhere":              []byte("not compared"),
		},
		Users: map[string][]string{"deploy": {"SHA256:ann"}},
		Units: map[string]string{"bowl.service": digestA},
	}
	dev, prod := host("dev", "kvm", "6.12.48+deb13-amd64"), host("prod", "kvm", "6.12.48+deb13-amd64")
	dev.Facts.System.Host, prod.Facts.System.Host = "host", "host"
	return repo, dev, prod
}

func TestWhatIsTheSameIsNoDifference(t *testing.T) {
	repo, dev, prod := same()
	for name, found := range map[string][]Difference{
		"both": Compare(repo, dev, prod), "dev alone": Compare(repo, dev, nil), "target alone": Compare(repo, nil, prod),
	} {
		if len(found) > 0 {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// A change of one thing is that difference, and no other.
func TestCompare(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(r *Repo, dev, prod *Host)
		alone  string // "dev" or "prod": without the other one
		want   Difference
	}{
		{"another distribution", func(_ *Repo, _, prod *Host) { prod.Facts.System.OS = "debian 12" }, "",
			Difference{system, "distribution", "debian 13", "debian 12", "", Drift, "", "make the older one anew from the newer release"}},
		{"host names", func(_ *Repo, _, prod *Host) { prod.Facts.System.Host = "vps7" }, "",
			Difference{system, "host name", "host", "vps7", "", Expected, "each host has its own name", ""}},
		{"the kernel of a container", func(_ *Repo, dev, _ *Host) {
			dev.Facts.System.Virt, dev.Facts.System.Kernel = "kvm", "6.12.48+deb13-cloud-amd64"
		}, "",
			Difference{system, "kernel", "6.12.48+deb13-cloud-amd64", "6.12.48+deb13-amd64", "", Expected, "the same version, built for another kind of machine", ""}},
		{"an older kernel", func(_ *Repo, _, prod *Host) { prod.Facts.System.Kernel = "6.12.41+deb13-amd64" }, "",
			Difference{system, "kernel", "6.12.48+deb13-amd64", "6.12.41+deb13-amd64", "", Drift, "", "bring both up to date: apt-get update && apt-get upgrade, then reboot"}},
		{"the time zone that the repository says", func(r *Repo, _, prod *Host) { r.Timezone = "Etc/UTC"; prod.Facts.System.Timezone = "Europe/Berlin" }, "prod",
			Difference{system, "time zone", "", "Europe/Berlin", "Etc/UTC", Drift, "", "say it in cloud-init/server.yaml: `timezone: Etc/UTC`"}},
		{"an older cloud-config", func(_ *Repo, _, prod *Host) { prod.Facts.Provision.Hash = digestB }, "",
			Difference{cloudConfig, "cloud-init/server.yaml", "aaaaaaaaaaaa", "bbbbbbbbbbbb", "aaaaaaaaaaaa", Drift, "", "`devbox provision prod`"}},
		{"no cloud-config", func(_ *Repo, dev, _ *Host) { dev.Facts.Provision = nil }, "dev",
			Difference{cloudConfig, "cloud-init/server.yaml", "not applied", "", "aaaaaaaaaaaa", Drift, "", "`devbox provision dev`"}},
		{"a cloud-config that an older devbox applied", func(_ *Repo, _, prod *Host) { prod.Facts.Provision.Version = 0 }, "prod",
			Difference{cloudConfig, "cloud-init/server.yaml", "", "aaaaaaaaaaaa, as an older devbox applies it", "aaaaaaaaaaaa", Drift, "", "`devbox provision prod`"}},
		{"another image", func(_ *Repo, dev, _ *Host) { dev.Facts.Running.Digest = digestB }, "",
			Difference{app, "image", "bbbbbbbbbbbb", "aaaaaaaaaaaa", "", Drift, "", "`devbox deploy prod`"}},
		{"nothing runs", func(_ *Repo, _, prod *Host) { prod.Facts.Running = nil }, "prod",
			Difference{app, "image", "", "nothing runs", "", Drift, "", "`devbox deploy prod`"}},
		{"a profile of before", func(_ *Repo, _, prod *Host) { prod.Facts.Running.Settings.Profile = "trusted" }, "",
			Difference{app, "profile", "default", "trusted", "default", Drift, "", "`devbox deploy prod`"}},
		{"an environment that devbox.yaml has so", func(_ *Repo, dev, _ *Host) {
			dev.Env = map[string]map[string]string{"bowl.service": {"LOG": "debug"}}
			dev.Facts.Running.Settings.Env = dev.Env
		}, "", Difference{app, "env bowl.service LOG", `"debug"`, "", `dev: "debug", prod: not set`, Expected, "devbox.yaml says so", ""}},
		{"an environment of before", func(_ *Repo, _, prod *Host) {
			prod.Env = map[string]map[string]string{"bowl.service": {"LOG": "warn"}}
			prod.Facts.Running.Settings.Env = map[string]map[string]string{"bowl.service": {"LOG": "info"}}
		}, "prod", Difference{app, "env bowl.service LOG", "", `"info"`, `"warn"`, Drift, "", "`devbox deploy prod`"}},
		{"a unit file that changed", func(r *Repo, _, _ *Host) { r.Units["bowl.service"] = digestB }, "dev",
			Difference{app, "bowl.service", "aaaaaaaaaaaa", "", "bbbbbbbbbbbb", Drift, "", "`devbox deploy dev`"}},
		{"a unit that the build makes", func(_ *Repo, _, prod *Host) { prod.Facts.Units["bowl.socket"] = digestA }, "",
			Difference{app, "bowl.socket", "bbbbbbbbbbbb", "aaaaaaaaaaaa", "", Drift, "", "`devbox deploy prod`"}},
		{"a declared package is missing", func(r *Repo, _, prod *Host) { delete(prod.Facts.Packages, "sudo") }, "",
			Difference{packages, "sudo", "1.9", "", "installed", Drift, "", "`devbox provision prod`"}},
		{"a package by hand", func(_ *Repo, _, prod *Host) { prod.Facts.Packages["nginx"] = facts.Package{Version: "1.26"} }, "prod",
			Difference{packages, "nginx", "", "1.26", "", Drift, "", "add it to `packages` of cloud-init/server.yaml, or on prod: apt-get purge nginx"}},
		{"a package of every Debian", func(_ *Repo, _, prod *Host) {
			prod.Facts.Packages["vim-tiny"] = facts.Package{Version: "9", Base: true}
		}, "",
			Difference{packages, "vim-tiny", "", "9", "", Expected, "part of every Debian by its priority; prod was installed with it", ""}},
		{"a guest agent", func(_ *Repo, _, prod *Host) { prod.Facts.Packages["qemu-guest-agent"] = facts.Package{Version: "10"} }, "",
			Difference{packages, "qemu-guest-agent", "", "10", "", Expected, "it depends on what kind of machine a host is", ""}},
		{"a version", func(_ *Repo, _, prod *Host) {
			prod.Facts.Packages["libc6"] = facts.Package{Version: "2.40", Base: true}
		}, "",
			Difference{packages, "libc6", "2.41", "2.40", "", Drift, "", "bring both up to date: apt-get update && apt-get upgrade"}},
		{"a drop-in by hand", func(_ *Repo, _, prod *Host) { prod.Facts.Files["/etc/systemd/system/bowl.service.d/x.conf"] = digestA }, "prod",
			Difference{files, "/etc/systemd/system/bowl.service.d/x.conf", "", "aaaaaaaaaaaa", "", Drift, "", "bring it into cloud-init/server.yaml, or remove it from prod"}},
		{"a file that the cloud-config writes", func(_ *Repo, _, prod *Host) { prod.Facts.Files["/etc/sysctl.d/60-devbox.conf"] = digestA }, "prod",
			Difference{files, "/etc/sysctl.d/60-devbox.conf", "", "aaaaaaaaaaaa", "66a1352e9f27", Drift, "",
				"bring the change into cloud-init/server.yaml, or apply the file again: `devbox provision prod`"}},
		{"what devbox makes of the environment", func(_ *Repo, dev, _ *Host) {
			dev.Facts.Files["/etc/systemd/system/bowl.service.d/50-devbox.conf"] = digestA
		}, "",
			Difference{files, "/etc/systemd/system/bowl.service.d/50-devbox.conf", "aaaaaaaaaaaa", "", "", Expected, "made by devbox, of the environment of bowl.service", ""}},
		{"a changed file, with the same modules", func(_ *Repo, dev, prod *Host) {
			dev.Facts.Packages["libpam-systemd"] = facts.Package{Version: "257", Base: true}
			prod.Facts.Packages["libpam-systemd"] = facts.Package{Version: "257", Base: true}
			prod.Facts.Files["/etc/nsswitch.conf"] = digestA
			dev.Facts.Files["/etc/nsswitch.conf"] = digestB
		}, "", Difference{files, "/etc/nsswitch.conf", "bbbbbbbbbbbb", "aaaaaaaaaaaa", "", Drift, "", "bring it into cloud-init/server.yaml, or make it the same by hand"}},
		{"a masked unit", func(_ *Repo, _, prod *Host) {
			prod.Facts.Enabled["apt-daily.timer"] = facts.Unit{State: "masked", Package: "systemd"}
		}, "",
			Difference{units, "apt-daily.timer", "", "masked", "", Drift, "", "the same on both: systemctl enable, disable, mask or unmask apt-daily.timer"}},
		{"a unit of a package that the other has not", func(_ *Repo, _, prod *Host) {
			prod.Facts.Enabled["x.timer"] = facts.Unit{State: "enabled", Package: "x-tools"}
		}, "", Difference{units, "x.timer", "", "enabled", "", Expected, "of the package x-tools, which only prod has", ""}},
		{"a file that a package's script made", func(_ *Repo, dev, _ *Host) {
			dev.Facts.Files["/etc/inputrc"], dev.Facts.Scripted = digestA, []string{"/etc/inputrc"}
		}, "", Difference{files, "/etc/inputrc", "aaaaaaaaaaaa", "", "", Expected, "made by a package of dev", ""}},
		{"units of another app", func(_ *Repo, _, prod *Host) {
			prod.Facts.Apps = append(prod.Facts.Apps, "shop")
			prod.Facts.Enabled["shop-web.socket"] = facts.Unit{State: "enabled", Package: "systemd"}
		}, "", Difference{units, "shop-web.socket", "", "enabled", "", Expected, "of the app shop, which devbox runs there", ""}},
		{"a sysctl by hand", func(_ *Repo, _, prod *Host) { prod.Facts.Sysctls["net.core.somaxconn"] = "128" }, "prod",
			Difference{sysctls, "net.core.somaxconn", "", "128", "4096", Drift, "", "on prod: systemctl restart systemd-sysctl.service"}},
		{"a sysctl that is in no file", func(_ *Repo, _, prod *Host) { prod.Facts.Sysctls["vm.swappiness"] = "1" }, "",
			Difference{sysctls, "vm.swappiness", "60", "1", "", Drift, "", "set it in a file of /etc/sysctl.d, by cloud-init/server.yaml"}},
		{"a user by hand", func(_ *Repo, _, prod *Host) {
			prod.Facts.Users["mallory"] = facts.User{UID: 1002, Shell: "/bin/sh", Password: true}
		}, "prod",
			Difference{users, "mallory", "", "/bin/sh, with a password", "", Drift, "", "add it to `users` of cloud-init/server.yaml, or on prod: userdel mallory"}},
		{"the dev machine's administrator", func(_ *Repo, dev, _ *Host) {
			dev.Admin = "devbox"
			dev.Facts.Users["devbox"] = facts.User{UID: 1000, Shell: "/bin/bash"}
		}, "",
			Difference{users, "devbox", "/bin/bash", "", "", Expected, "devbox sets dev up as this user", ""}},
		{"the user is missing", func(_ *Repo, _, prod *Host) { delete(prod.Facts.Users, "deploy") }, "",
			Difference{users, "deploy", "/bin/sh", "", "declared", Drift, "", "`devbox provision prod`"}},
		{"a key by hand", func(_ *Repo, _, prod *Host) {
			prod.Facts.Users["root"] = facts.User{Shell: "/bin/bash", Keys: []string{"SHA256:eve"}}
		}, "prod",
			Difference{users, "key SHA256:eve of root", "", "may log in", "", Drift, "", "add it under `users` of cloud-init/server.yaml, or take its line out of ~root/.ssh/authorized_keys on prod"}},
		{"a declared key for root", func(_ *Repo, _, prod *Host) {
			prod.Facts.Users["root"] = facts.User{Shell: "/bin/bash", Keys: []string{"SHA256:ann"}}
		}, "",
			Difference{users, "key SHA256:ann of root", "", "may log in", "", Expected, "devbox sets prod up as this user, and cloud-init/server.yaml has the key", ""}},
		{"a sudoers line by hand", func(_ *Repo, _, prod *Host) { prod.Facts.Sudoers["/etc/sudoers.d/eve"] = []string{"eve ALL=(ALL) ALL"} }, "prod",
			Difference{sudoers, "eve ALL=(ALL) ALL", "", "/etc/sudoers.d/eve", "", Drift, "", "bring it into cloud-init/server.yaml, or take it out of /etc/sudoers.d/eve on prod"}},
		{"an sshd setting", func(_ *Repo, _, prod *Host) { prod.Facts.SSHD["loglevel"] = "DEBUG" }, "",
			Difference{sshd, "loglevel", "INFO", "DEBUG", "", Drift, "", "say it in a file of /etc/ssh/sshd_config.d, by cloud-init/server.yaml"}},
		{"an open port", func(_ *Repo, _, prod *Host) {
			prod.Facts.Ports["tcp 6379"] = facts.Port{Address: "127.0.0.1", By: "redis.service"}
		}, "",
			Difference{ports, "tcp 6379", "", "redis.service on 127.0.0.1", "", Drift, "", "look with `ss -tulpn` there; what listens should be in the repository"}},
		{"a part that could not be read", func(_ *Repo, _, prod *Host) {
			prod.Facts.SSHD, prod.Facts.Unknown = nil, []facts.Unknown{{Part: "sshd", Why: "sshd: exit status 255"}}
		}, "", Difference{sshd, "all of it", "", "", "", Unknown, "not read on prod: sshd: exit status 255", ""}},
	} {
		repo, dev, prod := same()
		c.change(&repo, dev, prod)
		switch c.alone {
		case "dev":
			prod = nil
		case "prod":
			dev = nil
		}
		if found := Compare(repo, dev, prod); !reflect.DeepEqual(found, []Difference{c.want}) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.name, found, c.want)
		}
	}
}

// The settings of sshd that a file of the cloud-config says, in sshd's words.
func TestWantedSSHD(t *testing.T) {
	repo, dev, prod := same()
	repo.Files["/etc/ssh/sshd_config.d/00-devbox.conf"] = []byte("PasswordAuthentication no\nPermitRootLogin prohibit-password\n# LogLevel QUIET\nMatch User ann\n  X11Forwarding yes\n")
	for _, h := range []*Host{dev, prod} {
		h.Facts.Files["/etc/ssh/sshd_config.d/00-devbox.conf"] = facts.Digest(repo.Files["/etc/ssh/sshd_config.d/00-devbox.conf"])
	}
	if found := Compare(repo, dev, prod); len(found) > 0 {
		t.Errorf("what is said and done differs: %+v", found)
	}
	prod.Facts.SSHD["passwordauthentication"] = "yes"
	found := Compare(repo, nil, prod)
	want := Difference{sshd, "passwordauthentication", "", "yes", "no", Drift, "", "a file of /etc/ssh/sshd_config.d that is read before says otherwise, or `devbox provision prod`"}
	if !reflect.DeepEqual(found, []Difference{want}) {
		t.Errorf("%+v", found)
	}
}

// Packages with modules edit files of others.
func TestModules(t *testing.T) {
	repo, dev, prod := same()
	for name, module := range map[string]string{"/etc/nsswitch.conf": "libnss-mymachines", "/etc/pam.d/common-session": "libpam-systemd"} {
		dev.Facts.Files[name], prod.Facts.Files[name] = digestA, digestB
		dev.Facts.Packages[module] = facts.Package{Version: "257", Auto: true}
	}
	if found := Compare(repo, dev, prod); Count(found) != 0 || len(found) != 4 {
		t.Errorf("%+v", found)
	}
}

func TestContainers(t *testing.T) {
	repo, dev, prod := same()
	dev.Facts.System.Virt, dev.Facts.System.Kernel = "systemd-nspawn", "6.18.4"
	dev.Facts.Sysctls["kernel.panic"], dev.Facts.Sysctls["vm.swappiness"] = "1", "10"
	dev.Facts.Enabled["fstrim.timer"] = facts.Unit{State: "masked", Package: "systemd"}
	found := Compare(repo, dev, prod)
	if Count(found) != 0 || len(found) != 5 {
		t.Errorf("%+v", found)
	}
	// A container has a network of its own.
	dev.Facts.Sysctls["net.core.somaxconn"] = "128"
	// What a person masks there is drift as anywhere.
	dev.Facts.Enabled["apt-daily.timer"] = facts.Unit{State: "masked", Package: "systemd"}
	if found = Compare(repo, dev, prod); Count(found) != 2 {
		t.Errorf("%+v", found)
	}
}

var write = flag.Bool("update", false, "write the golden file instead of comparing it")

// Two architectures have two images, and that is all.
func TestArchitectures(t *testing.T) {
	repo, dev, prod := same()
	dev.Facts.System.Arch, dev.Facts.Running.Digest = "arm64", digestB
	if found := Compare(repo, dev, prod); Count(found) != 0 || len(found) != 2 {
		t.Errorf("%+v", found)
	}
	dev.Facts.Running = nil
	if found := Compare(repo, dev, prod); Count(found) != 1 {
		t.Errorf("%+v", found)
	}
}

func TestText(t *testing.T) {
	repo, dev, prod := same()
	dev.Facts.System.Host, prod.Facts.System.Host = "bowl", "vps7"
	prod.Facts.Provision.Hash = digestB
	for _, name := range []string{"a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"} {
		dev.Facts.Packages[name], prod.Facts.Packages[name] = facts.Package{Version: "2"}, facts.Package{Version: "1"}
	}
	dev.Facts.Packages["man-db"] = facts.Package{Version: "2.13", Base: true}
	prod.Facts.Users["mallory"] = facts.User{Shell: "/bin/sh", Groups: []string{"sudo"}}
	prod.Facts.Unknown = []facts.Unknown{{Part: "ports", Why: "systemctl list-sockets: not read within 10s"}}
	found := Compare(repo, dev, prod)
	n := Names{"dev", "prod"}
	got := strings.Join(Text(found, n, false), "\n") + "\n" + Summary(found) + "\n\nwith --all\n\n" + strings.Join(Text(found, n, true), "\n") + "\n"
	const golden = "testdata/text.golden"
	if *write {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || got != string(want) {
		t.Errorf("%v, got\n%s", err, got)
	}
}
