#!/bin/bash
# limit: 120
# A killed primary comes back as a standby, and then all are stopped in order: the last primary stays the one that may be promoted.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha)
echo one >"$A/f" && sync "$A/f"
node_kill alpha
umount -l "$A"
check "the killed primary starts" node_start alpha
both() { [ "$(status alpha '.peers[0].connected')" = true ] && [ "$(status beta '.peers[0].connected')" = true ]; }
check "they hear each other" wait_for 20 both
check "the standby stops" node_stop beta
check "the last primary stops" node_stop alpha
check "the last primary starts again" node_start alpha
if tfs alpha promote >"$TMP/out" 2>&1; then not_ok "it waits for the other" "$(cat "$TMP/out")"; else ok "it waits for the other"; fi
check "the standby starts again" node_start beta
check "they hear each other again" wait_for 20 both
if tfs beta promote --fenced >"$TMP/out" 2>&1; then not_ok "the standby is not promoted" "$(cat "$TMP/out")"; else ok "the standby is not promoted"; fi
check "the last primary is, without force" tfs alpha promote
check "the standby becomes level" wait_for 30 level alpha beta
trees_equal "in the end" alpha beta
tap_end
