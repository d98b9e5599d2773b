#!/bin/bash
# limit: 300
# The network goes silently: the primary's applications go on within a second, the standby knows that it is outdated and refuses promotion, and when the
# network is back it becomes level by itself.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha) B=$(mnt beta)
"$TOP/tests/demo/project.sh" "$TMP/project" 30
for round in 1 2 3; do
	(
		worst=0
		for i in $(seq 4000); do
			t=$(now_ms)
			echo "$i" >"$A/beat" && sync "$A/beat" || exit 1
			d=$(($(now_ms) - t))
			[ "$d" -le "$worst" ] || worst=$d
			[ ! -e "$TMP/enough" ] || break
		done
		echo "$worst" >"$TMP/worst"
	) &
	beat=$!
	wait_for 1 false
	link_down beta
	dropped() { [ "$(status alpha '.sync_set | join(" ")')" = alpha ]; }
	check "round $round: the primary goes on alone" wait_for 10 dropped
	cp -a "$TMP/project" "$A/project$round"
	touch "$TMP/enough"
	wait "$beat"
	is "round $round: no application got an error" $? 0
	worst=$(cat "$TMP/worst")
	if [ "$worst" -le "${STALL_LIMIT:-2000}" ]; then ok "round $round: the longest stall was $worst ms"; else not_ok "round $round: the longest stall is bounded" "$worst ms"; fi
	rm -f "$TMP/enough"
	check_fails "round $round: status --check of the primary is not healthy" tfs alpha status --check
	check_fails "round $round: the cut-off standby refuses promotion" tfs beta promote
	link_up beta
	check "round $round: it becomes level again" wait_for 60 level alpha beta
	trees_equal "round $round" alpha beta
done
tap_end
