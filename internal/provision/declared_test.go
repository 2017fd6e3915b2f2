package provision

import (
	"reflect"
	"testing"
)

func TestDeclares(t *testing.T) {
	got := Declares([]byte(`#cloud-config
timezone: Europe/Berlin
users:
  - default
  - name: deploy
    ssh_authorized_keys: [ssh-ed25519 AAAA ann]
packages: [sudo, [nginx, 1.26.3-3]]
write_files:
  - {path: /etc/plain, content: "text\n"}
  - {path: /etc/encoded, content: dGV4dAo=, encoding: b64}
  - {path: /etc/hosts, content: "10.0.0.1 db\n", append: true}
`))
	want := Declared{
		Files:    map[string][]byte{"/etc/plain": []byte("text\n"), "/etc/encoded": []byte("text\n"), "/etc/hosts": nil},
		Users:    map[string][]string{"deploy": {"ssh-ed25519 AAAA ann"}},
		Packages: []string{"sudo", "nginx"},
		Timezone: "Europe/Berlin",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
