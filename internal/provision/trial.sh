# What can lock people out of this host is changed on trial: what decides who
# gets in is kept as it was, and a timer on disk brings it back unless a new
# login has proved the new one. The timer counts from now, and after a power cut
# from the boot.
#
#   arm SECONDS USER…   before anything is changed; the caller holds the lock
#   renew SECONDS       the time begins anew, now that all is applied
#   keep                a login got in: no way back any more
#   undo                none did
#   timer               what the timer runs: undo, if the time is over
#
# undo and timer say what they brought back, a line each, in the file undone.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
umask 077
cd / || exit 1
base=/var/lib/devbox
trial=$base/trial
units=/etc/systemd/system

# Without a leading slash, as they lie below $trial/saved. A folder counts with
# all in it; what was not there is taken away again.
paths='etc/ssh etc/sudoers etc/sudoers.d etc/hosts.allow etc/hosts.deny
etc/nftables.conf etc/nftables.d etc/iptables
etc/systemd/system/ssh.service.d etc/systemd/system/ssh.socket.d'
services='ssh.service ssh.socket nftables.service ufw.service'

uptime() { cut -d. -f1 /proc/uptime; }
boot() { cat /proc/sys/kernel/random/boot_id; }
has() { command -v "$1" >/dev/null 2>&1; }
# The list of all below a path that is no folder.
below() { find "$@" ! -type d 2>/dev/null | sort; }

until_() {
	echo "$(boot) $(($(uptime) + $1)) $2" >"$trial/until.new" && mv -f "$trial/until.new" "$trial/until" && sync -f "$trial"
}

arm() {
	seconds=$1
	shift
	if [ -d "$trial" ]; then # of one that was cut off
		undo || return
	fi
	rm -rf "$trial.new"
	mkdir -p -m 755 "$base"
	mkdir -p "$trial.new/saved" "$trial.new/keys" || return
	for p in $paths; do
		[ ! -e "$p" ] || cp -a --parents "$p" "$trial.new/saved" || return
	done
	if has ufw; then
		: >"$trial.new/ufw"
		cp -a --parents etc/ufw etc/default/ufw "$trial.new/saved" || return
	fi
	for s in $services; do
		echo "$s $(systemctl is-enabled "$s" 2>/dev/null) $(systemctl is-active "$s" 2>/dev/null)"
	done >"$trial.new/services"
	if has nft; then
		nft -s list ruleset >"$trial.new/nft" || return
	elif has iptables-save; then
		{ iptables-save >"$trial.new/iptables" && ip6tables-save >"$trial.new/ip6tables"; } || return
	fi
	for user; do
		save_keys "$user" || return
	done
	sync -f "$trial.new" && mv -T "$trial.new" "$trial" && until_ "$seconds" "$(uptime)" || return

	printf '%s\n' "$self" >"$base/trial.sh" &&
		cat >"$units/devbox-undo.service" <<-END &&
			[Unit]
			Description=Bring back ssh, sudo and firewall as they were before devbox provision
			ConditionPathExists=$base/trial.sh

			[Service]
			Type=oneshot
			ExecStart=/bin/sh $base/trial.sh timer
			TimeoutStartSec=10min
		END
		cat >"$units/devbox-undo.timer" <<-END || return
			[Unit]
			Description=$(sed -n 's/^Description=//p' "$units/devbox-undo.service"), unless a new login gets in

			[Timer]
			OnActiveSec=${seconds}s
			OnUnitInactiveSec=5s
			AccuracySec=1s

			[Install]
			WantedBy=timers.target
		END
	chmod 644 "$units"/devbox-undo.* && sync -f "$units" "$base" &&
		systemctl daemon-reload && systemctl enable --now devbox-undo.timer && sync -f "$units"
}

# A user's files are read and written as that user, so that no link among them
# leads root elsewhere.
as() {
	who=$1
	shift
	if [ "$who" = root ]; then "$@"; else runuser -u "$who" -- "$@"; fi
}

keys_of() { echo "$(getent passwd "$1" | cut -d: -f6)/.ssh/authorized_keys"; }

save_keys() {
	id "$1" >/dev/null 2>&1 || { : >"$trial.new/keys/$1.none"; return; }
	file=$(keys_of "$1")
	if as "$1" test -e "$file"; then
		as "$1" cat "$file" >"$trial.new/keys/$1"
	else
		: >"$trial.new/keys/$1.none"
	fi
}

# Each part goes on with the next whatever happens: the more is brought back,
# the better the chance to get in.
undo() {
	: >"$trial/undone"
	undo_files
	undo_keys
	undo_services
	undo_firewall
	sync
	mv -f "$trial/undone" "$base/undone"
	rm -f "$base/provision.json" "$base/provision.files"
	mv -T "$trial" "$trial.old" && sync -f "$base"
	forget
}

said() { echo "$*" >>"$trial/undone"; }

same() {
	[ "$(stat -c '%F %a %u %g' "$1" 2>/dev/null)" = "$(stat -c '%F %a %u %g' "$2")" ] || return
	if [ -h "$2" ]; then [ "$(readlink "$1")" = "$(readlink "$2")" ]; else cmp -s "$1" "$2"; fi
}

# Taking away a file as its package brought it would leave the package broken.
packaged() {
	sum=$(md5sum <"$1" | cut -d' ' -f1)
	dpkg-query -W -f '${Conffiles}\n' 2>/dev/null | grep -qxF " $1 $sum"
}

