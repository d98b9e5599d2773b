#!/bin/bash
# limit: 400
# The test of order and durability itself: a build that swaps two ops of the stream now and then, and one that acknowledges fsync before the peer
# has flushed, must fail it.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
here=$(cd "$(dirname "$0")" && pwd)
for mutant in SWAP EARLY_ACK; do
	M=$O/mutant-$mutant
	if ! make -s -j2 -C "$TOP" O="$M" OPT="-O0 -DTANDEMFS_MUTANT_$mutant" "$M/tandemfs" >"$TMP/build" 2>&1; then
		not_ok "$mutant: the mutant is built" "$(tail -n 5 "$TMP/build")"
		continue
	fi
	ok "$mutant: the mutant is built"
	TANDEMFS=$M/tandemfs ROUNDS=${ROUNDS:-10} "$here/10-kill-prefix.sh" >"$TMP/out" 2>&1
	rc=$?
	if [ "$rc" = 1 ] && grep -q '^ok 1 ' "$TMP/out"; then
		ok "$mutant: is caught: $(grep '^not ok' "$TMP/out" | head -n 1 | cut -d- -f2-)"
		note "$(grep '^#' "$TMP/out" | head -n 4)"
	else
		not_ok "$mutant: is caught" "status $rc
$(tail -n 5 "$TMP/out")"
	fi
done
tap_end
