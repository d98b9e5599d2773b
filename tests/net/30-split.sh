#!/bin/bash
# limit: 300
# Split brain: both sides took changes while the network was gone. Nothing is merged, both say so; the side that is chosen to lose follows, and every version
# that only it had is kept in .tandemfs/lost.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha) B=$(mnt beta)
mkdir "$A/dir"
echo base >"$A/dir/shared"
echo base >"$A/other"
sync
settle alpha beta
link_down beta
dropped() { [ "$(status alpha '.sync_set | join(" ")')" = alpha ]; }
check "alpha goes on alone" wait_for 10 dropped
echo "alpha's version" >"$A/dir/shared"
echo only >"$A/only-alpha"
sync "$A/dir/shared" "$A/only-alpha"
check_fails "beta can't be promoted just so" tfs beta promote
check "it can by force" tfs beta promote --force
echo "beta's version" >"$B/dir/shared"
echo only >"$B/only-beta"
rm "$B/other"
sync "$B/dir/shared" "$B/only-beta"
link_up beta
refused() { [ "$(status "$1" '.peers[0].state')" = refused ]; }
check "both see the split: alpha" wait_for 20 refused alpha
check "both see the split: beta" wait_for 20 refused beta
is "nothing was merged on alpha" "$(cat "$A/dir/shared"; ls "$A")" "alpha's version
dir
only-alpha
other"
is "nothing was merged on beta" "$(cat "$B/dir/shared"; ls "$B")" "beta's version
dir
only-beta"
tfs beta demote --force >/dev/null 2>&1
check "beta is chosen to lose" tfs beta resync --discard-local
check "it becomes level" wait_for 60 level alpha beta
trees_equal "after the split" alpha beta
is "alpha's version won" "$(cat "$B/dir/shared")" "alpha's version"
lost() { grep -rl "$1" "$(back beta)/.tandemfs/lost" 2>/dev/null | wc -l; }
is "beta's version of the shared file is kept" "$(lost "beta's version")" 1
is "what only beta had is kept" "$(lost '^only$')" 1
tap_end
