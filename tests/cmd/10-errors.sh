#!/bin/bash
# What bad input gets from the command: one line that says what is wrong and what to do, an exit status that isn't 0, and nothing changed.
# asan
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/tap.sh"
cd "$top" || exit 1
O=${O:-build}
case $O in /*) ;; *) O=$top/$O ;; esac
BIN=${TANDEMFS:-$O/tandemfs}
if [ "$(id -u)" != 0 ]; then skip "errors of the command" "needs root"; tap_end; exit; fi
TMP=$(mktemp -d /tmp/errors.XXXXXX)
cleanup() {
	umount "$TMP/b" "$TMP/b" "$TMP/small" "$TMP/ram" 2>/dev/null	# twice: a mount over it, should one have come about
	rm -rf "$TMP"
}
trap cleanup EXIT
mkdir -p "$TMP/b" "$TMP/conf" "$TMP/small" "$TMP/ram"
truncate -s 32M "$TMP/img"
mkfs.ext4 -q -F "$TMP/img"
mount -o loop "$TMP/img" "$TMP/b" || { skip "errors of the command" "no loop mounts here"; tap_end; exit; }
mkdir "$TMP/b/data" && echo x >"$TMP/b/data/file"
export TANDEMFS_CONF_DIR=$TMP/conf TANDEMFS_NODE=alpha

# conf NAME [LINE...]: writes a configuration; lines given replace the ones of the same option.
conf() {
	local name=$1 line
	shift
	{
		echo "[volume]"
		for line in "backing = $TMP/b" "state_dir = $TMP/state" "control_socket = $TMP/sock" "key_file = $TMP/key" "fence_peer = none"; do
			case " $* " in *" ${line%% =*} ="*) ;; *) echo "$line" ;; esac
		done
		printf '%s\n' "$@"
		printf '[node alpha]\nnumber = 1\naddress = 127.0.0.1:17421\n[node beta]\nnumber = 2\naddress = 127.0.0.1:17422\n'
	} >"$TMP/conf/$name.conf"
}
# says NAME STATUS PATTERN ARGUMENTS...: the command ends with STATUS and says one line that matches.
says() {
	local name=$1 want=$2 pattern=$3 out status
	shift 3
	out=$(timeout -k 5 60 "$BIN" "$@" 2>&1)
	status=$?
	if [ $status = "$want" ] && [ "$(printf '%s\n' "$out" | wc -l)" = 1 ] && printf '%s\n' "$out" | grep -qE -- "$pattern"; then ok "$name"; else
		not_ok "$name" "status $status, wanted $want and one line with: $pattern
$out"
	fi
}
# All that init could have changed.
snapshot() {
	find "$TMP/b" "$TMP/ram" "$TMP/small" -printf '%p %y %s %i\n' 2>/dev/null | sort
	getfattr -R -h -d -m - -e hex "$TMP/b" "$TMP/ram" 2>/dev/null
	find "$TMP/state" 2>/dev/null
}
unchanged() { # NAME: since the last call of `remember`
	local now
	now=$(snapshot)
	is "$1: nothing changed" "$(diff <(echo "$before") <(echo "$now"))" ""
}
remember() { before=$(snapshot); }

says "an unknown command is wrong usage" 2 "no such command" frobnicate
says "an unknown option is wrong usage" 2 "no such option" mount --frob home
says "a missing name is wrong usage" 2 "usage: tandemfs mount" mount
says "a missing configuration names the example" 1 "tandemfs.conf.example" mount home
says "a path is no volume's name" 1 "can't be a volume's name" mount ../home
conf home "color = red"
says "an unknown configuration option is named with its line" 1 "home.conf:[0-9]+: color: no such option" init home
conf home "queue = 1"
says "a value out of range is named" 1 "queue: .1. is out of range: 1MiB to 16GiB" init home
conf home "node = gamma"
TANDEMFS_NODE='' says "an unknown node name" 1 "no \[node gamma\]" init home
says "status --check of a bad configuration is unknown" 3 "No such file" -c "$TMP/conf/none.conf" status --check gamma
conf home "fence_peer = $TMP/img"
says "a fence program that can't run" 1 "chmod \+x" init home
conf home

remember
says "status without a daemon" 1 "no daemon of volume home answers" status home
says "status --check without a daemon is critical" 2 "CRITICAL: home: no daemon" status --check home
says "promote without a daemon" 1 "promote: no daemon.*tandemfs mount home" promote --fenced home
says "umount without a daemon" 1 "umount: no daemon" umount home
says "mount before init" 1 "tandemfs init home" mount -f home
says "a key that isn't there" 1 "key --generate" key home
says "a key that isn't there, joining" 1 "key --generate|is not empty" init --join beta home
says "handle of nonsense" 1 "neither a path" handle home x1
says "handle of a path outside" 1 "not mounted" handle home /etc/passwd
says "handle of wrong bytes" 1 "no handle" handle home 0x81:00
unchanged "what can't work"

conf nodir "backing = $TMP/nothing"
says "a backing directory that isn't there" 1 "create it first" init nodir
conf file "backing = $TMP/img"
says "a backing directory that is a file" 1 "Not a directory" init file
mount -t ramfs none "$TMP/ram"
conf ram "backing = $TMP/ram"
remember
says "a file system without what is needed" 1 "use ext4, xfs, btrfs or tmpfs" init ram
unchanged "a file system without what is needed"
conf proc "backing = /proc/self"
says "a pseudo file system" 1 "use ext4, xfs, btrfs or tmpfs" init proc

out=$(setpriv --bounding-set -sys_admin --inh-caps -sys_admin "$BIN" init home 2>&1)
case $out in *"CAP_SYS_ADMIN is missing"*) ok "a missing capability is named" ;; *) not_ok "a missing capability is named" "$out" ;; esac
out=$(setpriv --bounding-set -dac_read_search --inh-caps -dac_read_search "$BIN" init home 2>&1)
case $out in *"CAP_DAC_READ_SEARCH is missing"*) ok "another missing capability is named" ;; *) not_ok "another missing capability is named" "$out" ;; esac
unchanged "missing capabilities"

check "a key is made" "$BIN" key --generate home
is "the key is private" "$(stat -c %a "$TMP/key")" 600
says "a key is never overwritten" 1 "File exists" key --generate home
remember
says "joining wants an empty directory" 1 "is not empty" init --join beta home
says "joining wants a node that is configured" 1 "no other node of that name" -c <(sed "s|$TMP/b|$TMP/ram|" "$TMP/conf/home.conf") init --join nobody home
mkdir "$TMP/b/empty"
conf joiner "backing = $TMP/b/empty"
remember
says "joining a peer that doesn't answer" 1 "127.0.0.1:17422.*is the volume mounted there" init --join beta joiner
chmod 640 "$TMP/key"
says "a key that others can read" 1 "chmod 0600" init --join beta joiner
says "check-config looks at the key" 1 "chmod 0600" check-config home
chmod 600 "$TMP/key"
unchanged "failed joins"
rmdir "$TMP/b/empty"

# A tree that can't be adopted: the file system is full before all marks are set.
truncate -s 16M "$TMP/small.img"
mkfs.ext4 -q -F -I 128 -N 3000 "$TMP/small.img"
mount -o loop "$TMP/small.img" "$TMP/small"
mkdir "$TMP/small/d"
(cd "$TMP/small/d" && seq 2000 | xargs touch)
head -c 100M /dev/zero >"$TMP/small/fill" 2>/dev/null
truncate -s -200K "$TMP/small/fill"
conf small "backing = $TMP/small" "state_dir = $TMP/state.small"
remember
out=$("$BIN" init small 2>&1)
status=$?
if [ $status = 1 ] && echo "$out" | grep -q "adopting the tree failed after .*No space"; then ok "a tree that can't be adopted is left"; else
	not_ok "a tree that can't be adopted is left" "status $status
$out"
fi
unchanged "a tree that can't be adopted"
is "the state directory is gone" "$(ls "$TMP/state.small" 2>&1 | grep -c 'No such')" 1
is "its root is no volume" "$(getfattr -d -m - "$TMP/small" 2>/dev/null)" ""
rm "$TMP/small/fill"
check "with room it is adopted" "$BIN" init small

check "init makes a volume of a tree" "$BIN" init home
remember
says "a second init" 1 "holds the state of a volume already" init home
conf other "state_dir = $TMP/state.other"
says "a directory that belongs to a volume" 1 "belongs to volume .* as its node 1 already" init other
is "no state directory is left of it" "$(ls -d "$TMP/state.other" 2>/dev/null)" ""
unchanged "second inits"
TANDEMFS_NODE=beta says "the wrong node's state" 1 "is the state of node 1, but" mount -f home
tap_end
