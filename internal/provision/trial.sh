# What can lock people out of this host is changed on trial: what decides who
# gets in is kept as it was, and a timer on disk brings it back unless a new
# login has proved the new one. The timer counts from now, and after a power cut
# from the boot.
#
#   arm SECONDS ID USER…  before anything is changed; the caller holds the lock
#   renew SECONDS         the time begins anew, now that all is applied
#   live                  whether there is a trial that has time left
#   keep ID               a login got in: no way back any more
#   undo [ID]             none did
#   timer                 what the timer runs: undo, if the time is over
#
# ID is the trial's: nobody ends one that another devbox has begun since. undo
# and timer say what they brought back, a line each, in the file undone. The exit
# code of undo is 74 if that is not all, and 75 if another holds the lock.
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
# Without the time, which is in comments, and what the chains have counted.
rules_of() { "$1-save" | sed '/^#/d; /^:/s/\[.*/[0:0]/'; }
has() { command -v "$1" >/dev/null 2>&1; }
# The list of all below a path that is no folder.
below() { find "$@" ! -type d 2>/dev/null | sort; }

# until_ FILE SECONDS ARMED: the trial ends that many seconds from now.
until_() {
	echo "$(boot) $(($(uptime) + $2)) $3" >"$1.new" && mv -f "$1.new" "$1" && sync -f "$1"
}

# live tells whether a trial has time left. One of before a boot has none.
live() {
	booted='' end=0 armed=0
	[ -d "$trial" ] && read -r booted end armed <"$trial/until" && [ "$booted" = "$(boot)" ] && [ "$(uptime)" -lt "$end" ]
}

# mine ID: whether that is the trial; without ID, whether there is any.
mine() { [ -d "$trial" ] && { [ $# = 0 ] || [ "$(cat "$trial/id")" = "$1" ]; }; }

# The timer is there before there is something to undo, and the last step is the
# rename that arms it: cut off before, it finds nothing and takes itself away.
arm() {
	seconds=$1 id=$2
	shift 2
	if [ -d "$trial" ]; then # of one that was cut off
		undo || return
	fi
	rm -rf "$trial.new" "$trial.old"
	mkdir -p -m 755 "$base"
	mkdir -p "$trial.new/saved" "$trial.new/keys" && echo "$id" >"$trial.new/id" || return
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
		save_keys "$user" && getent shadow "$user" | cut -d: -f1,2 >>"$trial.new/passwords" || return
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
# back, as on a full disk, is tried again by the timer. From the first on there
# is nothing to keep.
undo() {
	[ -d "$trial/saved" ] || { rm -rf "$trial"; forget; return; }
	rm -f "$trial/provision.json"
	touch "$trial/undone" && sed -i '/^could not /d' "$trial/undone"
	whole=yes
	undo_files || whole=no
	undo_keys || whole=no
	undo_passwords || whole=no
	undo_services
	undo_firewall
	sync
	cp -f "$trial/undone" "$said"
	[ $whole = yes ] || return 74
	rm -f "$base/provision.json" "$base/provision.files"
	rm -rf "$trial.old"
	mv -T "$trial" "$trial.old" && sync -f "$base" && forget
}

said() { echo "$*" >>"$trial/undone" || true; }

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
	kept=0
	for saved in "$trial"/keys/*; do
		user=${saved##*/} && user=${user%.none}
		id "$user" >/dev/null 2>&1 || continue
		file=$(keys_of "$user")
		case $saved in
		*.none)
			as "$user" test -e "$file" || continue
			as "$user" rm -f "$file" && said "removed $file, which was not there before"
			;;
		*)
			as "$user" cat "$file" 2>/dev/null | cmp -s - "$saved" && continue
			as "$user" sh -c 'umask 077; mkdir -p "${1%/*}" && cat >"$1.new" && sync "$1.new" && mv -fT "$1.new" "$1" ||
				{ rm -f "$1.new"; exit 1; }' sh "$file" <"$saved" && said "restored $file"
			;;
		esac || { said "could not restore $file" && kept=1; }
	done
	return $kept
}

# A user that the cloud-config lists loses the password, if it does not say
# otherwise, and with it sudo that asks for one.
undo_passwords() {
	kept=0
	while IFS= read -r saved; do
		user=${saved%%:*}
		now=$(getent shadow "$user" | cut -d: -f1,2)
		[ -n "$now" ] && [ "$now" != "$saved" ] || continue
		if printf '%s\n' "$saved" | chpasswd -e; then
			said "restored the password of $user"
		else
			said "could not restore the password of $user"
			kept=1
		fi
	done <"$trial/passwords"
	return $kept
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
	! has nft || undo_nft
	# What nft cannot load, or does not see, as rules of iptables-legacy.
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

# one_table NAME: of a listing of all tables that one.
one_table() { awk -v head="$1 {" 'index($0, head) == 1 { on = 1 } on; on && /^}/ { exit }'; }

# Table by table: nft prints rules that iptables made, and cannot always load
# them again, which is to keep no other table from it. Such a one is taken away:
# iptables makes it anew.
undo_nft() {
	if ! [ -e "$trial/nft" ]; then # there was no nft
		[ -z "$(nft list tables)" ] || { nft flush ruleset && said "emptied the firewall"; }
		return
	fi
	nft list tables | while read -r table; do
		grep -qF "$table {" "$trial/nft" || { nft delete $table && said "removed the firewall's $table, which was not there before"; }
	done
	sed -n 's/^\(table .*\) {.*/\1/p' "$trial/nft" | while read -r table; do
		was=$(one_table "$table" <"$trial/nft")
		[ "$(nft -s list ruleset | one_table "$table")" != "$was" ] || continue
		# Added first, so that there is one to delete.
		if printf '%s\n' "add $table; delete $table" "$was" | nft -f -; then
			said "restored the firewall's $table"
		elif nft delete $table; then
			said "removed the firewall's $table, which nft cannot load as it was"
		fi
	done
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
	! live || return 0
	lock -n || { [ "$booted" = "$(boot)" ] && [ "$(uptime)" -ge $((armed + 2700)) ]; } || return 0
	# Whoever had the lock until now has ended the trial, or renewed it.
	[ -d "$trial" ] && ! live || return 0
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
live) live ;;
keep)
	lock -w 60 || exit
	mine "$1" && [ -e "$trial/provision.json" ] || { echo gone; exit 0; }
	rm -rf "$trial.old"
	mv -T "$trial" "$trial.old" && sync -f "$base" || exit
	# A power cut here costs the record alone: the next run applies again.
	mv -f "$trial.old/provision.files" "$base/" && mv -f "$trial.old/provision.json" "$base/" && sync -f "$base" || exit
	rm -f "$said"
	forget
	echo kept
	;;
undo)
	undone=0
	# Also where it is undone: the timer may be about to take itself away.
	lock -w 30 || ! mine "$@" || exit 75
	! mine "$@" || undo || undone=$?
	[ ! -e "$said" ] || cat "$said"
	exit $undone
	;;
timer) on_timer ;;
esac
