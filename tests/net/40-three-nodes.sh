#!/bin/bash
# limit: 300
# Three nodes: both standbys are equal to the primary; when the primary dies one of them is promoted, the other follows it, and the old primary returns. A switchover is asked of
# any of them, and needs a name; all go on from the handover, nothing is compared.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs gamma:tmpfs
"$TOP/tests/demo/project.sh" "$TMP/project" 30
cp -a "$TMP/project" "$(mnt alpha)/"
check "a build on the primary" make -s -j4 -C "$(mnt alpha)/project"
TREES_HOLES=''
trees_equal "alpha and beta" alpha beta
trees_equal "alpha and gamma" alpha gamma
"$TOOLS/model" -r -s "$SEED" -j 4 -t 30 "$(mnt alpha)" >"$TMP/model.out" 2>&1 &
m=$!
wait_for 2 false
node_kill alpha
wait "$m"
umount -l "$(mnt alpha)"
check "beta is promoted" tfs beta promote --fenced
check "gamma follows it" wait_for 60 level beta gamma
trees_equal "beta and gamma" beta gamma
echo more >"$(mnt beta)/more"
check "alpha returns" come_back alpha beta
trees_equal "beta and alpha" beta alpha
trees_equal "beta and gamma, in the end" beta gamma

switchover() { in_node "$1" timeout 60 "$TANDEMFS" switchover "$VOLUME" "${@:2}"; }
check "gamma is level" wait_for 60 level beta gamma
check_fails "a switchover to nobody in particular" switchover beta
check "alpha is asked to make gamma primary" switchover alpha gamma
check "gamma can be written when that is said" touch "$(mnt gamma)/at-once"
check "alpha follows it" wait_for 60 level gamma alpha
check "beta follows it" wait_for 60 level gamma beta
goes_on() { grep -q "peer: $1: goes on from the handover" "$TMP/gamma/log"; }
check "alpha goes on from the handover" goes_on alpha
check "beta goes on from the handover" goes_on beta
trees_equal "gamma and alpha" gamma alpha
trees_equal "gamma and beta" gamma beta
tap_end
