#!/bin/bash
# Ends of a role and of a daemon with an NFS server: files that it keeps open are nobody's open files; calls that wait for a peer which is gone don't hold it up, and what was acknowledged is there afterwards.
. "$(cd "$(dirname "$0")" && pwd)/nfs.sh"
hook=$TMP/fence
cat >"$hook" <<EOF
#!/bin/sh
echo "\$@" >>$TMP/fenced
exit 1
EOF
chmod 755 "$hook"
nfs_options "fence_timeout = 1s"
LAB_OPTIONS=${LAB_OPTIONS/fence_peer = none/fence_peer = $hook}
lab_or_die alpha:ext4 beta:ext4
nfs_client_up || exit 1
asked() { grep -qs "outdate beta" "$TMP/fenced"; }

check "a change is acknowledged" nc alpha create before 644
check "a file is written" nc alpha write before 0 unstable x
is "the server keeps it open" "$(status alpha .nfs.files)" 1
check "which does not hold a demote up" tfs alpha demote
is "changes are refused then" "$(nc alpha create refused 644)" ROFS
check "it is promoted again" wait_for 30 tfs alpha promote
check "and level" wait_for 30 level alpha beta
check "changes go on" nc alpha create after 644
link_down beta
(nc alpha create waits 644 >/dev/null 2>&1 && touch "$TMP/acknowledged") &
client=$!
check "the standby is lost, and can't be fenced" wait_for 20 asked
check_fails "so a change waits" test -e "$TMP/acknowledged"
check "reading does not" nc alpha stat before
pid=$(node_pid alpha)
tfs alpha umount >/dev/null
check "the daemon can be stopped nevertheless" wait_for 60 gone "$pid"
check_fails "the change was not acknowledged by that" test -e "$TMP/acknowledged"
kill "$client" 2>/dev/null
wait "$client"
link_up beta
check "it starts again" node_start alpha
check "what was acknowledged is there" nc alpha stat before
tap_end
