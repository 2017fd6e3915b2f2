package provision

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"devbox/internal/hint"
)

// HostPath is where devbox-host lies on every host. The cloud-config's sudoers
// line names it.
const HostPath = "/usr/local/sbin/devbox-host"

// recoverPath is the unit that has devbox-host recover at boot, and recoverLink
// what enables it, as `systemctl enable` makes it.
const (
	recoverPath = "/etc/systemd/system/devbox-recover.service"
	recoverLink = "/etc/systemd/system/sysinit.target.wants/devbox-recover.service"
)

//go:embed devbox-recover.service
var recoverUnit string

// installScript replaces the program in one step: whoever runs the old
// one keeps it, and a power cut leaves either the old or the new. The unit that
// recovers at boot is there before the program that has something to recover.
const installScript = `set -eu
path=$1 sum=$2 unit=$3 link=$4 text=$5
tmp=$(mktemp "${path%/*}/.${path##*/}.XXXXXXXX")
part=$(mktemp "${unit%/*}/.${unit##*/}.XXXXXXXX")
trap 'rm -f "$tmp" "$part"' EXIT
trap 'exit 1' HUP INT TERM PIPE
gzip -dc >"$tmp"
[ "$(sha256sum <"$tmp")" = "$sum  -" ] || { echo "it arrived damaged" >&2; exit 1; }
chown root:root "$tmp"
chmod 0755 "$tmp"
sync "$tmp"
printf %s "$text" >"$part"
chmod 0644 "$part"
sync "$part"
mv -fT "$part" "$unit"
mkdir -p "${link%/*}"
ln -sfT "$unit" "$part"
mv -fT "$part" "$link"
sync "${unit%/*}" "${link%/*}"
systemctl daemon-reload
mv -fT "$tmp" "$path"
sync "${path%/*}"`

// InstallHost makes binary the devbox-host of the host, and has it recover at
// boot. sum is its SHA-256 in hex. It says whether the host had another one, or none; where [ReadState]
// has shown the same sum already, there is no need to call it.
func InstallHost(ctx context.Context, r Runner, binary []byte, sum string) (changed bool, err error) {
	if Hash(binary) != sum {
		return false, fmt.Errorf("install devbox-host: it does not have the SHA-256 %s", sum)
	}
	state, err := ReadState(ctx, r)
	if err != nil {
		return false, fmt.Errorf("install devbox-host: %w", err)
	}
	if state.Host == sum {
		return false, nil
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(binary); err != nil {
		return false, fmt.Errorf("install devbox-host: %w", err)
	}
	if err := w.Close(); err != nil {
		return false, fmt.Errorf("install devbox-host: %w", err)
	}
	if _, err := output(ctx, r, installScript, &packed, HostPath, sum, recoverPath, recoverLink, recoverUnit); err != nil {
		return false, hint.Wrap(fmt.Errorf("install devbox-host: %w", err), "is there space left on the host? `df -h /usr /etc` tells")
	}
	return true, nil
}

// authorizeScript works as the user in the user's own folder, so that no link
// in it can make root write elsewhere. A key is the same key whatever options
// or comment stand around it.
const authorizeScript = `set -eu
user=$1
if ! id -- "$user" >/dev/null 2>&1; then echo "there is no user $user" >&2; exit 1; fi
home=$(getent passwd -- "$user" | cut -d: -f6)
exec runuser -u "$user" -- sh -c '
	set -eu
	umask 077
	dir=$1/.ssh line=$2 key=$3
	file=$dir/authorized_keys
	mkdir -p "$dir"
	[ -e "$file" ] || : >"$file"
	if grep -qF -- "$key" "$file"; then echo same; exit; fi
	tmp=$(mktemp "$dir/.authorized_keys.XXXXXXXX")
	trap "rm -f \"$tmp\"" EXIT
	{ cat "$file"; [ -z "$(tail -c1 "$file")" ] || echo; printf "%s\n" "$line"; } >"$tmp"
	sync "$tmp"
	mv -fT "$tmp" "$file"
' sh "$home" "$2" "$3"`

// AuthorizeKey lets the holder of a key, given as a line of authorized_keys,
// log in as the user. It is for dev machines, whose key devbox makes itself;
// who may deploy to a server stands in the cloud-config.
func AuthorizeKey(ctx context.Context, r Runner, user, line string) (changed bool, err error) {
	line = strings.TrimSpace(line)
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(rest) > 0 || strings.ContainsAny(line, "\r\n\x00") {
		return false, fmt.Errorf("authorize a key for %s: not one line of authorized_keys", user)
	}
	bare := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	out, err := output(ctx, r, authorizeScript, nil, user, line, bare)
	if err != nil {
		return false, hint.Wrap(fmt.Errorf("authorize a key for %s: %w", user, err), "let the cloud-config make this user, or correct deploy_user")
	}
	return string(bytes.TrimSpace(out)) != "same", nil
}
