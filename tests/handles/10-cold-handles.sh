#!/bin/bash
# limit: 200
# Handles opened by a process that never looked up the path: byte-identical on both nodes, good after a restart of both daemons and with cold
# caches, after a rename and after a promotion; stale, unknown and copied ones are told apart.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
LAB_OPTIONS="start_as = last"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha) B=$(mnt beta)
FH=$TOOLS/fhandle

deep=$A
for i in $(seq 12); do deep=$deep/dir$i; mkdir "$deep"; echo "content $i" >"$deep/file"; done
mkdir "$A/many"
for i in $(seq 300); do echo "$i" >"$A/many/f$i"; done
ln -s some/target "$A/link"
ln -s ../far "$deep/link"
mkfifo "$A/fifo" "$deep/fifo"
ln "$A/many/f1" "$A/hard"
mknod "$A/null" c 1 3
settle alpha beta

"$FH" dump "$A" >"$TMP/handles.a"
"$FH" dump "$B" >"$TMP/handles.b"
sort "$TMP/handles.a" >"$TMP/sorted.a"
sort "$TMP/handles.b" >"$TMP/sorted.b"
check "handles, inode numbers and contents are the same bytes on both nodes ($(wc -l <"$TMP/handles.a") objects)" cmp "$TMP/sorted.a" "$TMP/sorted.b"

cold() { sync -f "$(back "$1")"; echo 3 >/proc/sys/vm/drop_caches; }
restart() { node_stop "$1" && cold "$1" && node_start "$1"; }
check "the standby restarts" restart beta
check "the primary restarts" restart alpha
check "and resumes as primary" wait_for 20 is_primary alpha
check "with a level standby" wait_for 30 level alpha beta
for n in alpha beta; do
	echo 3 >/proc/sys/vm/drop_caches
	check "after restarts, with cold caches, every handle opens on $n" sh -c "shuf '$TMP/handles.a' | '$FH' verify '$(mnt "$n")'"
done

handle_of() { "$FH" get "$1"; }
moved=$(handle_of "$A/many/f7") dir=$(handle_of "$A/dir1/dir2") removed=$(handle_of "$A/many/f8") hard=$(handle_of "$A/hard")
is "a hard link has the object's handle" "$hard" "$(handle_of "$A/many/f1")"
mkdir "$A/elsewhere"
mv "$A/many/f7" "$A/elsewhere/renamed"
mv "$A/dir1/dir2" "$A/elsewhere/dir"
rm "$A/many/f8"
cp -a "$A/many/f9" "$A/copy"
mv "$A/hard" "$A/hard2"
settle alpha beta
is "a rename keeps the handle" "$(handle_of "$A/elsewhere/renamed")" "$moved"
is "a directory's rename keeps the handle" "$(handle_of "$A/elsewhere/dir")" "$dir"
check "a copy has a handle of its own" test "$(handle_of "$A/copy")" != "$(handle_of "$A/many/f9")"
for n in alpha beta; do
	M=$(mnt "$n")
	echo 3 >/proc/sys/vm/drop_caches
	is "the renamed file opens on $n by its old handle" "$("$FH" open "$M" "$moved" | cut -d' ' -f2-)" "100644 2"
	is "the renamed directory opens on $n" "$("$FH" open "$M" "$dir" | cut -d' ' -f2)" 40755
	is "a removed file's handle is stale on $n" "$("$FH" open "$M" "$removed")" ESTALE
	is "an id that never was is stale on $n" "$("$FH" open "$M" 81:ffffff7f0100000001000000)" ESTALE
	gen=${moved%????????}eeeeeeee
	is "a wrong generation is stale on $n" "$("$FH" open "$M" "$gen")" ESTALE
done

"$FH" dump "$A" >"$TMP/handles.a"
node_kill alpha
umount -l "$A"
check "the standby is promoted" tfs beta promote --fenced
echo 3 >/proc/sys/vm/drop_caches
check "every handle given out by the old primary opens on the new one" sh -c "shuf '$TMP/handles.a' | '$FH' verify '$B'"
echo new >"$B/made-by-beta"
fresh=$(handle_of "$B/made-by-beta")
check "the new primary gives out handles of its own" sh -c "! grep -q '^$fresh ' '$TMP/handles.a'"
check "the old primary returns" come_back alpha beta
trees_equal "after the return" beta alpha
is "the new handle opens on the node that returned" "$("$FH" open "$A" "$fresh" | cut -d' ' -f2-)" "100644 4"
tap_end
