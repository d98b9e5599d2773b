#!/bin/bash
# limit: 300
# A listing of 10,000 entries that is stopped after every entry goes on from there on the other node; also while entries come and go, and
# after a promotion: none missed, none doubled.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha)/big B=$(mnt beta)/big
DW=$TOOLS/dirwalk
entries=${ENTRIES:-10000}
mkdir "$A"
(cd "$A" && seq -f keep%06g "$entries" | xargs touch)
settle alpha beta

check "both nodes list the same names in the same order at the same positions" sh -c "'$DW' list '$A' >'$TMP/a' && '$DW' list '$B' >'$TMP/b' && cmp '$TMP/a' '$TMP/b'"
is "all entries are there" "$(wc -l <"$TMP/a")" $((entries + 2))
check "stopped after each k-th entry of alpha, resumed on beta" "$DW" every "$A" "$B"
check "stopped after each k-th entry of beta, resumed on alpha" "$DW" every "$B" "$A"
for s in 1 2 3; do
	check "a listing that changes nodes with every piece (seed $s)" "$DW" switch -s "$s" "$A" "$B"
	check "the same while names come and go (seed $s)" "$DW" switch -s "$s" -n "$A" "$B"
done
rm -f "$A"/noise*
settle alpha beta

# A listing begun on the primary goes on, after its death, on the promoted standby, where in the meantime names were added and removed.
"$DW" list "$A" >"$TMP/before"
k=$((entries / 3))
position=$(sed -n "${k}p" "$TMP/before" | cut -f2)
head -n "$k" "$TMP/before" | cut -f1 >"$TMP/first"
node_kill alpha
umount -l "$(mnt alpha)"
check "the standby is promoted" tfs beta promote --fenced
(cd "$B" && seq -f added%04g 500 | xargs touch && sed -n "$((k + 1)),$((k + 200))p" "$TMP/before" | cut -f1 | xargs rm)
sed -n "$((k + 1)),$((k + 200))p" "$TMP/before" | cut -f1 >"$TMP/removed"
"$DW" from "$B" "$position" | cut -f1 >"$TMP/rest"
cat "$TMP/first" "$TMP/rest" | grep ^keep | sort >"$TMP/seen"
cut -f1 "$TMP/before" | grep ^keep | grep -vxFf "$TMP/removed" | sort >"$TMP/wanted"
check "after a promotion: none missed, none doubled" cmp "$TMP/seen" "$TMP/wanted"
is "new names come at most once" "$(grep '^added' "$TMP/rest" | sort | uniq -d | wc -l)" 0
tap_end
