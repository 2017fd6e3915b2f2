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
trial=$base/provision.trial # with a dot: below $base are the apps' folders, too
said=$base/provision.undone
script=$base/provision.sh
units=/etc/systemd/system

# Without a leading slash, as they lie below $trial/saved. A folder counts with
# all in it; what was not there is taken away again.
paths='etc/ssh etc/sudoers etc/sudoers.d etc/hosts.allow etc/hosts.deny
etc/nftables.conf etc/nftables.d etc/iptables
etc/systemd/system/ssh.service.d etc/systemd/system/ssh.socket.d'
services='ssh.service ssh.socket nftables.service ufw.service'

uptime() { cut -d. -f1 /proc/uptime; }
boot() { cat /proc/sys/kernel/random/boot_id; }
# Without the comments, which have the time.
rules_of() { "$1-save" | sed '/^#/d'; }
has() { command -v "$1" >/dev/null 2>&1; }
# The list of all below a path that is no folder.
below() { find "$@" ! -type d 2>/dev/null | sort; }

# until_ FILE SECONDS ARMED: the trial ends that many seconds from now.
until_() {
	echo "$(boot) $(($(uptime) + $2)) $3" >"$1.new" && mv -f "$1.new" "$1" && sync -f "$1"
}

# The timer is there before there is something to undo, and the last step is the
# rename that arms it: cut off before, it finds nothing and takes itself away.
arm() {
	seconds=$1
	shift
	if [ -d "$trial" ]; then # of one that was cut off
		undo || return
	fi
	rm -rf "$trial.new" "$trial.old"
	mkdir -p -m 755 "$base"
	mkdir -p "$trial.new/saved" "$trial.new/keys" || return
	for p in $paths; do
		[ ! -e "$p" ] || cp -a --parents "$p" "$trial.new/saved" || return
	done
	if has ufw; then
		ufw status | head -n1 >"$trial.new/ufw"
		cp -a --parents etc/ufw etc/default/ufw "$trial.new/saved" || return
	fi
	for s in $services; do
		echo "$s $(systemctl is-enabled "$s" 2>/dev/null) $(systemctl is-active "$s" 2>/dev/null)"
	done >"$trial.new/services"
	if has nft; then
		nft -s list ruleset >"$trial.new/nft" || return
	fi
	for kind in iptables ip6tables; do
		! has $kind-save || rules_of $kind >"$trial.new/$kind" || return
	done
	for user; do
		save_keys "$user" || return
	done

	printf '%s\n' "$self" >"$script" &&
		cat >"$units/devbox-undo.service" <<-END &&
			[Unit]
			Description=Bring back ssh, sudo and firewall as they were before devbox provision
			ConditionPathExists=$script

			[Service]
			Type=oneshot
			ExecStart=/bin/sh $script timer
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
		systemctl daemon-reload && systemctl enable --now devbox-undo.timer && sync -f "$units" &&
		until_ "$trial.new/until" "$seconds" "$(uptime)" && sync -f "$trial.new" && mv -T "$trial.new" "$trial" && sync -f "$base"
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
# the better the chance to get in. The caller holds the lock: a second one would
# take away what the first has moved its copies of. What could not be brought
# back, as on a full disk, is tried again by the timer.
undo() {
	[ -d "$trial/saved" ] || { rm -rf "$trial"; forget; return; }
	printf '' >"$trial/undone"
	whole=yes
	undo_files || whole=no
	undo_keys
	undo_services
	undo_firewall
	sync
	cp -f "$trial/undone" "$said"
	[ $whole = yes ] || return 1
	rm -f "$base/provision.json" "$base/provision.files"
	rm -rf "$trial.old"
	mv -T "$trial" "$trial.old" && sync -f "$base" && forget
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

# A link to the copy needs no space on the disk.
bring() { cp -al "$1" "$2" 2>/dev/null || cp -a "$1" "$2"; }

undo_files() {
	(cd "$trial/saved" && below *) | {
		whole=yes
		while IFS= read -r f; do
			same "/$f" "$trial/saved/$f" && continue
			mkdir -p "/${f%/*}"
			rm -rf "/$f.devbox-undo"
			if bring "$trial/saved/$f" "/$f.devbox-undo" && mv -fT "/$f.devbox-undo" "/$f"; then
				said "restored /$f"
			else
				said "could not restore /$f"
				whole=no
			fi
		done
		[ $whole = yes ]
	}
	restored=$?
	(cd "$trial/saved" && find . -mindepth 2 -type d) | while IFS= read -r d; do
		chmod --reference="$trial/saved/$d" "/$d"
		chown --reference="$trial/saved/$d" "/$d"
	done
	below $paths | while IFS= read -r f; do
		[ -e "$trial/saved/$f" ] || [ -h "$trial/saved/$f" ] || packaged "/$f" && continue
		rm -f "/$f" && said "removed /$f, which was not there before"
	done
	return $restored
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
	undo_ufw
	if has nft; then
		undo_nft && return
	fi
	# Rules that iptables made are printed by nft, and not read by it.
	for kind in iptables ip6tables; do
		[ -s "$trial/$kind" ] || continue
		rules_of $kind | cmp -s - "$trial/$kind" && continue
		$kind-restore <"$trial/$kind" && said "restored the rules of $kind"
	done
}

undo_ufw() {
	has ufw || return 0
	case $(cat "$trial/ufw" 2>/dev/null)-$(ufw status | head -n1) in
	*:\ active-*) ufw --force enable && ufw reload ;; # by its files of before
	*-*:\ active) ufw --force disable && said "disabled ufw, which was not on before" ;;
	esac
}

