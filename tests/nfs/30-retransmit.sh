#!/bin/bash
# limit: 600
# asan
# Calls that must not be made twice, sent again with the same bytes from another port, also while the first is under way: the first answer, byte by byte, and nothing happens; on the
# same node, by a standby that was promoted when the primary was killed, by the old primary that came back, by a primary whose daemon was restarted, after a
# switchover, and by a node whose daemon was restarted while it was a standby.
. "$(cd "$(dirname "$0")" && pwd)/nfs.sh"
nfs_options "start_as = last"
RAW=$TOOLS/nfsraw
N=$(short_or_long 400 3000)

raw() { # NODE ARG…
	local n=$1
	shift
	in_client timeout 120 "$RAW" "$(address "$n")" 2049 / "$@"
}
# What clients can see of the volume, but for atimes.
picture() { (cd "$(mnt "$1")" && find . -printf '%p %y %i %n %m %U %G %s %T@ %C@ %l\n' | sort && find . -type f -exec md5sum {} + | sort); }
# again NAME NODE FILE: the first answers, and nothing changes.
again() {
	local before after
	before=$(picture "$2")
	check "$1: the first answer each time" raw "$2" replay "$3"
	after=$(picture "$2")
	is "$1: nothing is done again" "$(diff <(echo "$before") <(echo "$after"))" ""
}
primary_serves() { is_primary "$1" && nfs_serves "$1"; }

lab_or_die
nfs_client_up
check "the NFS server answers" wait_for 20 nfs_serves alpha

# ---- the same node ----
check "every kind of change, successes and failures" raw alpha record one "$TMP/one"
again "on the same node" alpha "$TMP/one"
check "a retransmission that meets the first one running is answered with it" raw alpha twice twice "$N"

# ---- the primary is killed, the standby promoted ----
check "the same for the promotion" raw alpha record two "$TMP/two"
node_kill alpha
check "beta is promoted" tfs beta promote --fenced
again "by the promoted standby" beta "$TMP/two"
again "by the promoted standby, once more" beta "$TMP/one"

# ---- the old primary comes back as a standby, level, and takes over ----
check "more changes, while alpha is away" raw beta record three "$TMP/three"
check "alpha comes back and is level" come_back alpha beta
check "the role goes to alpha" tfs beta switchover
check "alpha serves" wait_for 20 primary_serves alpha
again "by the node that was away" alpha "$TMP/three"
again "... of before it was away" alpha "$TMP/two"

# ---- the primary's daemon is killed and restarted: a level standby has everything ----
check "beta is level" wait_for 60 level alpha beta
check "changes for the restart" raw alpha record four "$TMP/four"
node_kill alpha
check "alpha's daemon starts again" node_start alpha
check "... as primary" wait_for 20 primary_serves alpha
again "by the restarted primary" alpha "$TMP/four"
is "it took the state from beta" "$(grep -c 'state of NFS clients was taken from beta' "$TMP/alpha/log")" 1

# ---- a standby's daemon is restarted ----
check "beta is level again" wait_for 60 level alpha beta
check "changes for the restarted standby" raw alpha record five "$TMP/five"
node_kill beta
check "beta's daemon starts again" node_start beta
check "... and is level" wait_for 60 level alpha beta
node_kill alpha
check "the restarted standby is promoted" tfs beta promote --fenced
again "by the restarted standby" beta "$TMP/five"

# ---- answers that were under way when the primary died ----
check "alpha is level again" come_back alpha beta
raw beta storm storm "$TMP/storm" "$N" >"$TMP/storm.out" 2>&1 &
storm=$!
check "a storm of changes is under way" wait_for 100 grep -q "under way" "$TMP/storm.out"
node_kill beta
wait "$storm"
is "all that was answered succeeded" $? 0
check "alpha is promoted" tfs alpha promote --fenced
echo "# $(tail -n 1 "$TMP/storm.out")"
check "all of it, sent again: the first answers, and those that are missing are successes" raw alpha replay "$TMP/storm"
again "once more" alpha "$TMP/storm"
tap_end
