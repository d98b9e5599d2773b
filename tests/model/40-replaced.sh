#!/bin/bash
# asan
# A path that is being replaced or removed while others use it: they get the old object or the new one or, where there is none, ENOENT; as on any local
# file system, never ESTALE. What was removed is not kept longer than the kernel holds it. LONG=1: ten minutes.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
mkdir "$(mnt alpha)/d"
check "nobody meets a stale object" "$TOOLS/replaced" -t "$(short_or_long 10 600)" "$(mnt alpha)/d"
removed_open() { find "/proc/$(node_pid alpha)/fd" -lname '* (deleted)' | wc -l; }
none_open() { [ "$(removed_open)" = 0 ]; }
check "no removed object stays open" wait_for 20 none_open
trees_equal "afterwards" alpha beta
tap_end