# It fails if the rules of before cannot be loaded by nft.
undo_nft() {
	if ! [ -e "$trial/nft" ]; then # there was no nft
		[ -z "$(nft list tables)" ] || { nft flush ruleset && said "emptied the firewall"; }
		return 1
	fi
	nft -s list ruleset | cmp -s - "$trial/nft" && return
	{ echo 'flush ruleset'; cat "$trial/nft"; } >"$trial/nft.load"
	if nft -f "$trial/nft.load"; then
		said "restored the firewall's rules"
		return
	fi
	# At least no table is new.
	nft list tables | while read -r table; do
		grep -qF "$table {" "$trial/nft" || { nft delete $table && said "removed the firewall's $table, which was not there before"; }
	done
	return 1
}

# The timer goes last but for the script: a power cut before leaves it to do this.
forget() {
	rm -rf "$trial.old" "$trial.new"
	systemctl disable --now devbox-undo.timer 2>/dev/null
	rm -f "$units/devbox-undo.timer" "$units/devbox-undo.service"
	systemctl daemon-reload
	rm -f "$script"
	sync -f "$units" "$base"
}

lock() { exec 9>/run/devbox-provision.lock && flock "$@" 9; }

# Whoever applies holds the lock, and the time begins when that ends. One that
# does not come to its end is not waited for for ever.
on_timer() {
	[ -d "$trial" ] || { ! lock -n || forget; return; }
	read -r booted end armed <"$trial/until" || { booted=; end=0; armed=0; }
	if [ "$booted" != "$(boot)" ]; then
		lock -n || return 0
	else
		[ "$(uptime)" -ge "$end" ] || return 0
		lock -n || [ "$(uptime)" -ge $((armed + 2700)) ] || return 0
	fi
	# Whoever had the lock until now has ended the trial, or renewed it.
	[ -d "$trial" ] || return 0
	read -r booted end armed <"$trial/until" && [ "$booted" = "$(boot)" ] && [ "$(uptime)" -lt "$end" ] && return 0
	undo
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
	read -r booted end armed <"$trial/until" && until_ "$trial/until" "$1" "$armed"
	;;
keep)
	lock -w 60 || exit
	[ -d "$trial" ] && [ -e "$trial/provision.json" ] || { echo gone; exit 0; }
	rm -rf "$trial.old"
	mv -T "$trial" "$trial.old" && sync -f "$base" || exit
	# A power cut here costs the record alone: the next run applies again.
	mv -f "$trial.old/provision.files" "$base/" && mv -f "$trial.old/provision.json" "$base/" && sync -f "$base" || exit
	rm -f "$said"
	forget
	echo kept
	;;
undo)
	lock -w 60 || exit
	undone=0
	[ ! -d "$trial" ] || undo || undone=1
	[ ! -e "$said" ] || cat "$said"
	exit $undone
	;;
timer) on_timer ;;
esac
