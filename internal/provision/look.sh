# Looks at a host and changes nothing. The arguments are the script that tells
# what devbox set up, the path of devbox-host, and pairs: what to look at, and
# which. Says what it finds, one record a line; a text is in base64, or - if it
# is empty.
set -u
state=$1 host=$2
shift 2
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
cd / || exit 1

text() {
	t=$(head -c 65536 | base64 -w0)
	printf ' %s' "${t:--}"
}
word() { printf %s "$1" | text; }
line() { # KIND TEXT…
	printf %s "$1"
	shift
	for t; do word "$t"; done
	echo
}

line os "$(. /etc/os-release && echo "$ID")" "$(. /etc/os-release && echo "$VERSION_ID")" "$(. /etc/os-release && echo "$PRETTY_NAME")"
line init "$(cat /proc/1/comm)" "$(systemctl --version 2>/dev/null | head -n1)"
line arch "$(uname -m)"
line clock "$(date +%s)"
for d in /etc /usr /var/lib; do # test -w says no on a file system that is read-only
	[ -w "$d" ] || line readonly "$d"
	line space "$d" "$(df -k --output=avail "$d" | sed -n '2s/ //gp')"
done
if command -v apt-get >/dev/null; then
	line apt "$(dpkg --audit 2>&1)"
else
	line apt "there is no apt-get"
fi
[ ! -e /run/cloud-init/status.json ] || [ -e /run/cloud-init/result.json ] || line booting
line state "$(sh -c "$state" | head -c 4096)"
[ ! -x "$host" ] || line host "$("$host" version 2>/dev/null | head -c 200)"
[ ! -d /var/lib/devbox/provision.trial ] || line trial
[ ! -e /var/lib/devbox/provision.undone ] || line undone "$(cat /var/lib/devbox/provision.undone)"
while [ $# -gt 1 ]; do
	case $1 in
	package) [ "$(dpkg-query -W -f '${db:Status-Status}' "$2" 2>/dev/null)" != installed ] || line package "$2" ;;
	user) ! id "$2" >/dev/null 2>&1 || line user "$2" ;;
	group) ! getent group "$2" >/dev/null || line group "$2" ;;
	keys)
		home=$(getent passwd "$2" | cut -d: -f6)
		[ ! -f "$home/.ssh/authorized_keys" ] || { printf 'keys'; word "$2"; text <"$home/.ssh/authorized_keys"; echo; }
		;;
	file)
		if [ -f "$2" ]; then
			printf 'file'
			word "$2"
			printf ' %s %s' "$(sha256sum <"$2" | cut -c1-64)" "$(stat -L -c '%04a %U:%G %s' "$2")"
			text <"$2"
			echo
		elif [ -e "$2" ]; then
			line notfile "$2"
		fi
		;;
	esac
	shift 2
done
if [ -e /var/lib/devbox/provision.files ]; then
	printf 'written'
	text </var/lib/devbox/provision.files
	echo
fi
echo end
