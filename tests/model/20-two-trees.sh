#!/bin/bash
# asan
# limit: 400
# Random operations from several threads on the mount and on a plain directory: the same results, the same tree; the standby is equal after
# it has drained. LONG=1: an hour.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_extra_cleanup() { umount -l "$TMP/native"; }
lab_or_die alpha:ext4 beta:xfs
make_fs ext4 "$IMAGES/native.img" "$TMP/native" 512
seconds=$(short_or_long 30 3600)
mkdir "$(mnt alpha)/m" "$TMP/native/m"
note "seed $SEED"
check "every operation has the same result (seed $SEED)" "$TOOLS/model" -s "$SEED" -j 4 -t "$seconds" "$(mnt alpha)/m" "$TMP/native/m"
check "the trees are equal" "$TOOLS/cmptree" --no-times --limit 20 "$(mnt alpha)/m" "$TMP/native/m"
trees_equal "after the operations" alpha beta
tap_end
