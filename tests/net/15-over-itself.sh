#!/bin/bash
# limit: 120
# A volume mounted over its own backing directory, the default: the daemon works below its own mount.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab alpha:ext4 beta:xfs
for n in alpha beta; do
	sed -i "s|^mount_point = .*|mount_point = $(back $n)|" "$TMP/$n/etc/$VOLUME.conf"
	rmdir "$(mnt $n)"
	ln -s "$(back $n)" "$(mnt $n)"
done
lab_extra_cleanup() { umount -l "$(back alpha)" "$(back beta)"; }
mounted() { grep -q " $(back "$1") fuse" /proc/self/mounts; }
echo there >"$(back alpha)/before"
lab_up && ok "the nodes are up and level" || not_ok "the nodes are up and level" "$(tail -n 10 "$TMP"/*/log)"
A=$(back alpha) B=$(back beta)
is "what was there is seen on the other node" "$(cat "$B/before")" there
"$TOP/tests/demo/project.sh" "$A/project" 20
check "a build" make -s -j4 -C "$A/project"
settle alpha beta
check "the mounts are equal" "$TOOLS/cmptree" --ino --ctime --order "$A/" "$B/"
check "unmount" node_stop alpha
is "then the plain files are there" "$(cat "$A/before")" there
check "and can be mounted again" node_start alpha
is "with everything" "$(cat "$A/before")" there
tap_end
