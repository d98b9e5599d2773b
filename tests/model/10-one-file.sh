#!/bin/bash
# asan
# limit: 400
# One file against a model in memory (reads, writes, mappings, truncation, holes, copies), on the primary; the standby is equal in the end.
# LONG=1: an hour.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
seconds=$(short_or_long 12 1200)
note "seed $SEED"
for i in 1 2 3; do
	opts=
	[ "$i" != 2 ] || opts=-d
	# shellcheck disable=SC2086
	check "one file, part $i${opts:+, with O_DIRECT} (seed $((SEED + i)))" \
		"$TOOLS/filex" -s $((SEED + i)) -t "$seconds" $opts "$(mnt alpha)/file$i"
done
trees_equal "after the exerciser" alpha beta
tap_end
