#!/bin/sh
# Fills the staging folder of devbox with programs that are built from their modules once and kept.
set -eu
umask 022
: "${DEVBOX_STAGE:?is not set: devbox runs this script, by hand give it a folder}"
cd "$(dirname "$0")/.."
tool=../scripts/tool.sh

put() {
	ln -f "$1" "$2" 2>/dev/null || { rm -f "$2" && cp "$1" "$2"; }
}
mkdir -p "$DEVBOX_STAGE/usr/bin"
for program in \
	github.com/versity/versitygw/cmd/versitygw@v1.8.0 \
	github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1 \
	github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv@v2.10.1; do
	built=$($tool "${program%@*}" "${program#*@}")
	put "$built" "$DEVBOX_STAGE/usr/bin/$(basename "$built")"
done

# Pebble's own address needs a certificate; its module has one for localhost, which bowl trusts by the secret acme-ca.
module=$(go mod download -json github.com/letsencrypt/pebble/v2@v2.10.1 | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
mkdir -p "$DEVBOX_STAGE/etc/standins"
cp "$module/test/certs/localhost/cert.pem" "$DEVBOX_STAGE/etc/standins/localhost.pem"
cp "$module/test/certs/localhost/key.pem" "$DEVBOX_STAGE/etc/standins/localhost.key"
chmod 644 "$DEVBOX_STAGE"/etc/standins/*
