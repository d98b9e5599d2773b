#!/bin/bash
# limit: 300
# Local file systems that fail below a node: EIO and ENOSPC before and after operations were done, short writes, daemons that die at a random operation. The
# applications get errors; the nodes are equal afterwards all the same. LONG=1: an hour.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
LAB_OPTIONS="start_as = last"
lab_or_die alpha:ext4 beta:xfs
note "seed $SEED"
run() { # the node's daemon again, with RULES
	local n=$1
	shift
	node_stop "$n" && node_start "$n" "$@"
}
changes='op=create|unlink|rename|link|rmdir|setattr|setxattr|write|fallocate|copy_range'
seconds=$(short_or_long 4 600)

for rules in "$changes,prob=0.02,error=EIO,seed=$SEED" "$changes,prob=0.02,error=ENOSPC,after,seed=$SEED" "op=write|copy_range,prob=0.2,short=100,seed=$SEED"; do
	what=${rules#*prob}
	check "primary with faults ($what) comes up" run alpha --fault "$rules"
	[ "$TAP_FAILED" = 0 ] || break
	check "it is primary" wait_for 20 is_primary alpha
	check "and its standby level" wait_for 30 level alpha beta
	check "work goes on ($what)" "$TOOLS/model" -e -r -s "$SEED" -j 4 -t "$seconds" "$(mnt alpha)"
	check "the standby is level ($what)" wait_for 60 level alpha beta
	trees_equal "after the primary's faults ($what)" alpha beta
	[ "$TAP_FAILED" = 0 ] || break
done
[ "$TAP_FAILED" = 0 ] || { tap_end; exit 1; }
check "the primary without faults" run alpha
check "is primary" wait_for 20 is_primary alpha
for rules in "$changes,prob=0.0005,error=EIO,seed=$SEED" "op=fsync,prob=0.05,error=EIO,limit=3,seed=$SEED" "$changes,prob=0.0005,crash,seed=$SEED"; do
	what=${rules#*prob}
	check "standby with faults ($what) comes up" run beta --fault "$rules"
	wait_for 5 level alpha beta	# if it lives so long
	check "the applications notice nothing ($what)" "$TOOLS/model" -r -s "$SEED" -j 4 -t "$seconds" "$(mnt alpha)"
	node_kill beta
	check "the standby returns without faults ($what)" node_start beta
	check "and becomes level ($what)" wait_for 60 level alpha beta
	trees_equal "after the standby's faults ($what)" alpha beta
	[ "$TAP_FAILED" = 0 ] || break
done
tap_end
