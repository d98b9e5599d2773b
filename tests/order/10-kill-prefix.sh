#!/bin/bash
# limit: 400
# What a kill may lose: writers of numbered records in many files, some with fsync; the primary is killed at a random moment, the standby is
# promoted: it holds a prefix of every file, everything that fsync acknowledged, and nothing without what returned before it. Then the killed
# node comes back, and next time it is the other one that dies. In every other round the network is cut shortly before the kill (shorter than
# peer_timeout, also on a busy machine: a primary that goes on alone keeps no promise to who is promoted then), so that much is under way. LONG=1: an
# hour; ROUNDS=n.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
LAB_OPTIONS="durability = ${DURABILITY:-commit}
peer_timeout = 20s
congestion_timeout = 1m"
case ${DURABILITY:-} in
async) promise="prefix and order" check=-p ;;
sync) promise="prefix, order and every record that returned" check=-a ;;
*) promise="prefix, order and every acknowledged record" check= ;;
esac
lab_or_die alpha:ext4 beta:xfs
rounds=${ROUNDS:-$(short_or_long 4 200)}
primary=alpha standby=beta
note "seed $SEED"
RANDOM=$((SEED % 32768))

kill_round() { # ROUND
	local dir=r$1 log=$TMP/log.$1 writer ms=$((300 + RANDOM % 2500)) out
	mkdir "$(mnt "$primary")/$dir"
	"$TOOLS/recorder" run -j 4 -f 48 -t 60 -y 3 "$log" "$(mnt "$primary")/$dir" >"$TMP/recorder.out" 2>&1 &
	writer=$!
	wait_for $((ms / 1000 + 1)) false_until $(($(now_ms) + ms))
	if [ $(($1 % 2)) = 0 ]; then
		link_down "$standby"
		wait_for 1 false_until $(($(now_ms) + 200))
	fi
	node_kill "$primary"
	link_up "$standby"
	wait "$writer"
	umount -l "$(mnt "$primary")"
	if ! out=$(tfs "$standby" promote --fenced 2>&1); then
		not_ok "round $1: $standby is promoted" "$out"
		return 1
	fi
	ok "round $1: $standby is promoted ($ms ms after the start)"
	# shellcheck disable=SC2086
	check "round $1: $promise" "$TOOLS/recorder" check $check "$log" "$(mnt "$standby")/$dir"
}
false_until() { [ "$(now_ms)" -ge "$1" ]; }

for r in $(seq "$rounds"); do
	kill_round "$r" || break
	check "round $r: the killed node returns and becomes level" come_back "$primary" "$standby"
	trees_equal "round $r" "$standby" "$primary"
	[ "$TAP_FAILED" = 0 ] || break
	t=$primary primary=$standby standby=$t
done
tap_end
