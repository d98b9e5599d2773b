#!/bin/bash
# limit: 400
# Random operations from many threads while the network is cut, the standby's daemon is killed and brought back, and the primary is killed and replaced, at
# random moments. After each round the nodes are equal. LONG=1: an hour.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
rounds=$(short_or_long 5 200)
note "seed $SEED"
RANDOM=$((SEED % 32768))
primary=alpha standby=beta
pause() { wait_for "$1" false; }
for r in $(seq "$rounds"); do
	kind=$((r % 3))
	"$TOOLS/model" -r -s $((SEED + r)) -j 6 -t 6 "$(mnt "$primary")" >"$TMP/model.out" 2>&1 &
	m=$!
	pause 1
	case $kind in
	0)
		what="the network cut twice"
		for _ in 1 2; do
			link_down "$standby"
			pause $((1 + RANDOM % 2))
			link_up "$standby"
			pause 1
		done
		;;
	1)
		what="the standby killed"
		node_kill "$standby"
		pause $((1 + RANDOM % 2))
		node_start "$standby"
		;;
	2)
		what="the primary killed"
		node_kill "$primary"
		;;
	esac
	wait "$m"
	rc=$?
	is "round $r ($what): no wrong result" "$rc" "$([ "$kind" = 2 ] && echo 3 || echo 0)"
	[ "$rc" != 1 ] || note "$(cat "$TMP/model.out")"
	if [ "$kind" = 2 ]; then
		umount -l "$(mnt "$primary")"
		check "round $r: the standby is promoted" tfs "$standby" promote --fenced
		check "round $r: the killed node returns" come_back "$primary" "$standby"
		t=$primary primary=$standby standby=$t
	else
		check "round $r: the standby becomes level" wait_for 60 level "$primary" "$standby"
	fi
	trees_equal "round $r ($what)" "$primary" "$standby"
	[ "$TAP_FAILED" = 0 ] || break
done
tap_end
