#!/bin/bash
# asan
# limit: 150
# Daemons are stopped in order in the middle of work, while people ask for their status: each ends, nothing is lost, and they meet again.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:ext4
A=$(mnt alpha)

# Both end when $TMP/enough is there.
write_on() { local i=0; while [ ! -e "$TMP/enough" ]; do i=$((i + 1)); echo "$i" >"$1/w$((i % 50))" && { [ $((i % 5)) != 0 ] || sync "$1/w$((i % 50))"; }; done; }
ask() { while [ ! -e "$TMP/enough" ]; do tfs "$1" status --json >/dev/null 2>&1; done; }

write_on "$A" 2>/dev/null &
writer=$!
ask beta &
asker=$!
for i in 1 2 3; do
	check "the standby stops in the middle of work ($i)" node_stop beta
	check "and comes back" node_start beta
	check "and becomes level" wait_for 40 level alpha beta
done
touch "$TMP/enough"
wait "$writer" "$asker"
rm "$TMP/enough"
trees_equal "after stops of the standby" alpha beta

ask alpha &
asker=$!
check "the primary stops while it is asked for its status" node_stop alpha
touch "$TMP/enough"
wait "$asker"
rm "$TMP/enough"
check "its role was handed over: the standby is promoted without --fenced" tfs beta promote
check "it takes changes" touch "$(mnt beta)/after"
check "the old primary comes back" node_start alpha
check "and becomes level" wait_for 40 level beta alpha
trees_equal "after a stop of the primary" beta alpha
tap_end
