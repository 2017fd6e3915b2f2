package vm

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/crypto/ssh"
)

// Lima gives the guest a new instance-id at every boot, at which cloud-init
// makes new SSH host keys. So that a client can still verify the machine, devbox
// makes a key of its own, and a script in the instance's configuration puts it in
// place before sshd starts. The script's first lines name the public key: they
// are how devbox knows the key, and an instance as its own, with no state kept
// elsewhere that could get lost or disagree.
const (
	limaMark    = "# made by devbox"
	limaKeyMark = "# devbox host key: "
)

// The key is not called ssh_host_*: cloud-init deletes those. The script runs as
// cloud-init's bootcmd, at every boot, ahead of sshd; should sshd run already, it
// is told to read its configuration again.
const limaKeyScript = limaMark + `
` + limaKeyMark + `%s
(
set -eu
umask 077
key=/etc/ssh/devbox_host_ed25519_key
conf=/etc/ssh/sshd_config.d/10-devbox-host-key.conf
new=$(mktemp /etc/ssh/.devbox.XXXXXX)
trap 'rm -f "$new"' EXIT
echo %s | base64 -d >"$new"
if ! cmp -s "$new" "$key" || ! test -e "$conf"; then
  echo '%s' >"$key.pub"
  mv "$new" "$key"
  mkdir -p "${conf%%/*}"
  echo "HostKey $key" >"$conf"
  sync "$key" "$conf"
  systemctl --no-block try-reload-or-restart ssh.service || true
fi
)
`

// newLimaBootScript makes a host key and the script that installs it.
func newLimaBootScript(comment string) (string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return "", fmt.Errorf("make host key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return "", fmt.Errorf("make host key: %w", err)
	}
	public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	secret := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(block))
	return fmt.Sprintf(limaKeyScript, public, secret, public), nil
}

// limaHostKey finds the host key in the scripts of an instance, nil if none of
// them was written by devbox.
func limaHostKey(scripts []string) ssh.PublicKey {
	for _, script := range scripts {
		if !strings.HasPrefix(script, limaMark+"\n") {
			continue
		}
		for line := range strings.Lines(script) {
			text, ok := strings.CutPrefix(line, limaKeyMark)
			if !ok {
				continue
			}
			if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text)); err == nil {
				return key
			}
		}
	}
	return nil
}

// writeKnownHosts makes path a known_hosts file with one entry, in the form of
// sshd(8) for a port other than 22. It is left alone if it says so already.
func writeKnownHosts(path, host string, port int, key ssh.PublicKey) error {
	want := append(fmt.Appendf(nil, "[%s]:%d ", host, port), ssh.MarshalAuthorizedKey(key)...)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return nil
	}
	if err := renameio.WriteFile(path, want, 0o600); err != nil {
		return fmt.Errorf("write the machine's host key: %w", err)
	}
	return nil
}
