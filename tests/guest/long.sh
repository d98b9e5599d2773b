#!/bin/bash
# A kernel's NFS client in a virtual machine writes and syncs through ROUNDS (20) times: a switchover, a kill -9 and promotion, a cut link and promotion.
# It sees no error; the longest waits are printed.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/nfs/nfs.sh
. "$here/../nfs/nfs.sh"
# shellcheck source=tests/guest/qemu.sh
. "$here/qemu.sh"
lab_extra_cleanup() { pause_guest_down; }
qemu_prepare "$O/qemu" || exit 1
nfs_options "service_address = 10.77.0.100/24 dev eth0"
lab_or_die alpha:ext4 beta:xfs
check "the client works" pause_guest_up 10.77.0.100 || exit 1
P=alpha S=beta
swap() { local p=$P && P=$S && S=$p; }
kill_and_promote() {
	node_kill $P
	tfs $S promote --fenced
}
round() { # NAME COMMAND…
	local name=$1 ms
	shift
	ms=$(pause_of "$@" 2>&1)
	case $ms in *[!0-9]* | "") not_ok "$i: $name" "$ms" && return 1 ;; esac
	ok "$i: $name: the longest wait is $ms ms"
	echo "$name $ms" >>"$TMP/waits"
	swap
}
for i in $(seq "${ROUNDS:-20}"); do
	round switchover tfs $P switchover || break
	check "$i: level again" wait_for 60 level $P $S
	round kill kill_and_promote || break
	check "$i: level again" come_back $S $P
	round cut cut_and_promote $P $S || break
	node_kill $S
	link_up $S
	check "$i: level again" come_back $S $P
done
for name in switchover kill cut; do
	note "$name: $(sed -n "s/^$name //p" "$TMP/waits" | sort -n | awk '{ v[NR] = $1 } END { print "median " v[int((NR + 1) / 2)] " ms, longest " v[NR] " ms" }')"
done
pause_guest_down
trees_equal "at the end" $P $S
tap_end
