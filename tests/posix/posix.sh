#!/bin/bash
# posix.sh FS1 FS2: the POSIX suite, natively on FS1 and through the mount of a primary on FS1 with a standby on FS2; then both nodes must be equal.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_extra_cleanup() { umount -l "$TMP/native"; }
lab_or_die "alpha:$1" "beta:$2"
make_fs "$1" "$IMAGES/native.img" "$TMP/native" 400
chmod 755 "$TMP/native"
mkdir "$TMP/native/posix" "$(mnt alpha)/posix"
tap_from "$TOOLS/posix" "$TMP/native/posix" "$(mnt alpha)/posix"
trees_equal "after the suite" alpha beta
tap_end
