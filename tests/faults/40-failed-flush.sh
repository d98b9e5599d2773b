#!/bin/bash
# limit: 120
# A flush that fails on the primary is final: its caller gets the error, nothing is acknowledged after it, status says so; another node is promoted, or this one
# is stopped and starts again, and all become equal.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha) B=$(mnt beta)
node_stop alpha
check "a primary whose 5th flush will fail" node_start alpha --fault "op=fsync,nth=5,error=EIO"
check "it is promoted" wait_for 10 tfs alpha promote
check "level" wait_for 30 level alpha beta
for i in 1 2 3 4; do echo "$i" >"$A/f$i" && sync "$A/f$i"; done
echo 5 >"$A/f5"
check_fails "the caller of the flush gets the error" sync "$A/f5"
frozen() { status alpha '.flags | join(" ")' | grep -qw frozen; }
check "status says that it is frozen" wait_for 5 frozen
is "status --check is critical" "$(tfs alpha status --check >/dev/null 2>&1; echo $?)" 2
echo 6 >"$A/f6"
check_fails "no other flush is acknowledged" sync "$A/f6"
check_fails "it can't hand its role over" tfs alpha demote --force
pid=$(node_pid alpha)
check "umount --force ends it all the same" tfs alpha umount --force
check "the daemon is gone" wait_for 20 gone "$pid"
check "the standby is promoted" tfs beta promote --fenced
for i in 1 2 3 4; do is "what was acknowledged before is there ($i)" "$(cat "$B/f$i")" "$i"; done
check "the old primary comes back" come_back alpha beta
trees_equal "in the end" beta alpha
tap_end
