#!/bin/sh
# tool.sh PACKAGE VERSION prints the path of that program for GOOS/GOARCH, built from its module once and kept.
set -eu
package=${1:?a package, such as github.com/benbjohnson/litestream/cmd/litestream}
version=${2:?a version, such as v0.5.18}
name=$(basename "$package")

GOOS=${GOOS:-$(go env GOOS)}
GOARCH=${GOARCH:-$(go env GOARCH)}
folder=${XDG_CACHE_HOME:-$HOME/.cache}/devbox/tools/$name/$version/${GOOS}_$GOARCH
binary=$folder/$name
if [ -x "$binary" ]; then
	echo "$binary"
	exit
fi

echo "building $name $version for $GOOS/$GOARCH, once (this may take minutes)" >&2
mkdir -p "$folder"
# devbox kills a build that a newer save makes pointless: then no trap runs, and the next build sweeps up.
for old in "$folder"/.build.*; do
	kill -0 "${old##*.}" 2>/dev/null || rm -rf "$old"
done
work=$folder/.build.$$
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
# go install writes cross-built binaries into a folder of their own below GOPATH/bin and refuses GOBIN, and GOPATH is
# where the module cache is. A module of one line knows neither limit.
cd "$work"
cat >go.mod <<MOD
module build

go 1.26.0
MOD
export GOOS GOARCH CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=mod
go get "$package@$version" >&2
go build -trimpath -buildvcs=false -ldflags="-s -w" -o "$name" "$package" >&2
mv "$name" "$binary"
echo "$binary"
