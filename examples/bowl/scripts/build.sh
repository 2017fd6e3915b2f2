#!/bin/sh
# Fills the staging folder of devbox: GOOS, GOARCH and DEVBOX_STAGE are in the environment. Same inputs, same bytes.
set -eu
umask 022
: "${DEVBOX_STAGE:?is not set: devbox runs this script, by hand give it a folder}"
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
GOOS=${GOOS:-linux}
GOARCH=${GOARCH:-$(go env GOARCH)}
export GOOS GOARCH

# Into a folder that stays, so that go links nothing when nothing changed. Other flags would rebuild every package.
binary=bin/${GOOS}_$GOARCH/bowl
go build -trimpath -buildvcs=false -ldflags="-s -w" -o "$binary" ./cmd/bowl
litestream=$(scripts/tool.sh github.com/benbjohnson/litestream/cmd/litestream v0.5.18)

# A hard link costs nothing; another file system needs a copy.
put() {
	ln -f "$1" "$2" 2>/dev/null || { rm -f "$2" && cp "$1" "$2"; }
}
mkdir -p "$DEVBOX_STAGE/usr/bin" "$DEVBOX_STAGE/usr/share"
put "$binary" "$DEVBOX_STAGE/usr/bin/bowl"
put "$litestream" "$DEVBOX_STAGE/usr/bin/litestream"
rm -rf "$DEVBOX_STAGE/usr/share/bowl"
cp -R share "$DEVBOX_STAGE/usr/share/bowl"
chmod -R u=rwX,go=rX "$DEVBOX_STAGE/usr/share/bowl"
