#!/bin/bash
# asan
# limit: 400
# Many threads in one directory, all racing each other: no errno that a race doesn't explain, and the standby is equal after it has drained: conflicting
# operations have one order on both nodes. LONG=1: an hour.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
rounds=$(short_or_long 3 120)
note "seed $SEED"
for r in $(seq "$rounds"); do
	check "racing threads, round $r (seed $((SEED + r)))" "$TOOLS/model" -r -s $((SEED + r)) -j 8 -t 8 "$(mnt alpha)"
	trees_equal "after round $r" alpha beta
done
tap_end
