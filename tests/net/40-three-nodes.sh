#!/bin/bash
# limit: 300
# Three nodes: both standbys are equal to the primary; when the primary dies one of them is promoted, the other follows it, and the old primary returns.
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
tap_end
