package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// FileOptions say how a file on the host is written or read.
type FileOptions struct {
	Mode  fs.FileMode // permission bits; 0: 0644
	Owner string      // user or user:group, as chown takes it; "": who writes
	Sudo  bool        // as root, by sudo -n
}

// writeScript makes the file under a temporary name in the same folder and
// renames it when all of it is on disk. The size guards against a connection
// that is cut while the bytes flow: the script then sees only an end of file.
const writeScript = `set -eu
path=$1 size=$2 mode=$3 owner=$4
tmp=${path%/*}/.${path##*/}.$5
umask 077
set -C
: >"$tmp"
set +C
trap 'rm -f -- "$tmp"' EXIT
trap 'exit 1' HUP INT TERM PIPE
cat >"$tmp"
[ "$(wc -c <"$tmp")" -eq "$size" ] || { echo "received only a part of $path" >&2; exit 1; }
[ -z "$owner" ] || chown -- "$owner" "$tmp"
chmod -- "$mode" "$tmp"
sync -- "$tmp"
mv -fT -- "$tmp" "$path"
sync -- "${path%/*}/"`

// exitNoFile is readScript's exit code for a file that is not there.
const exitNoFile = 44

const readScript = `[ -e "$1" ] || [ -h "$1" ] || { test -d "${1%/*}/" && exit 44; }
exec cat -- "$1"`

// WriteFile puts data into the absolute path on the host: whole or not at all,
// and on disk when it returns. The folder must be there. A symbolic link at
// path is replaced.
func (c *Conn) WriteFile(ctx context.Context, file string, data []byte, o FileOptions) error {
	if err := validFile(file); err != nil {
		return fmt.Errorf("write to %s: %w", c.hop.Alias, err)
	}
	if o.Mode == 0 {
		o.Mode = 0o644
	}
	cmd := Command{
		Args:  o.args(writeScript, file, strconv.Itoa(len(data)), fmt.Sprintf("%04o", unixMode(o.Mode)), o.Owner, rand.Text()[:8]),
		Stdin: bytes.NewReader(data),
	}
	if err := c.Run(ctx, cmd); err != nil {
		return fmt.Errorf("write %s on %s: %w", file, c.hop.Alias, named(err, "write"))
	}
	return nil
}

// ReadFile returns a file of the host. It is fs.ErrNotExist to errors.Is if
// there is none.
func (c *Conn) ReadFile(ctx context.Context, file string, o FileOptions) ([]byte, error) {
	if err := validFile(file); err != nil {
		return nil, fmt.Errorf("read from %s: %w", c.hop.Alias, err)
	}
	var out bytes.Buffer
	err := c.Run(ctx, Command{Args: o.args(readScript, file), Stdout: &out})
	var exit *ExitError
	if errors.As(err, &exit) && exit.Code == exitNoFile {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read %s on %s: %w", file, c.hop.Alias, named(err, "read"))
	}
	return out.Bytes(), nil
}

func (o FileOptions) args(script string, args ...string) []string {
	line := append([]string{"sh", "-c", script, "sh"}, args...)
	if o.Sudo {
		line = append([]string{"sudo", "-n"}, line...)
	}
	return line
}

// named keeps our own script out of an error.
func named(err error, what string) error {
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Command = what
	}
	return err
}

func unixMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for flag, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return bits
}

func validFile(file string) error {
	if !path.IsAbs(file) || strings.HasSuffix(file, "/") {
		return fmt.Errorf("%q is not the absolute path of a file", file)
	}
	return nil
}
