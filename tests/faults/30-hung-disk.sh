#!/bin/bash
# limit: 180
# A standby whose disk hangs answers heartbeats: it is given up after congestion_timeout, having recorded itself that it is outdated, so no fence and no risk is
# left; when the disk answers again it becomes level by itself. A full queue makes writers wait for a slow standby instead of dropping it.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
export LAB_OPTIONS="queue = 4MiB"
lab_or_die alpha:ext4 beta:ext4
A=$(mnt alpha)
hang() { # OPERATION: it hangs once on the standby
	local worst=0 i t d
	node_stop beta
	check "the standby is restarted with a disk whose $1 will hang once for 12 s" node_start beta --fault "op=$1,nth=20,delay=12s"
	check "level" wait_for 30 level alpha beta
	for i in $(seq 60); do
		t=$(now_ms)
		echo "$i" >"$A/$1$i" && sync "$A/$1$i" || not_ok "a write fails"
		d=$(($(now_ms) - t))
		[ "$d" -le "$worst" ] || worst=$d
	done
	note "the longest write took $worst ms"
	if [ "$worst" -ge 1000 ]; then ok "the hang was met"; else not_ok "the hang was met" "$worst ms"; fi
	if [ "$worst" -lt 11000 ]; then ok "writers did not wait for the disk"; else not_ok "writers did not wait for the disk" "$worst ms"; fi
	is "the primary is alone" "$(status alpha '.sync_set | join(" ")')" alpha
	is "no risk was taken: the standby said itself that it is outdated" "$(status alpha '.risks[] | select(test("unfenced"))')" ""
	check_fails "it refuses promotion" tfs beta promote --fenced
	check "it becomes level when the disk answers" wait_for 60 level alpha beta
	trees_equal "after the hang" alpha beta
}
hang write
hang fsync

node_stop beta
check "the standby is restarted with a slow disk" node_start beta --fault "op=write,delay=3ms"
check "level with it" wait_for 30 level alpha beta
check "32 MiB through a queue of 4 MiB" dd if=/dev/urandom of="$A/big" bs=64k count=512 conv=fsync status=none
check "the slow standby was not dropped" level alpha beta
trees_equal "after congestion" alpha beta
tap_end
