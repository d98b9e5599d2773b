#!/bin/bash
# limit: 3000
# Many NFS clients work while the primary is killed and the standby promoted, or the nodes change roles in order, again and again: every acknowledged operation
# is there, none happened twice, no lock has two holders, the nodes are equal in the end. First the clients know the nodes' addresses, then the service address only.
#   FAILOVERS=n    so many in each half (default: what fits into 20 s, with LONG=1 300); SEED=n
. "$(dirname "$0")/nfs.sh"
FAILOVERS=${FAILOVERS:-$(short_or_long 0 300)}
HISTORY_S=${HISTORY_S:-20}
SERVICE=10.77.0.100
nfs_options "service_address = $SERVICE/24 dev eth0"
lab_or_die
nfs_client_up || exit 1
note "seed $SEED"
check "the servers answer" wait_for 20 nfs_serves alpha
check "on both nodes" wait_for 20 nfs_serves beta
RANDOM=$((SEED % 32768))

progress() {
	local n=
	[ ! -s "$TMP/progress" ] || read -r n <"$TMP/progress"
	echo $((10#0$n))
}
beyond() { [ "$(progress)" -ge "$1" ] || gone "$history"; }
# The clients have done N operations more; or they have found something.
goes_on() {
	wait_for 60 beyond $(($(progress) + $1)) && ! gone "$history" && return
	echo "the clients stand still, or have found something" >>"$TMP/out"
	return 1
}

P=alpha S=beta
swap() { local p=$P && P=$S && S=$p; }
kill_primary() {
	node_kill $P
	tfs $S promote --fenced >"$TMP/out" 2>&1 || return 1
	swap
	kills=$((kills + 1))
	goes_on 200 || return 1
	come_back $S $P || { echo "$S does not return" >>"$TMP/out" && return 1; }
	rm -rf "$(back $S)"/.tandemfs/lost/*	# a small disk, and each return keeps some hundred versions
}
switch() {
	tfs $P switchover >"$TMP/out" 2>&1 || return 1
	swap
	switches=$((switches + 1))
	wait_for 60 level $P $S || { echo "$S is not level after the switchover" >>"$TMP/out" && return 1; }
}
more() { if [ "$FAILOVERS" -gt 0 ]; then [ $((kills + switches)) -lt "$FAILOVERS" ]; else [ $SECONDS -lt "$end" ]; fi; }

campaign() { # NAME HOST…
	local name=$1 good=1 status
	shift
	kills=0 switches=0 end=$((SECONDS + HISTORY_S))
	rm -f "$TMP/progress"
	# shellcheck disable=SC2086
	nsenter --net="/run/netns/$ID-client" -- "$TOOLS/nfshistory" -S "$SEED" -c 8 -o "$TMP/progress" ${HISTORY_OPTIONS:-} / "$@" >"$TMP/totals" 2>"$TMP/violations" &
	history=$!
	goes_on 500 || good=0
	while [ $good = 1 ] && more; do
		if [ $((RANDOM % 2)) = 0 ]; then kill_primary || good=0; else switch || good=0; fi
		[ $good = 0 ] || goes_on $((RANDOM % 1000)) || good=0
	done
	if [ $good = 1 ]; then ok "$name: $kills times killed, $switches times switched over"; else
		not_ok "$name: $kills times killed, $switches times switched over, then something went wrong" \
			"$(cat "$TMP/out"; tfs alpha status; tfs beta status; tail -n 20 "$TMP"/*/log)"
	fi
	kill -TERM $history
	wait $history
	status=$?
	note "$(cat "$TMP/totals")"
	is "$name: no client saw anything that can't be" "$status $(head -n 60 "$TMP/violations")" "0 "
	trees_equal "$name" $P $S
}
campaign "nodes' addresses" "$(address alpha)" "$(address beta)"
rm -rf "$(mnt $P)"/*
campaign "service address" $SERVICE
tap_end
