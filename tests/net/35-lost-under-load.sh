#!/bin/bash
# limit: 200
# The losing side's versions are kept whole, also of files that the winner writes to, truncates, replaces and removes while the comparison is on.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha) B=$(mnt beta)
FILES=$(short_or_long 300 3000)
for i in $(seq "$FILES"); do echo "common $i" >"$A/f$i"; done
settle alpha beta
node_kill beta
for i in $(seq "$FILES"); do echo "only alpha had this $i" >"$A/f$i"; done
sync -f "$A"
node_kill alpha
node_start beta
check "the other side is forced" tfs beta promote --force
for i in $(seq "$FILES"); do echo "beta went on $i" >>"$B/f$i"; done
(
	while [ ! -e "$TMP/enough" ]; do
		for i in $(seq "$FILES"); do
			case $((i % 5)) in
			0) echo "again $RANDOM" >>"$B/f$i" ;;
			1) echo "new $RANDOM" >"$B/f$i" ;;
			2) echo "replaced" >"$B/tmp" && mv "$B/tmp" "$B/f$i" ;;
			3) rm -f "$B/f$i" ;;
			4) truncate -s 3 "$B/f$i" ;;
			esac
		done
	done
) 2>/dev/null &
load=$!
check "the node that shall lose starts" node_start alpha
refusing() { [ "$(status alpha '.peers[0].state')" = refused ]; }
check "split brain: neither follows" wait_for 10 refusing
check "a person chooses" tfs alpha resync --discard-local
check "it becomes level under load" wait_for 90 level beta alpha
touch "$TMP/enough"
wait "$load"
trees_equal "after the load" beta alpha
lost() { grep -raho "only alpha had this [0-9]*" "$(back alpha)/.tandemfs/lost" | sort -u | wc -l; }
is "every version that only the loser had is in lost" "$(lost)" "$FILES"
tap_end
