#!/bin/bash
# A volume mounted as fuseblk: the device below both mounts carries the volume's UUID, a killed node mounts again, and no loop device is left behind.
. "$(dirname "$0")/../lib.sh"
LAB_OPTIONS="mount_as = fuseblk"
lab_or_die
UUID=$(status alpha .uuid)
device() { awk -v m="$(mnt "$1")" '$2 == m && $3 == "fuseblk.tandemfs" { print $1 }' /proc/mounts; }
detached() { ! losetup -n -O BACK-FILE -l | grep -q "$TMP/.*/identity.img"; }

for n in alpha beta; do
	check "$n: the device has the volume's UUID" [ "$(blkid -p -s UUID -o value "$(device $n)" | tr -d -)" = "${UUID//-/}" ]
done
mkdir "$(mnt alpha)/d" && echo data >"$(mnt alpha)/d/f"
trees_equal "fuseblk" alpha beta
check "killed" node_kill alpha
check "a killed node mounts again" node_start alpha
check "alpha stops" node_stop alpha
check "beta stops" node_stop beta
check "the loop devices are gone" wait_for 10 detached
tap_end
