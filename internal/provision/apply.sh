# Applies a cloud-config, read from stdin, to this host. Says what it does on
# stdout, one record a line; everything else goes into the records, in base64.
# A record that reports a failure ends the script, with exit code 0: other exit
# codes mean that the script itself could not go on.
set -u
#
# With a trial ($6 is its time in seconds) the record that the file is applied
# waits in the trial's folder until a new login got in: see trial.sh.
hash=$1 version=$2 force=$3 packages=$4 base=$5 seconds=$6 trial=$7 id=$8 users=$9
shift 9
files=$1
shift # the steps are left

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
umask 022
cd / || exit 1
record=/var/lib/devbox/provision.json
log=/var/log/cloud-init.log

applied() {
	[ "$force" = no ] && grep -qF "\"hash\":\"$hash\",\"version\":$version," "$record" 2>/dev/null
}

# step NAME COMMAND… runs a command and reports how it ended, what it printed
# and what cloud-init logged meanwhile.
step() {
	name=$1
	shift
	echo "begin $name"
	before=$(stat -c %s "$log" 2>/dev/null || echo 0)
	: >"$dir/out"
	"$@" >>"$dir/out" 2>&1 </dev/null 9>&- # what it leaves running does not hold the lock
	code=$?
	said=$(tail -c "+$((before + 1))" "$log" 2>/dev/null | grep -av '\[DEBUG\]' | tail -c 65536 | base64 -w0)
	out=$(tail -c 65536 "$dir/out" | base64 -w0)
	echo "end $name $code ${said:--} ${out:--}"
	[ "$code" = 0 ] || exit 0
}

# Booting may still be applying what the provider or Lima gave.
booted() {
	timeout 900 cloud-init status --wait
	[ $? != 124 ]
}

# The second run marks the lines that are wrong, in a listing of the file.
schema() {
	cloud-init schema -c "$dir/config.yaml" || {
		cloud-init schema --annotate -c "$dir/config.yaml"
		return 1
	}
}

# A module may log an error, go on and count as run: "Failed to update package".
module() {
	start=$(stat -c %s "$log" 2>/dev/null || echo 0)
	cloud-init --force single --file "$dir/config.yaml" --name "$1" --frequency always || return
	! tail -c "+$((start + 1))" "$log" | grep -aqE '\[(ERROR|CRITICAL)\]: '
}

# Whatever package_update says, cloud-init reads the package lists once in the
# life of an instance: a package named months later would be looked for in the
# old lists. Its mark of having read them is this file.
packages() {
	rm -f /var/lib/cloud/instance/sem/update_sources /var/lib/cloud/instances/*/sem/update_sources
	module package_update_upgrade_install
}

installed() {
	[ -n "$packages" ] || return
	# Unquoted: one word for each package, of letters that no shell minds.
	dpkg-query -W -f '${db:Status-Status}\n' $packages >"$dir/have" 2>/dev/null || return 1
	! grep -qvx installed "$dir/have"
}

# The module only writes a script into the folder of the instance, which is
# another one where there is no data source.
runcmd() {
	touch "$dir/mark"
	module runcmd || return
	for script in /var/lib/cloud/instance/scripts/runcmd /var/lib/cloud/instances/*/scripts/runcmd; do
		if [ "$script" -nt "$dir/mark" ]; then
			: >"$dir/out" # only what the script itself says
			sh -x "$script"
			return
		fi
	done
	echo "cloud-init wrote no runcmd script"
	return 1
}

# What a bare server lacks. cloud-init is here to be run by devbox alone: that
# it comes must not let its boot services loose on a server that had none.
prepare() {
	export DEBIAN_FRONTEND=noninteractive
	if lacks cloud-init; then
		mkdir -p /etc/cloud && echo "Made by devbox, which installed cloud-init and runs it over SSH." >/etc/cloud/cloud-init.disabled || return
	fi
	apt update && apt -y --no-install-recommends -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install $base
}

# The timeout is for dpkg's lock only; the lists' own is tried for again here.
apt() {
	for try in 1 2 3 4 5 6 7 8 9 10; do
		apt-get -q -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" >"$dir/apt" 2>&1
		said=$?
		cat "$dir/apt"
		[ $said != 0 ] || return 0
		grep -q '^E: Could not get lock ' "$dir/apt" || return $said
		sleep 30
	done
	return $said
}

lacks() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" != installed ]; }

arm() {
	# Unquoted: one word for each user.
	sh -c "$trial" trial arm "$trial" "$seconds" "$id" $users
}

# alone gets the lock, but not where something of another is on trial: whoever
# proves that needs the lock, and the host as it is.
alone() {
	flock -n 9 || return
	[ "$seconds" = 0 ] || ! sh -c "$trial" trial live || {
		flock -u 9
		return 1
	}
}

# The files as they are now, in the words of look.sh: what differs from this
# later was changed by someone else.
as_written() {
	printf '%s\n' "$files" | while IFS= read -r f; do
		[ ! -f "$f" ] || echo "$(sha256sum <"$f" | cut -c1-64) $(stat -L -c '%04a %U:%G' "$f") $f"
	done
}

if applied; then
	echo same
	exit 0
fi
exec 9>/run/devbox-provision.lock || exit 1
tries=0
until alone; do
	tries=$((tries + 1))
	case $tries in
	1) echo waiting ;;
	600)
		echo busy
		exit 0
		;;
	esac
	sleep 1
done
if applied; then # by whoever had the lock
	echo same
	exit 0
fi
[ -n "$base" ] || for need in cloud-init python3-jsonschema; do
	if lacks "$need"; then
		echo "missing $need"
		exit 0
	fi
done
dir=$(mktemp -d /run/devbox-provision.XXXXXXXX) || exit 1
trap 'rm -rf "$dir"' EXIT
# Told to end, or left alone by its client: after the step that runs.
trap 'exit 1' HUP INT TERM PIPE
cat >"$dir/config.yaml"
if [ "$(sha256sum <"$dir/config.yaml")" != "$hash  -" ]; then
	echo "received only a part of the cloud-config" >&2
	exit 1
fi

for need in $base; do
	if lacks "$need"; then
		step prepare prepare
		break
	fi
done
[ -e /run/cloud-init/result.json ] || [ -e /run/cloud-init/disabled ] || step boot booted
step schema schema
[ "$seconds" = 0 ] || step trial arm

rm -f "$record" # from here on the host is neither the old nor the new
for name; do
	case $name in
	runcmd) step runcmd runcmd ;;
	package_update_upgrade_install)
		if installed; then
			echo "skip $name"
		else
			step "$name" packages
		fi
		;;
	*) step "$name" module "$name" ;;
	esac
done

mkdir -p "${record%/*}" && cd "${record%/*}" && as_written >files.new &&
	printf '{"hash":"%s","version":%s,"at":"%s"}\n' "$hash" "$version" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >record.new &&
	sync || exit 1
if [ "$seconds" != 0 ]; then
	record=$PWD/provision.trial/provision.json
	if ! sh -c "$trial" trial renew "$seconds"; then
		echo undone # by the timer, after the longest time that this may take
		exit 0
	fi
fi
mv -f files.new "${record%.json}.files" && mv -f record.new "$record" && sync -f "${record%/*}" || exit 1
echo done
