#!/bin/bash
# Marks that were copied: an existing tree, already marked once (a backup that kept trusted xattrs), and copies made below an unmounted volume. The original keeps
# its handle, the copies get their own.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
LAB_OPTIONS="start_as = last"
lab alpha:ext4 || { not_ok "the node is made"; tap_end; exit 1; }
D=$(back alpha) M=$(mnt alpha)
mkdir "$D/dir"
echo one >"$D/dir/a"
echo two >"$D/b"
ln "$D/b" "$D/b2"
check "init adopts an existing tree" tfs alpha init
check "it mounts" node_start alpha
check "and is promoted" tfs alpha promote
is "what was there is there" "$(cat "$M/dir/a" "$M/b" "$M/b2")" "one
two
two"
h=$("$TOOLS/fhandle" get "$M/b")
is "hard links are one object" "$("$TOOLS/fhandle" get "$M/b2")" "$h"
check "it is unmounted" node_stop alpha
cp -a "$D/b" "$D/copy"
cp -a "$D/dir" "$D/dircopy"
check "it mounts again with copied files below it" node_start alpha
check "and resumes as primary" wait_for 20 is_primary alpha
is "the original keeps its handle" "$("$TOOLS/fhandle" get "$M/b")" "$h"
check "the copy has another" test "$("$TOOLS/fhandle" get "$M/copy")" != "$h"
check "a copied directory has another" test "$("$TOOLS/fhandle" get "$M/dircopy")" != "$("$TOOLS/fhandle" get "$M/dir")"
is "the copy can be read" "$(cat "$M/copy" "$M/dircopy/a")" "two
one"
ino() { stat -c %i "$1"; }
check "inode numbers are different too" test "$(ino "$M/copy")" != "$(ino "$M/b")"
tap_end
