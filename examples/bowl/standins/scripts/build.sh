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
certs=$(dirname "$($tool github.com/letsencrypt/pebble/v2/cmd/pebble v2.10.1)")/localhost
if [ ! -d "$certs" ]; then
	module=$(go mod download -json github.com/letsencrypt/pebble/v2@v2.10.1 | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
	rm -rf "$certs.new"
	cp -R "$module/test/certs/localhost" "$certs.new"
	chmod -R u=rwX,go=rX "$certs.new"
	mv "$certs.new" "$certs"
fi
mkdir -p "$DEVBOX_STAGE/etc/standins"
cp "$certs/cert.pem" "$DEVBOX_STAGE/etc/standins/localhost.pem"
cp "$certs/key.pem" "$DEVBOX_STAGE/etc/standins/localhost.key"
