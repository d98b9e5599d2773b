#!/bin/bash
# limit: 150
# The index is lost, or can't be believed (another boot): the daemon serves while it is rebuilt, and a handle that nobody looked up before waits
# until it is found. Killed in the middle of that, it walks again. A daemon with few descriptors manages it too.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
LAB_OPTIONS="start_as = last"
LAB_SIZE=1024
lab_or_die one:ext4
M=$(mnt one)
FH=$TOOLS/fhandle
mkdir "$M/many"
(cd "$M/many" && for i in {0..29}; do mkdir "d$i" && (cd "d$i" && seq -f 'file-%g' 400 | xargs touch); done)
deep=$M/many
for i in {1..10}; do deep=$deep/deep$i; mkdir "$deep"; echo "content $i" >"$deep/file"; done
ln "$deep/file" "$M/hard"
ln -s nowhere "$deep/link"
"$FH" dump "$M" >"$TMP/handles"
file=$("$FH" get "$deep/file") dir=$("$FH" get "$deep") gone=$("$FH" get "$M/many/d0/file-1")
rm "$M/many/d0/file-1"
sed -i "/^$gone /d" "$TMP/handles"
sed -i "\\, many/d0\$,d; \\, /many/d0\$,d; \\,/many/d0\$,d" "$TMP/handles"
links() { (cd "$M" && find . -type d -printf '%p %n\n' | sort); }
links >"$TMP/links"

# The marker says: another boot, not closed cleanly.
disbelieve() { printf 'another boot' | dd of="$TMP/one/state/index/valid" bs=1 seek=12 conv=notrunc status=none; }
rebuilds() { grep -c 'it is rebuilt by walking' "$TMP/one/log"; }
right() { # WHAT
	is "$1: a cold file opens by its handle" "$("$FH" open "$M" "$file" | cut -d' ' -f2)" 100644
	is "$1: a cold directory opens by its handle" "$("$FH" open "$M" "$dir" | cut -d' ' -f2)" 40755
	is "$1: a removed file's handle is stale" "$("$FH" open "$M" "$gone")" ESTALE
	check "$1: every handle opens ($(wc -l <"$TMP/handles"))" sh -c "shuf '$TMP/handles' | '$FH' verify '$M'"
	check "$1: directories have their link counts" sh -c "(cd '$M' && find . -type d -printf '%p %n\n' | sort) | diff '$TMP/links' -"
}
start_cold() { echo 3 >/proc/sys/vm/drop_caches; node_start one && wait_for 20 is_primary one; }

node_stop one
disbelieve
check "it starts with an index that can't be believed" start_cold
right "rebuilt"
is "the index was rebuilt" "$(rebuilds)" 1

node_kill one
disbelieve
node_start one &
wait_for 10 eval '[ "$(rebuilds)" = 2 ]'
wait $!
node_kill one
check "killed during the rebuild or just after, it starts" start_cold
right "killed"

node_stop one
rm -rf "$TMP/one/state/index"
check "without an index it starts" start_cold
prlimit --pid "$(node_pid one)" --nofile=200:200
right "few descriptors"
check "all files can be read with few descriptors" sh -c "find '$M' -type f -print0 | xargs -0 cat"
check "and status answers" status one .role
tap_end