undo_files() {
	(cd "$trial/saved" && below *) | while IFS= read -r f; do
		same "/$f" "$trial/saved/$f" && continue
		mkdir -p "/${f%/*}"
		rm -rf "/$f.devbox-undo"
		cp -a "$trial/saved/$f" "/$f.devbox-undo" && mv -fT "/$f.devbox-undo" "/$f" && said "restored /$f"
	done
	(cd "$trial/saved" && find . -mindepth 2 -type d) | while IFS= read -r d; do
		chmod --reference="$trial/saved/$d" "/$d"
		chown --reference="$trial/saved/$d" "/$d"
	done
	below $paths | while IFS= read -r f; do
		[ -e "$trial/saved/$f" ] || [ -h "$trial/saved/$f" ] || packaged "/$f" && continue
		rm -f "/$f" && said "removed /$f, which was not there before"
	done
}

undo_keys() {
	for saved in "$trial"/keys/*; do
		user=${saved##*/} && user=${user%.none}
		id "$user" >/dev/null 2>&1 || continue
		file=$(keys_of "$user")
		case $saved in
		*.none) as "$user" test -e "$file" && as "$user" rm -f "$file" && said "removed $file, which was not there before" ;;
		*)
			as "$user" cat "$file" 2>/dev/null | cmp -s - "$saved" && continue
			as "$user" sh -c 'umask 077; mkdir -p "${1%/*}" && cat >"$1.new" && sync "$1.new" && mv -fT "$1.new" "$1"' sh "$file" <"$saved" &&
				said "restored $file"
			;;
		esac
	done
}

# A service that was on is on again with its old settings, and the other way round.
undo_services() {
	systemctl daemon-reload
	while read -r s enabled active; do
		now=$(systemctl is-enabled "$s" 2>/dev/null)
		if [ "$enabled" = enabled ] && [ "$now" != enabled ]; then
			systemctl unmask "$s"
			systemctl enable "$s" && said "enabled $s"
		elif [ "$enabled" != enabled ] && [ "$now" = enabled ]; then
			systemctl disable "$s" && said "disabled $s"
		fi
		case $s-$active in
		ssh.*-active) systemctl reload-or-restart "$s" || systemctl restart "$s" || said "could not start $s" ;;
		esac
	done <"$trial/services"
}

undo_firewall() {
	if has ufw && ! [ -e "$trial/ufw" ]; then
		LC_ALL=C ufw status | grep -q '^Status: active' && ufw --force disable && said "disabled ufw, which was not there before"
	fi
	has nft || return 0
	if ! [ -e "$trial/nft" ]; then # there was no nft
		[ -z "$(nft list tables)" ] && return
		nft flush ruleset && said "emptied the firewall"
		[ ! -s "$trial/iptables" ] || iptables-restore <"$trial/iptables"
		[ ! -s "$trial/ip6tables" ] || ip6tables-restore <"$trial/ip6tables"
		return
	fi
	nft -s list ruleset | cmp -s - "$trial/nft" && return
	{ echo 'flush ruleset'; cat "$trial/nft"; } >"$trial/nft.load"
	if nft -f "$trial/nft.load"; then
		said "restored the firewall's rules"
		return
	fi
	# Rules that iptables made are printed and not read: then at least no table is new.
	nft list tables | while read -r table; do
		grep -qF "$table {" "$trial/nft" || { nft delete $table && said "removed the firewall's $table, which was not there before"; }
	done
}

# The timer goes last but for the script: a power cut before leaves it to do this.
forget() {
	rm -rf "$trial.old" "$trial.new"
	systemctl disable --now devbox-undo.timer 2>/dev/null
	rm -f "$units/devbox-undo.timer" "$units/devbox-undo.service"
	systemctl daemon-reload
	rm -f "$base/trial.sh"
	sync -f "$units" "$base"
}

lock() { exec 9>/run/devbox-provision.lock && flock "$@" 9; }

# Whoever applies holds the lock, and the time begins when that ends. One that
# does not come to its end is not waited for for ever.
on_timer() {
	if [ -d "$trial" ]; then
		read -r booted end armed <"$trial/until" || { booted=; end=0; armed=0; }
		if [ "$booted" = "$(boot)" ]; then
			[ "$(uptime)" -ge "$end" ] || exit 0
			lock -n || [ "$(uptime)" -ge $((armed + 2700)) ] || exit 0
			# Renewed by whoever had the lock until now.
			read -r booted end armed <"$trial/until" && [ "$(uptime)" -lt "$end" ] && exit 0
		fi
		undo
		exit
	fi
	forget
}

mode=$1
shift
case $mode in
arm)
	self=$1
	shift
	arm "$@"
	;;
renew)
	read -r booted end armed <"$trial/until" && until_ "$1" "$armed"
	;;
keep)
	lock -w 60 || exit
	[ -d "$trial" ] && [ -e "$trial/provision.json" ] || { echo gone; exit 0; }
	mv -T "$trial" "$trial.old" && sync -f "$base" || exit
	# A power cut here costs the record alone: the next run applies again.
	mv -f "$trial.old/provision.files" "$base/" && mv -f "$trial.old/provision.json" "$base/" && sync -f "$base" || exit
	rm -f "$base/undone"
	forget
	echo kept
	;;
undo)
	lock -w 60 || exit
	[ ! -d "$trial" ] || undo
	cat "$base/undone" 2>/dev/null
	;;
timer) on_timer ;;
esac
