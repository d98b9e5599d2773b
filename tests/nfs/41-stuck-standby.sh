#!/bin/bash
# A standby that is gone and can't be fenced: a hundred changes wait, more than there are threads, from one client and from another. Reading goes on, of the very files, for old and new
# clients; the daemon can be asked; and it stops.
. "$(cd "$(dirname "$0")" && pwd)/nfs.sh"
hook=$TMP/fence
printf '#!/bin/sh\necho "$@" >>%s/fenced\nexit 1\n' "$TMP" >"$hook"
chmod 755 "$hook"
nfs_options "fence_timeout = 1s"
LAB_OPTIONS=${LAB_OPTIONS/fence_peer = none/fence_peer = $hook}
lab_or_die alpha:ext4 beta:ext4
nfs_client_up || exit 1
asked() { grep -qs "outdate beta" "$TMP/fenced"; }
check "a file and a lock" eval 'nc alpha create before 666 && nc alpha lock before 0 10 x 1'
link_down beta
clients=()
for i in $(seq 100); do
	case $((i % 5)) in
	0) set -- create "waits$i" 644 ;;
	1) set -- write before "$i" file text ;;
	2) set -- setattr before mode=66$((i % 7)) ;;
	3) set -- lock before $((100 + i)) 1 x "$i" ;;
	4) set -- mkdir "dir$i" 755 ;;
	esac
	NC_LIMIT=200 nc alpha "$@" >/dev/null 2>&1 &
	clients+=($!)
done
check "the standby is lost, and can't be fenced" wait_for 30 asked
under_way() { [ "$(status alpha '.nfs.connections')" -ge 100 ]; }
check "a hundred changes wait" wait_for 60 under_way
export NC_LIMIT=20
check "the file's attributes" nc alpha stat before
check "its contents" eval "nc alpha cat before >/dev/null"
check "the directory" nc alpha lsplus ''
check "a lock can be asked about" eval 'nc alpha testlock before 0 10 x 7; [ $? -le 1 ]'
check "a mount" nc alpha exports
check "the daemon can be asked" status alpha .role
check "the mount can be read" timeout 20 ls "$(mnt alpha)"
pid=$(node_pid alpha)
TFS_LIMIT=20 tfs alpha umount >/dev/null
check "it can be stopped" wait_for 60 gone "$pid"
kill "${clients[@]}" 2>/dev/null
wait "${clients[@]}" 2>/dev/null
link_up beta
check "it starts again" node_start alpha
check "what was acknowledged is there" nc alpha stat before
tap_end
