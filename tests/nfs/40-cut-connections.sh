#!/bin/bash
# Connections break in the middle of calls and replies, again and again, some are just silent: clients connect again and send the same calls again. Each is
# executed once, and answered as it was the first time.
. "$(dirname "$0")/nfs.sh"
lab_or_die
nfs_client_up || exit 1
note "seed $SEED"
check "the server answers" wait_for 20 nfs_serves alpha

# Between the clients and the server: what cuts each connection after at most 200 kB.
nsenter --net="/run/netns/$ID-client" -- "$TOOLS/cutproxy" -s "$SEED" -n 100000 -M 200000 127.0.0.1 2049 "$(address alpha)" 2049 >"$TMP/cuts" 2>&1 &
proxy=$!
disown $proxy
nsenter --net="/run/netns/$ID-client" -- timeout 100 "$TOOLS/nfshistory" -S "$SEED" -c 6 -t "$(short_or_long 10 300)" / 127.0.0.1 >"$TMP/totals" 2>"$TMP/violations"
status=$?
note "$(cat "$TMP/totals")"
is "no client saw anything that can't be" "$status $(head -n 60 "$TMP/violations")" "0 "
kill $proxy
check "connections were cut: $(wc -l <"$TMP/cuts") times" [ "$(wc -l <"$TMP/cuts")" -gt 20 ]
check "calls were sent again: $(status alpha .nfs.replay_hits)" [ "$(status alpha '.nfs.replay_hits // .nfs.retransmissions // 0')" -gt 0 ]
trees_equal "at the end" alpha beta
tap_end
